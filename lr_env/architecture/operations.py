"""What the operations of torch are in an architecture, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from lr_env.architecture.kinds import ACTIVATIONS

MULTIPLY = (
    *("linear", "bilinear", "matmul", "mm", "bmm", "mv", "addmm", "addbmm"),
    *("baddbmm", "addmv", "einsum", "tensordot"),
)
"""Matrix products: a linear layer where one factor is a weight."""

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")

ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "multi_head_attention", "flex_attention")

NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm")

FRESH = frozenset(
    f"{name}{end}"
    for end in ("_like", "")
    for name in ("zeros", "ones", "empty", "full", "rand", "randn", "randint", "new_zeros", "new_ones", "new_empty")
) | {"new_full", "new_tensor", "arange", "linspace", "tensor", "eye", "bernoulli", "size", "stride"}
"""Operations whose result does not depend on the values of a tensor that they are given."""

TESTS = {"bool": True, "is_nonzero": True, "item": None, "int": 1, "float": 1.0, "index": 1, "equal": True}
"""Conversions of tensors to plain values -> the value assumed, since there are no values; None: by the dtype."""

_OPERATOR = re.compile(r"__[ir]?(add|sub|mul|truediv|div|pow|matmul|and|or|xor)__")


def operation_name(function: Callable[..., Any]) -> str:
    """Return the name of a function or method of torch, the same for all of its forms, e.g. "add" for `__iadd__`."""
    name = getattr(function, "__name__", type(function).__name__)
    if operator := _OPERATOR.fullmatch(name):
        return operator[1]
    return name.partition(".")[0].strip("_").removeprefix("native_")


def kind_of(operation: str, weighted: bool) -> str:
    """Return the kind of node that an operation is; "" for one that is no layer.

    Args:
        operation: its name.
        weighted: whether it uses weights.
    """
    if operation in NORMS:
        return "norm"
    if operation in ATTENTION:
        return "attention"
    if not weighted:
        return ""
    if operation.startswith("conv"):
        return "conv"
    if operation.startswith("embedding"):
        return "embedding"
    return "linear" if operation in MULTIPLY else "other"


def activation_of(operation: str) -> str:
    """Return the activation that an operation is; "" for another."""
    return operation if operation in ACTIVATIONS else ""


def pooling_of(operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return "max" or "mean" for an operation that pools positions or features; "" for another."""
    if "pool" in operation:
        return "max" if "max" in operation else "mean"
    kept = kwargs.get("keepdim", args[2] if len(args) > 2 else False)  # then it is part of a formula, e.g. of a norm
    if operation in ("mean", "amax") and (len(args) > 1 or "dim" in kwargs) and not kept:
        return "mean" if operation == "mean" else "max"
    return ""


def dropout_of(operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """Return the probability of dropping of an operation; 0 for one that drops nothing."""
    if operation in RECURRENT and len(args) > 5:
        p = args[5]
    elif "dropout" in operation:
        p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    else:
        p = kwargs.get("dropout_p", 0.0)
    return float(p) if isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 else 0.0


def tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results: in lists, tuples, dicts and the attributes of other objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part, depth + 1)
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from tensors(part, depth + 1)
    elif depth < 3 and hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        yield from tensors(vars(value), depth + 1)

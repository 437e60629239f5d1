"""Records which operation of a forward pass uses whose results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lr_env.architecture.operations import (
    ATTENTION,
    FRESH,
    MULTIPLY,
    TESTS,
    activation_of,
    dropout_of,
    kind_of,
    operation_name,
    pooling_of,
    tensors,
)

_MOST_ASSUMED = 1000
"""Values that are assumed in one forward pass before it is given up: a loop that waits for another value has no end."""

_MOST_OPERATIONS = 200_000


@dataclass
class Operation:
    """An operation of the forward pass.

    Attributes:
        kind: see `operations.kind_of`; "input", "output", or "" for what has no node of its own unless it is a join.
        sources: numbers of the operations whose results it uses.
        weights: numbers of the weights that it uses.
        shape: shape of its (first) result.
        multiply_adds: for the whole batch.
        softmaxed: whether its result is a softmax, up to reshaping and dropout.
    """

    kind: str
    operation: str
    name: str = ""
    sources: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    multiply_adds: float = 0
    activation: str = ""
    pooling: str = ""
    dropout: float = 0.0
    softmaxed: bool = False


@dataclass
class _Origin:
    """Where a tensor comes from: operations on the network's inputs, or weights alone."""

    sources: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()


class StoppedIn(Exception):  # noqa: N818 (it is control flow)
    """A forward pass failed. The arguments are the innermost module that was running, and the reason."""


class _Products(TorchDispatchMode):
    """Counts multiply-adds with torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=out) / 2
        return out


class Recorder(TorchFunctionMode):
    """Records the operations of one forward pass.

    Args:
        names: id of a module -> its path.
        weights: id of a weight -> its number.
        leaves: ids of the modules that are one operation each.
        assumed: what a test of a tensor's values is taken to give.

    Attributes:
        operations: in the order in which they ran.
        assumptions: number of tests of values.
    """

    def __init__(
        self, names: Mapping[int, str], weights: Mapping[int, int], leaves: frozenset[int], assumed: bool
    ) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.assumptions = 0
        self._names, self._weights, self._leaves, self._assumed = names, weights, leaves, assumed
        self._origins: dict[int, tuple[Tensor, _Origin]] = {}  # with the tensor, whose id must not be used again
        self._running: list[nn.Module] = []
        self._products = _Products()
        self._in_leaf = False

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Run a module whose parts call `call`, and record its inputs and its output, too.

        Raises:
            StoppedIn: it failed.
        """
        for tensor in tensors((args, kwargs)):
            shape = tuple(tensor.shape)
            if not tensor.is_floating_point() and tensor.dim() < 4:
                shape = (*shape, 1)  # a token is one number at each position
            self._record(Operation("input", "input", shape=shape), [tensor])
        with self._products, self:
            result = module(*args, **kwargs)
        sources, weights = self._used(tensors(result))
        if not sources:
            raise StoppedIn(module, "its output does not depend on its inputs")
        shape = next((tuple(tensor.shape) for tensor in tensors(result)), ())
        self._record(Operation("output", "output", "", sources, weights, shape), [])

    def call(self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of a part.

        Raises:
            StoppedIn: it failed.
        """
        if self._in_leaf:
            return forward(*args, **kwargs)
        self._running.append(module)
        try:
            if id(module) in self._leaves or isinstance(module, torch.jit.ScriptModule):
                return self._leaf(module, forward, args, kwargs)
            return forward(*args, **kwargs)
        except StoppedIn:
            raise
        except Exception as error:  # whatever the code of a network may raise
            raise StoppedIn(module, f"{type(error).__name__}: {error}") from error
        finally:
            self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        operation = operation_name(func)
        if self._in_leaf:
            return func(*args, **kwargs)
        if operation in TESTS:
            return self._assume(operation, args[0])
        before = self._products.count
        result = func(*args, **kwargs)
        if operation not in FRESH:
            self._note(operation, args, kwargs, result, self._products.count - before)
        return result

    def _leaf(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a part as one operation; where it cannot run, its result is assumed to have the shape of its input."""
        before = self._products.count
        self._in_leaf = True
        try:
            result = forward(*args, **kwargs)
        except Exception:  # it failed before: that is why it is a leaf
            like = next((tensor for tensor in tensors((args, kwargs)) if tensor.is_floating_point()), None)
            if like is None:
                raise
            result = torch.empty_like(like)
        finally:
            self._in_leaf = False
        sources, weights = self._used(tensors((args, kwargs)))
        weights = tuple(dict.fromkeys([*weights, *(self._weights[id(w)] for w in module.parameters())]))
        outs = list(tensors(result))
        made = Operation("other" if weights else "", "module", self._path(), sources, weights)
        made.shape = tuple(outs[0].shape) if outs else ()
        made.multiply_adds = self._products.count - before
        self._record(made, outs)
        return result

    def _note(self, operation: str, args: Any, kwargs: Any, result: Any, multiply_adds: float) -> None:
        """Record an operation, if it works on what comes from the inputs, or is a layer."""
        if operation == "setitem":
            result = args[0]
        # Masks tell where features are, and carry none.
        outs = [tensor for tensor in tensors(result) if tensor.dtype != torch.bool]
        if not outs:
            return
        sources, weights = self._used(tensors((args, kwargs)))
        kind = kind_of(operation, bool(weights))
        if not sources and not (kind == "embedding" and weights):  # of constants, or of weights, e.g. their norm
            if weights:
                self._set(outs, _Origin((), weights))
            return
        if operation == "multi_head_attention_forward":
            self._note_attention(sources, weights, args, kwargs, outs, multiply_adds)
            return
        if kind == "other" and self._running and "norm" in type(self._running[-1]).__name__.lower():
            kind = "norm"  # spelled out, e.g. an RMS norm
        softmaxed = operation == "softmax" or (
            operation not in MULTIPLY and not kind and any(self.operations[source].softmaxed for source in sources)
        )
        if operation in MULTIPLY and not weights and any(self.operations[source].softmaxed for source in sources):
            kind = "attention"  # spelled out
        made = Operation(kind, operation, self._path(), sources, weights, tuple(outs[0].shape), multiply_adds)
        made.activation = activation_of(operation)
        made.pooling = pooling_of(operation, args, kwargs)
        made.dropout = dropout_of(operation, args, kwargs)
        made.softmaxed = softmaxed
        self._record(made, outs)

    def _note_attention(
        self, sources: Any, weights: Any, args: Any, kwargs: Any, outs: list[Tensor], multiply_adds: float
    ) -> None:
        """Record `nn.MultiheadAttention`, which torch computes in one, as the three layers that it is."""
        given = inspect.signature(nn.functional.multi_head_attention_forward).bind(*args, **kwargs).arguments
        query, width = given["query"], int(given["embed_dim_to_check"])
        places = query.numel() // width
        after = (given["out_proj_weight"], given["out_proj_bias"])
        last = tuple(self._weights[id(weight)] for weight in after if id(weight) in self._weights)
        first = tuple(w for w in weights if w not in last)
        into = (places + sum(given[part].numel() // given[part].shape[-1] for part in ("key", "value"))) * width**2
        path = self._path()
        shape = tuple(query.shape)
        dropout = dropout_of("attention", (), given)
        wide = (*shape[:-1], 3 * width)
        self._record(Operation("linear", "linear", path, sources, first, wide, into), [])
        between = max(multiply_adds - into - places * width**2, 0)
        attention = Operation("attention", ATTENTION[0], path, (len(self.operations) - 1,), (), shape, between)
        attention.dropout = dropout
        self._record(attention, [])
        out = Operation("linear", "linear", path, (len(self.operations) - 1,), last, shape, places * width**2)
        self._record(out, outs)

    def _assume(self, operation: str, tensor: Any) -> Any:
        """Return a plain value in place of one that a tensor does not have.

        Raises:
            RuntimeError: too many were asked for.
        """
        self.assumptions += 1
        if self.assumptions > _MOST_ASSUMED:
            raise RuntimeError("it asks for the values of tensors again and again")
        value = TESTS[operation]
        if value is None:
            floating = isinstance(tensor, Tensor) and tensor.is_floating_point()
            value = True if isinstance(tensor, Tensor) and tensor.dtype == torch.bool else 1.0 if floating else 1
        return type(value)(value if self._assumed else 0)

    def _used(self, values: Iterator[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Operations and weights behind some tensors, each once."""
        sources: dict[int, None] = {}
        weights: dict[int, None] = {}
        for tensor in values:
            if id(tensor) in self._weights:
                weights[self._weights[id(tensor)]] = None
            elif id(tensor) in self._origins:
                origin = self._origins[id(tensor)][1]
                sources.update(dict.fromkeys(origin.sources))
                weights.update(dict.fromkeys(origin.weights))
        return tuple(sources), tuple(weights)

    def _record(self, operation: Operation, results: list[Tensor]) -> None:
        if len(self.operations) >= _MOST_OPERATIONS:
            raise RuntimeError("it has too many operations")
        self.operations.append(operation)
        self._set(results, _Origin((len(self.operations) - 1,)))

    def _set(self, results: list[Tensor], origin: _Origin) -> None:
        for tensor in results:
            if id(tensor) not in self._weights:
                self._origins[id(tensor)] = tensor, origin

    def _path(self) -> str:
        return self._names.get(id(self._running[-1]), "") if self._running else ""

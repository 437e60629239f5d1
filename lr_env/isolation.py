"""Computing as if nobody had changed torch's or numpy's settings: the caller's are set aside, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

P = ParamSpec("P")
R = TypeVar("R")

_ERRORS: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""numpy's error state as it is when a process starts."""


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, torch and numpy compute by their defaults; afterwards the caller's settings are what they were.

    Set aside are torch's grad and inference mode, autocast, default dtype, default device and other function modes,
    anomaly detection, hooks on saved tensors, reduced precision of matrix products and convolutions on CPUs, and
    numpy's error state. What is at its default already costs nothing but a look.
    """
    with ExitStack() as stack:
        for other in _settings():
            stack.enter_context(other)
        yield


def isolating(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes inside `isolated`."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with isolated():
            return function(*args, **kwargs)

    return inside


def _settings() -> Iterator[AbstractContextManager[object]]:
    """A context for every setting that is not at its default, as they are entered one after the other."""
    # First of all, since a mode would see what follows.
    if torch._C._len_torch_function_stack():
        yield _no_function_modes()
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    if not torch.is_grad_enabled():
        yield torch.enable_grad()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            yield torch.autocast(device, enabled=False)
    if torch.is_anomaly_enabled():
        yield torch.autograd.set_detect_anomaly(False)
    if torch.get_default_dtype() != torch.float32:
        yield _set_for_now(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    if cast("Any", torch._C)._autograd._top_saved_tensors_default_hooks(True) is not None:
        yield saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    for part in ("matmul", "conv", "rnn"):
        if torch._C._get_fp32_precision_getter("mkldnn", part) not in ("none", "ieee"):
            yield _exact(part)
    if np.geterr() != _ERRORS:
        yield np.errstate(**_ERRORS)


@contextmanager
def _no_function_modes() -> Iterator[None]:
    """Inside, there are no modes that see torch's functions, such as a default device."""
    modes = []
    while torch._C._len_torch_function_stack():
        modes.append(torch._C._pop_torch_function_stack())
    try:
        yield
    finally:
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)


@contextmanager
def _set_for_now(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def _exact(part: str) -> AbstractContextManager[None]:
    """Inside, oneDNN computes that kind of operation in float32."""
    switch = getattr(cast("Any", torch.backends).mkldnn, part)
    return _set_for_now(lambda: switch.fp32_precision, lambda value: setattr(switch, "fp32_precision", value), "ieee")

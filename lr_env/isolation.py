"""Computing as if nobody had changed torch's or numpy's settings: the caller's are set aside, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_AUTOGRAD: Any = cast("Any", torch._C)._autograd

_ATTENTION = (
    torch._C._get_math_sdp_enabled,
    torch._C._get_flash_sdp_enabled,
    torch._C._get_mem_efficient_sdp_enabled,
    torch._C._get_cudnn_sdp_enabled,
)
_KERNELS = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)

P = ParamSpec("P")
R = TypeVar("R")

_ERRORS: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""numpy's error state as it is when a process starts."""


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, torch and numpy compute by their defaults; afterwards the caller's settings are what they were.

    Set aside are torch's grad and inference mode, autocast, default dtype, default device and other function modes,
    anomaly detection, hooks on saved tensors, deterministic algorithms, kernels that are switched off, reduced
    precision of matrix products and convolutions on CPUs, and numpy's error state. What is at its default already costs
    nothing but a look.
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
        yield _emptied(
            torch._C._len_torch_function_stack,
            torch._C._pop_torch_function_stack,
            torch._C._push_on_torch_function_stack,
        )
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
    if _hooks() is not None:
        yield _emptied(_hooks, _pop_hooks, lambda hooks: _AUTOGRAD._push_saved_tensors_default_hooks(*hooks))
    for part in ("matmul", "conv", "rnn"):
        if torch._C._get_fp32_precision_getter("mkldnn", part) not in ("none", "ieee"):
            yield _exact(part)
    if not torch._C._get_mkldnn_enabled():
        yield _set_for_now(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, True)
    if torch.are_deterministic_algorithms_enabled():
        yield _set_for_now(
            _determinism, lambda how: torch.use_deterministic_algorithms(how[0], warn_only=how[1]), (False,) * 2
        )
    if not all(enabled() for enabled in _ATTENTION):
        yield sdpa_kernel([*_KERNELS])
    if np.geterr() != _ERRORS:
        yield np.errstate(**_ERRORS)


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _hooks() -> Any:
    """The innermost hooks on saved tensors; None where there are none."""
    return _AUTOGRAD._top_saved_tensors_default_hooks(True)


def _pop_hooks() -> Any:
    hooks = _hooks()
    _AUTOGRAD._pop_saved_tensors_default_hooks()
    return hooks


@contextmanager
def _emptied(look: Callable[[], Any], pop: Callable[[], Any], push: Callable[[Any], object]) -> Iterator[None]:
    """Inside, one of torch's stacks is empty.

    Args:
        look: true where there is something in it.
        pop: takes out what was put in last.
        push: puts in again what `pop` took out.
    """
    taken = []
    while look():
        taken.append(pop())
    try:
        yield
    finally:
        for one in reversed(taken):
            push(one)


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

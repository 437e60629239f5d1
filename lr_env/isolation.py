"""Isolation from the caller's settings of torch and numpy: computations use the defaults, and then restore them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

P = ParamSpec("P")
R = TypeVar("R")

_C: Any = torch._C

_ERRORS: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""numpy's error state at the start of a process."""

_SMALLEST = sys.float_info.min

_ATTENTION = {
    SDPBackend.MATH: _C._get_math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: _C._get_flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: _C._get_mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: _C._get_cudnn_sdp_enabled,
}
"""Attention kernel -> function that returns whether it is enabled."""


class isolated(AbstractContextManager[None]):  # noqa: N801 (a context, as torch's are)
    """A context in which torch and numpy have their default settings. Afterwards the caller's settings are restored.

    The settings are torch's grad and inference mode, autocast, default dtype, default device and other function modes,
    anomaly detection, hooks on saved tensors, deterministic algorithms, disabled kernels, reduced precision of matrix
    products and convolutions on CPUs, flushing of denormal numbers, and numpy's error state. A setting that has its
    default already costs only a check.
    """

    def __enter__(self) -> None:
        self._others: ExitStack | None = None
        for is_default, use_default in _SETTINGS:
            if is_default():
                continue
            if self._others is None:
                self._others = ExitStack()
            try:
                self._others.enter_context(use_default())
            except BaseException:
                self._others.close()
                raise

    def __exit__(self, *error: Any) -> None:
        if self._others is not None:
            self._others.close()


@contextmanager
def using_threads(number: int | None) -> Iterator[None]:
    """A context in which torch shares an operation among that many CPU threads; None for as many as it does anyway."""
    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flushing_denormals(flush: bool) -> Iterator[None]:
    """A context in which this thread computes 0 instead of numbers below the smallest normal one, or does not.

    A processor takes tens of times longer for such numbers. They are common in training: where a ReLU is never above
    zero again, momentum shrinks at every step, and never gets to zero by itself.
    """
    before = _flushes()
    if before == flush:
        yield
        return
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether this thread computes 0 instead of numbers below the smallest normal one; torch does not tell."""
    return _SMALLEST / 2 == 0


def isolating(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it runs inside `isolated`."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with isolated():
            return function(*args, **kwargs)

    return inside


@contextmanager
def _set_for_now(read: Callable[[], Any], write: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextmanager
def _emptied(look: Callable[[], Any], pop: Callable[[], Any], push: Callable[[Any], object]) -> Iterator[None]:
    """Empty one of torch's stacks inside the context.

    Args:
        look: returns something true while the stack is not empty.
        pop: removes and returns the last entry.
        push: adds an entry.
    """
    entries = []
    while look():
        entries.append(pop())
    try:
        yield
    finally:
        for entry in reversed(entries):
            push(entry)


def _hooks() -> Any:
    """Return the innermost hooks on saved tensors; None if there are none."""
    return _C._autograd._top_saved_tensors_default_hooks(True)


def _pop_hooks() -> Any:
    hooks = _hooks()
    _C._autograd._pop_saved_tensors_default_hooks()
    return hooks


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _exact(part: str) -> AbstractContextManager[None]:
    """Make oneDNN compute a kind of operation in float32 inside the context."""
    switch = getattr(cast("Any", torch.backends).mkldnn, part)
    return _set_for_now(partial(getattr, switch, "fp32_precision"), partial(setattr, switch, "fp32_precision"), "ieee")


_SETTINGS: tuple[tuple[Callable[[], bool], Callable[[], AbstractContextManager[object]]], ...] = (
    # The modes come first, because they would intercept the following calls.
    (
        lambda: not _C._len_torch_function_stack(),
        lambda: _emptied(_C._len_torch_function_stack, _C._pop_torch_function_stack, _C._push_on_torch_function_stack),
    ),
    (lambda: not torch.is_inference_mode_enabled(), lambda: torch.inference_mode(False)),
    (torch.is_grad_enabled, torch.enable_grad),
    (lambda: not torch.is_autocast_enabled("cpu"), lambda: torch.autocast("cpu", enabled=False)),
    (lambda: not torch.is_autocast_enabled("cuda"), lambda: torch.autocast("cuda", enabled=False)),
    (lambda: not torch.is_anomaly_enabled(), lambda: torch.autograd.set_detect_anomaly(False)),
    (
        lambda: torch.get_default_dtype() == torch.float32,
        lambda: _set_for_now(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    ),
    (
        lambda: _hooks() is None,
        lambda: _emptied(_hooks, _pop_hooks, lambda hooks: _C._autograd._push_saved_tensors_default_hooks(*hooks)),
    ),
    *(
        (
            partial(lambda part: _C._get_fp32_precision_getter("mkldnn", part) in ("none", "ieee"), part),
            partial(_exact, part),
        )
        for part in ("matmul", "conv", "rnn")
    ),
    (_C._get_mkldnn_enabled, lambda: _set_for_now(_C._get_mkldnn_enabled, _C._set_mkldnn_enabled, True)),
    (
        lambda: not torch.are_deterministic_algorithms_enabled(),
        lambda: _set_for_now(
            _determinism, lambda how: torch.use_deterministic_algorithms(how[0], warn_only=how[1]), (False, False)
        ),
    ),
    (lambda: all(enabled() for enabled in _ATTENTION.values()), lambda: sdpa_kernel([*_ATTENTION])),
    (lambda: not _flushes(), lambda: flushing_denormals(False)),
    (lambda: np.geterr() == _ERRORS, lambda: np.errstate(**_ERRORS)),
)
"""For each setting: a function that returns whether it has its default, and a context that sets the default."""

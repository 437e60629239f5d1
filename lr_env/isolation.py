"""Computing as if nobody had changed torch's or numpy's settings: the caller's are set aside, and put back."""

from __future__ import annotations

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
"""numpy's error state as it is when a process starts."""

_ATTENTION = {
    SDPBackend.MATH: _C._get_math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: _C._get_flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: _C._get_mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: _C._get_cudnn_sdp_enabled,
}
"""Kernel of attention -> whether it may be used."""


class isolated(AbstractContextManager[None]):  # noqa: N801 (a context, as torch's are)
    """Inside, torch and numpy compute by their defaults; afterwards the caller's settings are what they were.

    Set aside are torch's grad and inference mode, autocast, default dtype, default device and other function modes,
    anomaly detection, hooks on saved tensors, deterministic algorithms, kernels that are switched off, reduced
    precision of matrix products and convolutions on CPUs, and numpy's error state. What is at its default already costs
    nothing but a look.
    """

    def __enter__(self) -> None:
        self._others: ExitStack | None = None
        for usual, ours in _SETTINGS:
            if usual():
                continue
            if self._others is None:
                self._others = ExitStack()
            try:
                self._others.enter_context(ours())
            except BaseException:
                self._others.close()
                raise

    def __exit__(self, *error: Any) -> None:
        if self._others is not None:
            self._others.close()


def isolating(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes inside `isolated`."""

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


def _hooks() -> Any:
    """The innermost hooks on saved tensors; None where there are none."""
    return _C._autograd._top_saved_tensors_default_hooks(True)


def _pop_hooks() -> Any:
    hooks = _hooks()
    _C._autograd._pop_saved_tensors_default_hooks()
    return hooks


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _exact(part: str) -> AbstractContextManager[None]:
    """Inside, oneDNN computes that kind of operation in float32."""
    switch = getattr(cast("Any", torch.backends).mkldnn, part)
    return _set_for_now(partial(getattr, switch, "fp32_precision"), partial(setattr, switch, "fp32_precision"), "ieee")


_SETTINGS: tuple[tuple[Callable[[], bool], Callable[[], AbstractContextManager[object]]], ...] = (
    # First of all the modes, which would see what follows.
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
    (lambda: np.geterr() == _ERRORS, lambda: np.errstate(**_ERRORS)),
)
"""Of each setting whether it is at its default, and a context in which it is."""

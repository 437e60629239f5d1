"""Which engine trains, measured rather than guessed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lr_env.children.initial import build_seeded
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.tasks.catalogue import Task

BACKENDS = ("auto", "loop", "stacked")
_BLOCKS = (8, 32, 128)
_PROBE_STEPS = 3


@dataclass(frozen=True)
class Backend:
    """How children are trained.

    Attributes:
        name: "loop" or "stacked".
        block: children in one computation at most; 1 for the loop.
    """

    name: str
    block: int = 1

    def __post_init__(self) -> None:
        if self.name not in BACKENDS[1:] or self.block < 1:
            raise UserError(f"unknown backend {self.name!r} with block {self.block} (there are: {', '.join(BACKENDS)})")

    def __str__(self) -> str:
        return "loop" if self.name == "loop" else f"stacked in blocks of {self.block}"


def network_of(task: Task, dtype: torch.dtype) -> nn.Module:
    """A module of the task's network, on the CPU."""
    source = task.source
    return build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 0, dtype)


def choose_backend(wanted: str, task: Task, num_children: int, device: str, dtype: torch.dtype) -> Backend:
    """The backend by name, or for "auto" the faster one.

    One child is always looped: it must not pay for a stack that it does not need.

    Raises:
        UserError: there is no such backend.
    """
    if wanted not in BACKENDS:
        raise UserError(f"unknown backend {wanted!r} (there are: {', '.join(BACKENDS)})")
    blocks = tuple(sorted({min(block, num_children) for block in _BLOCKS}))
    if wanted == "loop" or (wanted == "auto" and num_children == 1):
        return Backend("loop")
    if wanted == "stacked" and len(blocks) == 1:
        return Backend("stacked", blocks[0])
    has_buffers = next(network_of(task, dtype).buffers(), None) is not None
    if wanted == "auto" and has_buffers:
        return Backend("loop")
    return _fastest(wanted, task, blocks, device, dtype, torch.get_num_threads())


@lru_cache(maxsize=64)
def _fastest(
    wanted: str, task: Task, blocks: tuple[int, ...], device: str, dtype: torch.dtype, threads: int
) -> Backend:
    """Time a few steps of each choice; `threads` only keys the cache.

    A stack must beat the loop by a tenth: close calls would fall one way or the other with the noise of the clock.
    """
    choices = [Backend("stacked", block) for block in blocks]
    seconds = {choice: _seconds_per_step(choice, task, device, dtype) for choice in choices}
    best = min(choices, key=lambda choice: seconds[choice])
    if wanted == "auto" and _seconds_per_step(Backend("loop"), task, device, dtype) < 1.1 * seconds[best]:
        return Backend("loop")
    return best


def _seconds_per_step(backend: Backend, task: Task, device: str, dtype: torch.dtype) -> float:
    """Wall time of one step of one child."""
    from dataclasses import replace

    from lr_env.children.children import Children  # Children chooses its backend here

    short = replace(task, segment=_PROBE_STEPS, budget=_PROBE_STEPS)
    children = Children(short, range(backend.block), device, backend, dtype)
    rates = np.full(backend.block, task.lr_start)
    children.train(rates)  # traces, and warms caches up
    best = float("inf")
    for _ in range(3):
        _wait(children.device)
        start = time.perf_counter()
        children.train(rates)
        _wait(children.device)
        best = min(best, time.perf_counter() - start)
    return best / (_PROBE_STEPS * backend.block)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

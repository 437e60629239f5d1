"""Choose the fastest backend by timing a few steps of each."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from lr_env.children.backend import BACKENDS, Backend, network_of
from lr_env.children.children import Children
from lr_env.children.execution import Execution
from lr_env.children.memory import available_bytes
from lr_env.children.numerics import Numerics
from lr_env.devices import find_device
from lr_env.errors import UserError, unknown
from lr_env.tasks.catalogue import Task

_BLOCKS = (8, 32, 128)  # on CUDA 1, too: a child to itself, but captured, and several at the same time
_COMPILED_BLOCK = 8
_PROBE_STEPS = 3
_PROBE_SECONDS = 0.2
_HOPELESS = 1.3
_WORTHWHILE = 0.9
_WORKERS_HANDICAP = 1.1
_SHARING_HANDICAP = 1.3
_CAPTURE_STEPS = 2000  # of a run on CUDA; a loop does as many while a step is traced and captured
_SMALL_STEP = 2**21  # multiplications of a forward pass, for which a core takes a tenth of a millisecond
_LONG_SECONDS = 1200.0  # of work, of which compiling on trial takes one or two minutes


def compiler() -> str | None:
    """The path of a C++ compiler, which `torch.compile` needs on a CPU; None if there is none."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


LOCKSTEP = 128
"""Children trained together by default, memory permitting: more gain little, and a checkpoint holds all of them."""

_MEMORY_SHARE = 0.5
"""Share of the free memory that the default number of children may take."""


def resolve(
    execution: Execution,
    task: Task,
    runs: int,
    child_steps: float = 0.0,
    *,
    extra_signals: Sequence[str] = (),
    forks: bool = False,
) -> Execution:
    """Choose what an execution leaves open: the number of children in lockstep by the memory, the backend by timing.

    Args:
        execution: what was asked for.
        task: what is trained.
        runs: that may be in lockstep at most.
        child_steps: optimizer steps of all children together that are to come; 0 where that is not known.
        extra_signals: names of the signals that are measured on demand, see `lr_env.children.meters`.
        forks: whether runs are forked, see `lr_env.env.forks`.

    Raises:
        UserError: see `choose_backend`; or the memory does not hold as many children as were asked for.
    """
    lockstep = _lockstep(execution, task, runs, extra_signals, forks)
    return replace(
        execution, lockstep=lockstep, backend=choose_backend(execution, task, lockstep, child_steps=child_steps)
    )


def fastest(execution: Execution, task: Task, children: int) -> Execution:
    """The same execution with the fastest backend, of those that it allows, for a number of children.

    Raises:
        UserError: see `choose_backend`.
    """
    return execution.with_backend(choose_backend(execution, task, children))


def _lockstep(execution: Execution, task: Task, runs: int, extra_signals: Sequence[str], forks: bool) -> int:
    """Children at a time: what was asked for, if it fits, or what pays."""
    memory = Children(task, [0], execution.with_backend("loop"), extra_signals=extra_signals).memory
    if forks:
        memory = replace(memory, persistent=2 * memory.persistent)  # a second child for each run
    device = find_device(execution.device)
    if execution.lockstep is not None:
        memory.check(min(execution.lockstep, runs), 1, device)
        return min(execution.lockstep, runs)
    # What "auto" will find is not known yet.
    at_once = torch.get_num_threads() if execution.backend == "loop" else LOCKSTEP
    return max(1, min(LOCKSTEP, runs, memory.fitting(_MEMORY_SHARE * available_bytes(device), at_once)))


def choose_backend(
    execution: Execution,
    task: Task,
    num_children: int,
    *,
    dtype: torch.dtype = torch.float32,
    child_steps: float = 0.0,
) -> Backend:
    """Choose the fastest backend for a number of children, of those that the execution allows.

    A single child is trained by the loop: a stack would only cost it time; on CUDA a long run is captured where that is
    faster. How many cores are used is measured, too: by
    workers that have children each, or by threads that share an operation. "auto" tries "compiled", too, where training
    will keep a CPU busy for more than 20 minutes.

    Args:
        execution: whose backend is one of `BACKENDS`, or known already.
        task: what is trained.
        num_children: children in lockstep.
        dtype: of parameters and inputs.
        child_steps: optimizer steps of all children together that are to come; 0 where that is not known.

    Raises:
        UserError: there is no such backend, or no compiler for it.
    """
    if isinstance(execution.backend, Backend):
        return execution.backend
    name, device, numerics = execution.backend, execution.device, execution.numerics
    on_cpu = find_device(device).type == "cpu"
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    if name == "auto" and not task.optimizer.stackable:
        name = "loop"
    if name == "compiled":
        if on_cpu and not compiler():
            raise UserError("backend 'compiled' needs a C++ compiler: install g++ or clang++, or use another backend")
        return Backend("compiled", min(_COMPILED_BLOCK, num_children))
    threads = torch.get_num_threads() if on_cpu else 1
    captured = not on_cpu and name == "auto" and max(child_steps, task.budget) >= _CAPTURE_STEPS
    if num_children == 1 and name != "stacked" and not captured:
        return Backend("loop", threads=1 if threads > 1 and _is_small(task) else None)
    common = task, device, dtype, numerics, threads
    one = {"threads": 1} if threads > 1 else {}
    choices = []
    if name != "stacked":
        choices += [Backend("loop", workers=workers, **one) for workers in sorted({1, min(threads, num_children)})]
    if name != "loop":
        blocks = _BLOCKS if on_cpu else (1, *_BLOCKS)
        sizes = sorted({min(block, num_children) for block in blocks})
        choices += [Backend("stacked", block, **one) for block in sizes]
    if len(choices) == 1 and threads == 1:
        return choices[0]
    fastest, seconds = _fastest(tuple(choices), *common)
    if further := _on_several_cores(fastest, num_children, threads):
        fastest, seconds = _fastest((fastest, *further), *common)
    if name == "auto" and on_cpu and compiler() and child_steps * seconds > _LONG_SECONDS:
        compiled = Backend("compiled", min(_COMPILED_BLOCK, num_children))
        if _compiled_seconds(compiled, *common) < _WORTHWHILE * seconds:
            return compiled
    return fastest


@lru_cache(maxsize=64)
def _is_small(task: Task) -> bool:
    """Whether a step of a child takes so little that cores would only wait for each other."""
    network = network_of(task, torch.float32)
    return sum(parameter.numel() for parameter in network.parameters()) * task.batch_size < _SMALL_STEP


def _on_several_cores(backend: Backend, num_children: int, threads: int) -> tuple[Backend, ...]:
    """The ways of a backend that uses one core to use several."""
    if backend.workers == threads:
        return ()
    shared = replace(backend, workers=1, threads=threads)
    if backend.name == "loop" or num_children == 1:
        return (shared,)
    workers = min(threads, num_children)
    return replace(backend, block=min(backend.block, -(-num_children // workers)), workers=workers), shared


@lru_cache(maxsize=64)
def _fastest(
    choices: tuple[Backend, ...], task: Task, device: str, dtype: torch.dtype, numerics: Numerics, threads: int
) -> tuple[Backend, float]:
    """Time a few steps of each backend, the smallest block first; `threads` only keys the cache.

    Returns:
        The fastest, and its seconds for one step of one child.
    """
    seconds: dict[Backend, float] = {}
    smaller = float("inf")
    for choice in choices:
        try:
            latest = seconds[choice] = _seconds_per_step(choice, task, device, dtype, numerics)
        except UserError:  # there is no memory for it
            continue
        if choice.name == "stacked" and _handicap(choice) == 1:  # on one core
            if latest > min(_HOPELESS * min(seconds.values()), _WORTHWHILE * smaller):
                break  # a larger block of the same will not gain much, and measuring it would take up to a minute
            smaller = latest
    if not seconds:
        return choices[0], 0.0  # which will say what is wrong
    # Cores that share an operation wait for each other at its end, which costs dearly as soon as anything else runs on
    # one of them; cores that have children each wait once a segment. So sharing must be clearly faster.
    fastest = min(seconds, key=lambda choice: seconds[choice] * _handicap(choice))
    return fastest, seconds[fastest]


def _handicap(backend: Backend) -> float:
    """How many times as fast as with one core a way to use several must be."""
    if backend.workers > 1:
        return _WORKERS_HANDICAP
    return 1.0 if backend.threads in (None, 1) else _SHARING_HANDICAP


@lru_cache(maxsize=16)
def _compiled_seconds(
    choice: Backend, task: Task, device: str, dtype: torch.dtype, numerics: Numerics, threads: int
) -> float:
    """Time a few steps; infinite where the compiler fails, as other backends can train then."""
    try:
        return _seconds_per_step(choice, task, device, dtype, numerics)
    except Exception as error:  # whatever a compiler raises
        warnings.warn(
            f"backend 'compiled' was tried and failed, and is not used: {error}", RuntimeWarning, stacklevel=2
        )
        return float("inf")


def _seconds_per_step(backend: Backend, task: Task, device: str, dtype: torch.dtype, numerics: Numerics) -> float:
    """Wall time of one step of one child."""
    short = replace(task, segment=_PROBE_STEPS, budget=_PROBE_STEPS)
    together = max(backend.block * backend.workers, 2 * backend.workers)
    children = Children(short, range(together), Execution(device, backend, numerics), dtype)
    rates = np.full(together, task.lr_start)
    children.train(rates)  # traces, and warms caches up
    seconds: list[float] = []
    # Small networks are timed often: one hiccup of a busy machine must not choose for hours of training.
    while len(seconds) < 2 or (sum(seconds) < _PROBE_SECONDS and len(seconds) < 20):
        wait(children.device)
        start = time.perf_counter()
        children.train(rates)
        wait(children.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / (_PROBE_STEPS * together)


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work, so that it can be timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What is measured against plain torch, on one process: speed, time of imports, memory."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.bench.plain import PlainLoop
from lr_env.bench.table import Bar, Figure
from lr_env.children import Children, Execution
from lr_env.children.autotune import fastest
from lr_env.env import LREnv
from lr_env.errors import UserError
from lr_env.provenance import device_name, versions
from lr_env.tasks import Task
from lr_env.tasks.data import load

LOCKSTEP = 32
"""Children in the measures of many against one."""

RESET_BAR: Bar = ("<", 20.0)
"""Milliseconds of a reset of LeNet-5."""


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: turns of both sides.
        run_segments: segments of a whole run, at most.
        segments: segments in one turn of the lockstep measures.
        import_rounds: turns of the imports.
        resets: resets timed.
        peer_rounds: turns of both sides where one of them is a peer.
        peer_seconds: how long a turn in lockstep beside a peer lasts at least; a segment is the shortest.
        peer_decisions: optimizer steps in a turn of a peer that decides anew for each.
        peer_examples: published training examples that a peer gets, which fixes its epoch; all by default.
        compare: options of the comparison whose memory is measured; none for the default one.
    """

    rounds: int = 15
    run_segments: int = 100
    segments: int = 8
    import_rounds: int = 7
    resets: int = 50
    peer_rounds: int = 7
    peer_seconds: float = 1.0
    peer_decisions: int = 10
    peer_examples: int | None = None
    compare: tuple[str, ...] = ()


QUICK = Effort(
    rounds=2,
    run_segments=5,
    segments=1,
    import_rounds=1,
    resets=3,
    peer_rounds=1,
    peer_seconds=0.0,
    peer_decisions=2,
    peer_examples=6_400,
    compare=("--planners", "constant", "--rates", "0.1", "--tune-seeds", "1", "--seeds", "2"),
)


def in_turns(*jobs: Callable[[], Any], rounds: int) -> tuple[NDArray[np.float64], ...]:
    """What the jobs return, done A B A B ...; the first turn of each warms up and is not kept.

    Returns:
        One array a job, (rounds, ...).
    """
    turns = [[job() for job in jobs] for _ in range(rounds + 1)][1:]
    return tuple(np.array(column) for column in zip(*turns, strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def segments_of(seconds: float, effort: Effort) -> int:
    """How many segments a turn beside a peer has, where one takes so many seconds."""
    return max(1, math.ceil(effort.peer_seconds / seconds))


def of_rates(
    measure: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    bar: Bar | None,
    how: tuple[str, str] = ("", ""),
) -> Figure:
    """Ratio of two rates, both per second, (rounds,); `how` says in words how each side came to its own."""
    absolute = " and ".join(
        f"{np.median(rates):,.1f}" + (f" ({words})" if words else "")
        for rates, words in zip((ours, theirs), how, strict=True)
    )
    return Figure(measure, (ours / theirs).tolist(), "x", absolute, bar)


def environment_seconds(env: LREnv, seed: int) -> float:
    """Time of all steps of an episode at the task's starting rate, after the reset."""
    env.reset(seed=seed)
    start = time.perf_counter()
    for _ in range(env.task.num_segments):
        *_, terminated, _, _ = env.step(env.task.lr_start)
        if terminated:
            raise RuntimeError(f"{env.task.name} diverged at its starting rate")
    return time.perf_counter() - start


def overhead(task: Task, device: torch.device, effort: Effort) -> Figure:
    """Time of the environment with one child over that of a plain loop."""
    segments = min(effort.run_segments, task.num_segments)
    env = LREnv(task, budget=segments * task.segment, score=(), device=str(device))
    data = load(task.data, str(device))
    ours, plain = in_turns(
        lambda: environment_seconds(env, 0),
        lambda: PlainLoop(env.task, data, device, 0).seconds(),
        rounds=effort.rounds,
    )
    absolute = f"{np.median(ours):.3f} s and {np.median(plain):.3f} s for {env.task.budget} steps"
    measure = f"{task.name}: time of LREnv with 1 child / plain torch loop"
    return Figure(measure, (ours / plain).tolist(), "x", absolute, ("<=", 1.10))


def segment_seconds(children: Children, segments: int) -> tuple[float, float]:
    """Time that some segments take in train(), and in the measure() at the end of each."""
    rates = np.full(len(children), children.task.lr_start)
    training = measuring = 0.0
    for _ in range(segments):
        start = time.perf_counter()
        children.train(rates)
        trained = time.perf_counter()
        children.measure()
        training += trained - start
        measuring += time.perf_counter() - trained
    return training, measuring


def lockstep(task: Task, device: torch.device, effort: Effort, bar: Bar | None) -> list[Figure]:
    """Child steps a second of many children over those of one, and the share of time that validation takes."""
    one = Children(task, [0], execution=Execution(device=str(device), backend="loop"))
    many = Children(task, range(LOCKSTEP), fastest(Execution(str(device)), task, LOCKSTEP))
    times = in_turns(
        lambda: segment_seconds(one, effort.segments),
        lambda: segment_seconds(many, effort.segments),
        rounds=effort.rounds,
    )
    steps = effort.segments * task.segment
    figures = []
    for columns, what, its_bar in (([0], "train()", bar), ([0, 1], "train() and measure()", None)):
        rate_of_one, rate_of_many = (
            count * steps / t[:, columns].sum(1) for count, t in zip((1, LOCKSTEP), times, strict=True)
        )
        absolute = f"{np.median(rate_of_many):,.0f} ({many.backend}) and {np.median(rate_of_one):,.0f} ({one.backend})"
        measure = f"{task.name}: child steps/s of {LOCKSTEP} children / 1 child, {what}"
        figures.append(Figure(measure, (rate_of_many / rate_of_one).tolist(), "x", absolute, its_bar))
    for count, t in zip((1, LOCKSTEP), times, strict=True):
        trained, measured = 1000 * np.median(t, axis=0) / effort.segments
        absolute = f"{measured:,.2f} ms of {trained + measured:,.2f} ms"
        measure = f"{task.name}: share of measure() in a segment's time, children: {count}"
        figures.append(Figure(measure, (100 * t[:, 1] / t.sum(1)).tolist(), "%", absolute, ("<=", 15.0)))
    return figures


def reset_seconds(env: LREnv, seed: int) -> float:
    """Time in which an episode starts: the weights of its seed, its batches, and the first signals."""
    start = time.perf_counter()
    env.reset(seed=seed)
    return time.perf_counter() - start


def reset(task: Task, effort: Effort, bar: Bar | None = RESET_BAR) -> Figure:
    """Time of `reset` of the environment with one child, on one thread; the data are there already."""
    with one_thread():
        env = LREnv(task)
        reset_seconds(env, 0)
        values = [1000 * reset_seconds(env, seed) for seed in range(1, effort.resets + 1)]
    return Figure(f"{task.name}: time of reset() of LREnv with 1 child, 1 thread", values, "ms", "", bar)


def import_seconds(statement: str) -> float:
    """Time of an import in a fresh process, without the start of Python itself."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    # Compiled once and then read from the cache, as where people work.
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, env=settings)
    return float(done.stdout)


def imports(effort: Effort) -> list[Figure]:
    """Time of importing the package, and of importing all of its engine, over what they stand on."""
    figures = []
    for ours, theirs, bar in (
        ("import lr_env", "import torch", ("<", 1.3)),
        ("from lr_env import LREnv, Children", "import torch, gymnasium", None),
    ):
        a, b = in_turns(
            lambda s=ours: import_seconds(s), lambda s=theirs: import_seconds(s), rounds=effort.import_rounds
        )
        absolute = f"{np.median(a):.2f} s and {np.median(b):.2f} s"
        figures.append(Figure(f"time of `{ours}` / `{theirs}`", (a / b).tolist(), "x", absolute, bar))
    return figures


def comparison(device: str, effort: Effort) -> list[Figure]:
    """Peak memory and wall time of the default comparison, in a process of its own."""
    # A process starts with the peak memory of the one that it was forked from, so a small one stands between.
    watch = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print(json.dumps([done.returncode, done.stderr[-2000:], time.perf_counter() - start, peak]))"
    )
    options = ["compare", "DigitsMLP", *(["--device", device] if device != "cpu" else []), *effort.compare]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", watch, sys.executable, "-m", "lr_env.cli", *options]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout
    code, errors, seconds, peak = json.loads(output)
    if code:
        raise UserError(f"`lr-env {' '.join(options)}` ended with code {code}: {errors.strip()}")
    gib = peak * (1 if sys.platform == "darwin" else 1024) / 2**30
    name, note = f"`lr-env {' '.join(options)}`", "shortened: no bar is for it" if effort.compare else ""
    bars: Sequence[Bar | None] = (None, None) if effort.compare else (("<", 1.5), ("<", 180.0))
    return [
        Figure(f"{name}: peak memory", [gib], "GiB", note, bars[0]),
        Figure(f"{name}: wall time", [seconds], "s", note, bars[1]),
    ]


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": device_name(device),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {**versions(), "gymnasium": gymnasium.__version__},
    }

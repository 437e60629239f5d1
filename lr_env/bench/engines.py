"""What several processes gain and cost, what the process that writes the store can take, and training beside others."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lr_env.bench.measures import Effort, in_turns, one_thread
from lr_env.bench.table import Bar, Figure
from lr_env.children import Backend, Children, Execution, fastest
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.registry import make_planner
from lr_env.rollout import PlannedRun
from lr_env.runs.chunks import Begun, Chunk, Ended, Event, SegmentSignals, Sink, Snapshot, Trained
from lr_env.runs.engine import Engine, EngineOptions, LocalEngine
from lr_env.runs.lab import Lab
from lr_env.runs.processes import ProcessEngine
from lr_env.signals import ALWAYS
from lr_env.tasks import TASKS, Task
from lr_env.words import counted

WORKERS = 2
"""Processes whose gain is measured."""

GAIN_BAR: Bar = (">=", 1.7)
COST_BAR: Bar = ("<=", 1.03)
BESIDE_BAR: Bar = (">=", 0.9)

RUNS = 10_000
"""Runs of the simulated experiment."""

SEGMENTS = 100
"""Segments of a run in it."""


class Nowhere:
    """A sink that keeps nothing."""

    def resume(self, chunk: Chunk) -> Snapshot | None:
        """Nothing is kept."""
        return None

    def begin(self, chunk: Chunk, segments: int) -> None:
        """Nothing is kept."""

    def segment(self, chunk: Chunk, number: int, signals: SegmentSignals) -> None:
        """Nothing is kept."""

    def checkpoint(self, chunk: Chunk, segments: int, snapshot: Snapshot) -> None:
        """Nothing is kept."""

    def done(self, chunk: Chunk, records: Sequence[RunRecord]) -> None:
        """Nothing is kept."""


def _steady(task: Task) -> Planner:
    """A planner that costs next to nothing."""
    return make_planner("constant", {"peak": task.lr_start})


def _seconds(engine: Engine, chunks: Sequence[Chunk]) -> float:
    start = time.perf_counter()
    engine.run(chunks, Nowhere())
    return time.perf_counter() - start


def _chunks(task: Task, count: int, segments: int) -> list[Chunk]:
    short = replace(task, budget=segments * task.segment)
    execution = Execution(backend=Backend("loop"), lockstep=1)
    return [
        Chunk(str(seed), short, (PlannedRun(_steady(task), seed),), "bench", ("val",), execution)
        for seed in range(count)
    ]


def fan_out(task: Task, seconds: float, effort: Effort) -> list[Figure]:
    """Runs a second of several processes with a thread each over those of this process with one.

    Args:
        task: what is trained; each chunk is one run.
        seconds: of a run, about.
        effort: how long is measured.
    """
    with one_thread(), closing(ProcessEngine(EngineOptions(workers=WORKERS))) as engine:
        local = LocalEngine()
        whole = _chunks(task, WORKERS, 1)
        engine.run(whole, Nowhere())  # starts the processes, and loads the data
        local.run(whole, Nowhere())
        segments = max(1, round(seconds / (_seconds(local, whole) / WORKERS)))
        several = _chunks(task, 2 * WORKERS, segments)
        rounds = min(effort.rounds, 5)
        alone, together = in_turns(lambda: _seconds(local, several), lambda: _seconds(engine, several), rounds=rounds)
        absolute = f"{len(several) / np.median(together):.2f} and {len(several) / np.median(alone):.2f}"
        what = f"{task.name}: runs/s of {WORKERS} processes / this one, a thread each"
        return [Figure(what, (alone / together).tolist(), "x", absolute, GAIN_BAR)]


def process_cost(task: Task, seconds: float, effort: Effort) -> list[Figure]:
    """Time of a chunk in a process of its own over that in this one."""
    with one_thread(), closing(ProcessEngine(EngineOptions(workers=1))) as engine:
        local, short = LocalEngine(), _chunks(task, 1, 2)
        engine.run(short, Nowhere())
        local.run(short, Nowhere())
        chunk = _chunks(task, 1, max(1, round(2 * seconds / _seconds(local, short))))
        rounds = min(effort.rounds, 3)
        ours, theirs = in_turns(lambda: _seconds(engine, chunk), lambda: _seconds(local, chunk), rounds=rounds)
        absolute = f"{np.median(ours):.1f} s and {np.median(theirs):.1f} s"
        return [
            Figure(f"{task.name}: time of a run in a worker / here", (ours / theirs).tolist(), "x", absolute, COST_BAR)
        ]


class _Made(LocalEngine):
    """Hands on made-up events, as fast as the store takes them."""

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Tell of every chunk as if it had been trained."""
        for chunk in chunks:
            sink.resume(chunk)
            for event in _made_up(chunk):
                event.hand_on(chunk, sink)


def _made_up(chunk: Chunk) -> Iterator[Event]:
    yield Begun(0)
    for number in range(SEGMENTS):
        yield Trained(number, [(row, dict.fromkeys(ALWAYS, 0.5 * number)) for row in range(len(chunk.runs))])
    scores = {"final_val_loss": 0.5, "final_val_accuracy": 0.5}
    yield Ended(
        [
            RunRecord("x", run.planner.name, run.settings, run.seed, "finished", steps=chunk.task.budget, scores=scores)
            for run in chunk.runs
        ]
    )


def driver(runs: int, lockstep: int) -> Figure:
    """What the process that writes the store takes of an experiment whose chunks have so many runs in lockstep."""
    task = replace(TASKS["DigitsMLP"], segment=10, budget=10 * SEGMENTS)
    planner = _steady(task)
    planned = [PlannedRun(planner, seed) for seed in range(runs)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "records.sqlite")
        with closing(store):
            lab = Lab(task, store, "x", Execution(backend="loop", lockstep=lockstep), engine=_Made())
            with lab.experiment({"bench": runs}, at_once=lockstep, runs=runs) as experiment:
                start = time.perf_counter()
                experiment.run(planned, "x", (), lambda steps: None)
                seconds = time.perf_counter() - start
        mib = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    absolute = f"{runs:,} runs of {SEGMENTS} segments in {seconds:.0f} s: {runs / seconds:,.0f} runs/s, {mib:,.0f} MiB"
    what = f"rows (segments of runs) that the store takes, 1,000 a second, chunks of {counted(lockstep, 'run')}"
    return Figure(what, [runs * SEGMENTS / seconds / 1000], "k", absolute)


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Inside, other processes use so many cores to the full."""
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def neighbours(task: Task, children: int, effort: Effort) -> list[Figure]:
    """Child steps a second of what was chosen on a quiet machine over those of one thread, beside others."""
    chosen = fastest(Execution(), task, children)
    with one_thread():
        alone = fastest(Execution(), task, children)
    ours, one = (Children(task, range(children), execution) for execution in (chosen, alone))
    rates = np.full(children, task.lr_start)

    def seconds(of: Children, threads: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            start = time.perf_counter()
            for _ in range(effort.segments):
                of.train(rates)
            return time.perf_counter() - start
        finally:
            torch.set_num_threads(before)

    figures = []
    for count, what in ((0, "on a quiet machine"), (1, "beside 1 busy process"), (10, "beside 10 busy processes")):
        with beside(count):
            times = in_turns(
                lambda: seconds(ours, torch.get_num_threads()), lambda: seconds(one, 1), rounds=min(effort.rounds, 7)
            )
        rates_of = [children * effort.segments * task.segment / np.median(of) for of in times]
        absolute = f"{rates_of[0]:,.0f} ({ours.backend}) and {rates_of[1]:,.0f} ({one.backend})"
        measure = f"{task.name}: child steps/s of {children} children / with one thread, {what}"
        figures.append(Figure(measure, (times[1] / times[0]).tolist(), "x", absolute, BESIDE_BAR))
    return figures

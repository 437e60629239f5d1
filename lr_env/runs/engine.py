"""Engines: they train chunks of runs and hand on what happens to a sink. Results do not depend on the engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lr_env.children import Execution
from lr_env.provenance import provenance
from lr_env.pruning import Pruner
from lr_env.records.checkpoint import check_fit
from lr_env.records.record import PRUNED, RunRecord
from lr_env.rollout import PlannedRun, Rollout
from lr_env.tasks import Task

Snapshot = Mapping[str, Any]
"""What `Rollout.snapshot` gives."""

SegmentSignals = Sequence[tuple[int, Mapping[str, float]]]
"""Row of a run in its chunk, and its signals at the end of a segment."""


@dataclass(frozen=True)
class Chunk:
    """Runs that are trained together, with all that it takes; it can be pickled.

    Attributes:
        key: what tells it from all other chunks, of this and of other experiments.
        task: what is trained.
        runs: planner and seed of each run. All have the same optimizer.
        phase: of the experiment.
        score: splits that are scored whole at the end of a run.
        execution: resolved.
        checkpoint_seconds: wall time between two checkpoints.
        pruner: ends runs early; None ends none.
    """

    key: str
    task: Task
    runs: tuple[PlannedRun, ...]
    phase: str
    score: tuple[str, ...]
    execution: Execution
    checkpoint_seconds: float = 60.0
    pruner: Pruner | None = None


class SnapshotError(ValueError):
    """A snapshot does not fit the runs that were to go on from it; `__cause__` says why."""


class Sink(Protocol):
    """The side of the store: it keeps what an engine hands on. A chunk that is handed on twice changes nothing."""

    def resume(self, chunk: Chunk) -> Snapshot | None:
        """The snapshot from which a chunk can be gone on with; None to begin it."""
        ...

    def begin(self, chunk: Chunk, segments: int) -> None:
        """Take note that a chunk goes on after so many segments: what was kept of later ones is dropped."""
        ...

    def segment(self, chunk: Chunk, number: int, signals: SegmentSignals) -> None:
        """Keep the signals of segment `number`, from 0, of the runs that have not ended."""
        ...

    def checkpoint(self, chunk: Chunk, segments: int, snapshot: Snapshot) -> None:
        """Keep a snapshot that was taken after so many segments."""
        ...

    def done(self, chunk: Chunk, records: Sequence[RunRecord]) -> None:
        """Keep the records of a chunk whose runs have all ended."""
        ...


class Engine(Protocol):
    """Trains chunks, somewhere."""

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks, in any order."""
        ...


class LocalEngine:
    """Trains one chunk after the other in this process."""

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks, in order."""
        for chunk in chunks:
            train_chunk(chunk, sink)


def train_chunk(chunk: Chunk, sink: Sink) -> None:
    """Train the runs of a chunk from where the sink has them to the end.

    Raises:
        SnapshotError: the snapshot does not fit the runs.
    """
    rollout = Rollout(chunk.task, chunk.runs, score=chunk.score, execution=chunk.execution, pruner=chunk.pruner)
    snapshot = sink.resume(chunk)
    if snapshot is not None:
        _restore(rollout, snapshot)
    sink.begin(chunk, rollout.segment)
    last = time.monotonic()
    while not rollout.done:
        signals = rollout.advance()
        sink.segment(chunk, rollout.segment - 1, signals)
        if time.monotonic() - last >= chunk.checkpoint_seconds and not rollout.done:
            sink.checkpoint(chunk, rollout.segment, rollout.snapshot())
            last = time.monotonic()
    place = provenance(chunk.execution.device)
    records = [
        replace(rollout.record(row, chunk.phase), provenance={**place, **({PRUNED: 1} if pruned else {})})
        for row, pruned in enumerate(rollout.pruned.tolist())
    ]
    sink.done(chunk, records)


def _restore(rollout: Rollout, snapshot: Snapshot) -> None:
    try:
        like = rollout.snapshot()
        del like["own"]["_states"]  # which may grow
        check_fit(snapshot, like)
        rollout.restore(snapshot)
    except Exception as error:  # whatever meets what it was not written for
        raise SnapshotError(str(error)) from error

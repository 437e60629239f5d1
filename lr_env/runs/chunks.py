"""Chunks: runs that are trained together, what happens to them, and whom it is told to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
    """A snapshot does not fit the runs that were to go on from it.

    Args:
        why: in a line.
        key: of the chunk.
    """

    def __init__(self, why: str, key: str) -> None:
        super().__init__(why, key)
        self.why, self.key = why, key


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


class Event(Protocol):
    """Something that happened to a chunk; it can be pickled."""

    def hand_on(self, chunk: Chunk, sink: Sink) -> None:
        """Tell the sink."""
        ...


@dataclass(frozen=True, eq=False)
class Begun:
    """A chunk goes on after so many segments."""

    segments: int

    def hand_on(self, chunk: Chunk, sink: Sink) -> None:
        """Tell the sink."""
        sink.begin(chunk, self.segments)


@dataclass(frozen=True, eq=False)
class Trained:
    """A segment was trained: its number, and the signals of the runs that had not ended before."""

    number: int
    signals: SegmentSignals

    def hand_on(self, chunk: Chunk, sink: Sink) -> None:
        """Tell the sink."""
        sink.segment(chunk, self.number, self.signals)


@dataclass(frozen=True, eq=False)
class Saved:
    """A snapshot was taken after so many segments."""

    segments: int
    snapshot: Snapshot

    def hand_on(self, chunk: Chunk, sink: Sink) -> None:
        """Tell the sink."""
        sink.checkpoint(chunk, self.segments, self.snapshot)


@dataclass(frozen=True, eq=False)
class Ended:
    """All runs of a chunk have ended."""

    records: Sequence[RunRecord]

    def hand_on(self, chunk: Chunk, sink: Sink) -> None:
        """Tell the sink."""
        sink.done(chunk, self.records)


def train(chunk: Chunk, snapshot: Snapshot | None) -> Iterator[Event]:
    """Train the runs of a chunk, from a snapshot or from the start, to the end, and yield what happens.

    Raises:
        SnapshotError: the snapshot does not fit the runs.
    """
    rollout = Rollout(chunk.task, chunk.runs, score=chunk.score, execution=chunk.execution, pruner=chunk.pruner)
    if snapshot is not None:
        _restore(rollout, snapshot, chunk.key)
    yield Begun(rollout.segment)
    last = time.monotonic()
    while not rollout.done:
        signals = rollout.advance()
        yield Trained(rollout.segment - 1, signals)
        if time.monotonic() - last >= chunk.checkpoint_seconds and not rollout.done:
            yield Saved(rollout.segment, rollout.snapshot())
            last = time.monotonic()
    place = provenance(chunk.execution.device)
    yield Ended(
        [
            replace(rollout.record(row, chunk.phase), provenance={**place, **({PRUNED: 1} if pruned else {})})
            for row, pruned in enumerate(rollout.pruned.tolist())
        ]
    )


def _restore(rollout: Rollout, snapshot: Snapshot, key: str) -> None:
    try:
        like = rollout.snapshot()
        del like["own"]["_states"]  # which may grow
        check_fit(snapshot, like)
        rollout.restore(snapshot)
    except Exception as error:  # whatever meets what it was not written for
        raise SnapshotError(str(error), key) from error

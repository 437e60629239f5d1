"""Many runs, made so that a kill at any moment changes nothing in the result.

It loses the work since the last checkpoint: a minute of it, or the segment that is being trained if that takes longer,
as it can where planners look ahead on forks of many runs (fewer in lockstep make it shorter).
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr_env.capabilities import optimizer_of
from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.files import remove_leftovers
from lr_env.pruning import Pruner
from lr_env.records.checkpoint import fitting, load_tree, save_tree
from lr_env.records.record import RunRecord, run_key
from lr_env.records.store import Store, StoredKey
from lr_env.registry import current_settings
from lr_env.rollout import PlannedRun
from lr_env.runs.chunks import Chunk, SegmentSignals, Snapshot, SnapshotError
from lr_env.runs.engine import Engine, LocalEngine
from lr_env.runs.spec import ExperimentSpec, Extends, never
from lr_env.tasks import Task

_KEY_DIGITS = 16
"""Digits of the key of a chunk in the name of its checkpoint."""

Progress = Callable[[int], None]
"""Called with the child steps that were done since it was last called."""


class Experiment:
    """A named set of runs of one task in a record store, which one process works on at a time.

    Args:
        store: where the runs are recorded.
        name: of the experiment.
        task: what is trained.
        spec: everything that the results depend on. Going on with another spec is refused, unless it extends the first.
        execution: how children are trained, resolved; `lockstep` runs make a chunk.
        checkpoint_seconds: wall time between two checkpoints of the runs in flight.
        extends: whether another study may go on with this experiment.
        engine: trains the chunks.

    Raises:
        UserError: an experiment of that name was begun with another spec.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        task: Task,
        spec: ExperimentSpec,
        execution: Execution,
        checkpoint_seconds: float = 60.0,
        extends: Extends = never,
        engine: Engine | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.task = task
        self.spec = spec
        self.execution = execution
        self.checkpoint_seconds = checkpoint_seconds
        self.engine = engine or LocalEngine()
        for file in _checkpoints(store, name, half_written=True):
            remove_leftovers(file)
        stored = store.experiment(name)
        if stored is None:
            # The id tells this beginning from others of the same name and spec, whose checkpoints may still lie about.
            self.id = uuid.uuid4().hex
            store.begin_experiment(name, {**spec.to_json(), "id": self.id})
            return
        store.rename_settings(name, current_settings)
        if isinstance(of_planners := stored.get("settings"), dict):
            stored["settings"] = {
                planner: current_settings(planner, of) if isinstance(of, dict) else of
                for planner, of in of_planners.items()
            }
        self.id = str(stored.get("id"))
        now = {**spec.to_json(), "id": self.id}
        if stored == now:
            return
        before = ExperimentSpec.from_json(stored, spec)
        if before.to_json() != spec.to_json() and not _may_go_on(before, spec, extends):
            raise UserError(
                f"{name!r} was begun {before.difference(spec)}: use the same, another --name, or --fresh to start over"
            )
        store.change_experiment(name, now)

    def run(
        self,
        runs: Sequence[PlannedRun],
        phase: str,
        score: Sequence[str],
        progress: Progress,
        pruner: Pruner | None = None,
    ) -> None:
        """Make the runs of a phase that are not finished yet.

        The runs are cut into the same chunks whatever was done before: neighbours in a stack can change the last bit
        of a result, and an interrupted experiment must give the same bytes as an unbroken one.
        """
        finished = self.store.finished(self.name)
        left = []
        for chunk in self._chunks(runs, phase, score, pruner):
            if all(key in finished for key in _keys(phase, chunk.runs)):
                progress(len(chunk.runs) * self.task.budget)
            else:
                left.append(chunk)
        try:
            self.engine.run(left, _StoreSink(self, progress))
        except SnapshotError as error:
            with fitting(self.checkpoint_of(error.key)):
                raise ValueError(error.why) from None

    def done(self) -> None:
        """Remove the checkpoints that are left, once there is nothing to go on with."""
        for file in _checkpoints(self.store, self.name):
            file.unlink(missing_ok=True)

    def checkpoint_of(self, key: str) -> Path:
        """The file of the snapshot of a chunk."""
        return _beside(self.store, self.name, f"{key[:_KEY_DIGITS]}.checkpoint")

    def _chunks(
        self, runs: Sequence[PlannedRun], phase: str, score: Sequence[str], pruner: Pruner | None
    ) -> Iterator[Chunk]:
        """Runs that are trained together: as many as go in lockstep, under one optimizer."""
        groups: dict[Any, list[PlannedRun]] = {}
        for run in runs:
            groups.setdefault(optimizer_of(run.planner), []).append(run)
        size = self.execution.lockstep or len(runs)
        for group in groups.values():
            for start in range(0, len(group), size):
                part = tuple(group[start : start + size])
                key = hashlib.sha256(json.dumps([self.id, _keys(phase, part)]).encode()).hexdigest()
                yield Chunk(key, self.task, part, phase, tuple(score), self.execution, self.checkpoint_seconds, pruner)


class _StoreSink:
    """Keeps what an engine hands on in the store and the checkpoint of an experiment."""

    def __init__(self, experiment: Experiment, progress: Progress) -> None:
        self.experiment = experiment
        self.store = experiment.store
        self.progress = progress
        self._ids: dict[str, Sequence[int]] = {}
        self._reported: dict[str, int] = {}  # segments of each chunk; one that is begun again trains them once more

    def resume(self, chunk: Chunk) -> Snapshot | None:
        """The snapshot in the checkpoint of a chunk, if the store has all the segments before it.

        Raises:
            UserError: the checkpoint is damaged.
        """
        self._ids[chunk.key] = self.store.begin_runs(self.experiment.name, _keys(chunk.phase, chunk.runs))
        own, of_all = self.experiment.checkpoint_of(chunk.key), _beside(self.store, self.experiment.name, "checkpoint")
        for file in (own, of_all):  # earlier versions had one file for the one chunk in flight
            try:
                saved = load_tree(file)
            except FileNotFoundError:
                continue
            with fitting(file):
                tag, segments, written, snapshot = (saved[key] for key in ("tag", "segment", "written", "rollout"))
            if tag == chunk.key and self._has_written(chunk, segments, written):
                file.replace(own)
                return snapshot
        return None

    def begin(self, chunk: Chunk, segments: int) -> None:
        """Drop what the store has of later segments."""
        self.store.rewind(self._ids[chunk.key], segments)
        self._report(chunk, segments)

    def segment(self, chunk: Chunk, number: int, signals: SegmentSignals) -> None:
        """Write the signals into the store."""
        ids = self._ids[chunk.key]
        self.store.write_segment(number, [(ids[row], measured) for row, measured in signals])
        self._report(chunk, number + 1)

    def checkpoint(self, chunk: Chunk, segments: int, snapshot: Snapshot) -> None:
        """Replace the checkpoint."""
        written = self.store.seal_segments(self.experiment.name, self._ids[chunk.key], segments)
        tree = {"tag": chunk.key, "segment": segments, "written": written, "rollout": snapshot}
        save_tree(self.experiment.checkpoint_of(chunk.key), tree)

    def done(self, chunk: Chunk, records: Sequence[RunRecord]) -> None:
        """Write the records into the store, and remove the checkpoint."""
        self._report(chunk, self.experiment.task.num_segments)  # where every run of the chunk diverged, too
        self.store.finish_runs(zip(self._ids[chunk.key], records, strict=True))
        self.experiment.checkpoint_of(chunk.key).unlink(missing_ok=True)

    def _report(self, chunk: Chunk, segments: int) -> None:
        """Report the segments of a chunk that are done, as far as they were not reported before."""
        before = self._reported.get(chunk.key, 0)
        self._reported[chunk.key] = max(before, segments)
        self.progress(len(chunk.runs) * self.experiment.task.segment * max(0, segments - before))

    def _has_written(self, chunk: Chunk, segments: int, expected: str | int) -> bool:
        """Whether the store has the segments that a checkpoint was written after."""
        if isinstance(expected, int):  # by a version that counted them
            return self.store.count_segments(self._ids[chunk.key], segments) == expected
        return self.store.seal_segments(self.experiment.name, self._ids[chunk.key], segments) == expected


def lock_of(store: Store, name: str) -> Path:
    """The file that the process which works on an experiment holds."""
    return _beside(store, name, "lock")


def delete_experiment(store: Store, name: str) -> None:
    """Delete what an experiment has done."""
    store.delete_experiment(name)
    for file in _checkpoints(store, name):
        file.unlink(missing_ok=True)


def _may_go_on(before: ExperimentSpec, now: ExperimentSpec, extends: Extends) -> bool:
    """Whether two specs differ in their studies alone, of which the later one extends the earlier one."""
    now = ExperimentSpec.from_json(now.to_json(), now)
    return replace(before, study=now.study) == now and extends(before.study, now.study)


def _keys(phase: str, runs: Sequence[PlannedRun]) -> list[StoredKey]:
    return [(phase, *run_key(run)) for run in runs]


def _checkpoints(store: Store, name: str, half_written: bool = False) -> list[Path]:
    """The files of snapshots of an experiment, and the one of an earlier version; or those that were being written."""
    file = rf"({re.escape(f'{store.path.name}.{name}.')}(?:[0-9a-f]{{{_KEY_DIGITS}}}\.)?checkpoint)"
    pattern = re.compile(rf"\.{file}\..*\.tmp" if half_written else file)
    matches = (pattern.fullmatch(path.name) for path in store.path.parent.iterdir())
    return [store.path.with_name(match[1]) for match in matches if match]


def _beside(store: Store, name: str, kind: str) -> Path:
    return store.path.with_name(f"{store.path.name}.{name}.{kind}")

"""Curves of many tasks of a family, for a forecaster to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from lr_env.children import Execution
from lr_env.errors import UserError, whole
from lr_env.planner import Planner
from lr_env.provenance import versions
from lr_env.records.readers.base import ImportedRun, Series
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.rollout import PlannedRun
from lr_env.runs.chunks import Chunk, SegmentSignals, Snapshot
from lr_env.runs.engine import Engine, LocalEngine
from lr_env.search import SearchSpace
from lr_env.seeds import COLLECTIONS
from lr_env.tasks import Task
from lr_env.tasks.families import TaskFamily, find_family, split_seeds
from planners.forecaster.facts import facts
from planners.forecaster.from_runs import CONFIGURATION, TASK

SCHEDULES = ("constant", "cosine", "wsd", "one-cycle", "step")
"""Schedules of the runs."""

CONSTANT = 0.5
"""Share of the runs at a constant rate."""

REPEATED = 0.1
"""Default of `Collection.repeated`."""

_BEYOND = 3.0
"""Rates reach beyond the range in which tasks are tuned by this factor, so that runs that fail are among them."""

_SIGNALS = ("train_loss", "val_loss", "val_accuracy")

_STREAM = 0xC011

FINAL = "final_val_loss"
"""Key of a run's config: its loss on the whole validation split at the end, where it was scored."""


class Collecting(Protocol):
    """Runs of tasks of a family, which follow from some settings."""

    @property
    def family(self) -> str:
        """Name of the task family."""
        ...

    @property
    def per_task(self) -> int:
        """Runs of each task."""
        ...

    @property
    def spec(self) -> dict[str, Any]:
        """What the runs depend on, besides their number."""
        ...

    def chunks(self, execution: Execution) -> Iterator[Chunk]:
        """The runs of each task, to be trained together."""
        ...


@dataclass(frozen=True)
class Collection:
    """Runs of tasks of a family, which follow from these settings.

    Attributes:
        family: name of the task family.
        runs: number of runs.
        split: of the family's tasks.
        per_task: runs of each task, in lockstep.
        schedules: names of planners that are drawn from.
        repeated: share of the tasks whose first run is made again on another seed: how far runs differ by luck alone.
        seed: of all that is drawn; another seed has other tasks.

    Raises:
        UserError: there is no such family, split or planner, or a number is below 1.
    """

    family: str
    runs: int
    split: str = "train"
    per_task: int = 2
    schedules: tuple[str, ...] = SCHEDULES
    repeated: float = REPEATED
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("runs", "per_task"):
            whole(name, getattr(self, name))
        whole("seed", self.seed, 0)
        if self._first + self.num_tasks > len(self._seeds) or self.runs > len(COLLECTIONS):
            raise UserError(
                f"the split {self.split!r} has {len(self._seeds):,} tasks: ask for fewer runs or another seed"
            )
        if not 0 <= self.repeated <= 1:
            raise UserError(f"repeated {self.repeated:g}: give a share, from 0 to 1")
        _ = SearchSpace(self.schedules, (1e-3, 1.0))

    @property
    def spec(self) -> dict[str, Any]:
        """What the runs depend on, besides their number."""
        return {**asdict(self), "runs": None}

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return -(-self.runs // self.per_task)

    @property
    def _family(self) -> TaskFamily:
        return find_family(self.family)

    @property
    def _seeds(self) -> range:
        return split_seeds(self._family, self.split)

    @property
    def _first(self) -> int:
        return self.seed * 100_000

    def chunks(self, execution: Execution) -> Iterator[Chunk]:
        """The runs of each task, to be trained together."""
        for number in range(self.num_tasks):
            task = self._family.sample(self._seeds[self._first + number])
            runs = self._runs(task, number)[: self.runs - number * self.per_task]
            yield Chunk(
                f"{self.family} {self.split} {self._first + number}", task, tuple(runs), "collect", (), execution
            )

    def _runs(self, task: Task, number: int) -> list[PlannedRun]:
        draw = np.random.Generator(np.random.PCG64([_STREAM, self.seed, number]))
        low, high = task.tuning_range
        space = SearchSpace(
            self.schedules, (max(low / _BEYOND, task.lr_range[0]), min(high * _BEYOND, task.lr_range[1]))
        )
        planners: list[Planner] = []
        for _ in range(self.per_task):
            others = [name for name in self.schedules if name != "constant"] or list(self.schedules)
            constant = draw.random() < CONSTANT and "constant" in self.schedules
            family = "constant" if constant else others[int(draw.integers(len(others)))]
            peak = float(np.exp(draw.uniform(*np.log(space.lr_range))))
            planners.append(space.at(family, peak, float(draw.random())))
        if self.per_task > 1 and draw.random() < self.repeated:
            planners[1] = planners[0]
        first = number * self.per_task
        return [PlannedRun(planner, COLLECTIONS[first + place]) for place, planner in enumerate(planners)]


def collect(
    collection: Collecting,
    store: Store,
    name: str,
    execution: Execution,
    *,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda runs: None,
) -> int:
    """Train the runs that the store does not have yet, and keep them under a name; return how many were trained.

    A kill loses the runs of the task that is being trained.

    Raises:
        UserError: the name is that of other runs.
    """
    spec = json.loads(json.dumps({"collection": collection.spec, "versions": versions()}))
    there: set[str] = set()
    if name in store.imports():
        before = store.import_spec(name)
        if before.get("collection") != spec["collection"]:
            raise UserError(f"{name!r} holds other runs: choose another --name, or --fresh to start over")
        there = {run.run_id for run in store.imported(name)}
    else:
        store.check_new_import(name)
    left, names = [], []
    for chunk in collection.chunks(execution):
        names += [run_id(chunk.task, number) for number in range(len(chunk.runs))]
        missing = [run_id(chunk.task, number) not in there for number in range(len(chunk.runs))]
        if any(missing) and not all(missing):  # a collection that was smaller
            raise UserError(
                f"{name!r} has a part of the runs of {chunk.task.name}: ask for a multiple of "
                f"{collection.per_task} runs"
            )
        if any(missing):
            left.append(chunk)
        else:
            progress(len(chunk.runs))
    (engine or LocalEngine()).run(left, _CurveSink(collection, store, name, spec, progress))
    store.sort_imported(name, names)  # engines train in any order
    return sum(len(chunk.runs) for chunk in left)


def run_id(task: Task, number: int) -> str:
    """Name of a run of a task."""
    return f"{task.name}/{number}"


class _CurveSink:
    """Keeps the curves of chunks that are done in the store."""

    def __init__(
        self, collection: Collecting, store: Store, name: str, spec: dict[str, Any], progress: Callable[[int], None]
    ) -> None:
        self._collection, self._store, self._name, self._spec, self._progress = collection, store, name, spec, progress
        self._signals: dict[str, list[list[dict[str, float]]]] = {}
        self._snapshots: dict[str, Snapshot] = {}  # of chunks in flight, for a worker that dies

    def resume(self, chunk: Chunk) -> Snapshot | None:
        return self._snapshots.get(chunk.key)

    def begin(self, chunk: Chunk, segments: int) -> None:
        before = self._signals.get(chunk.key, [[] for _ in chunk.runs])
        self._signals[chunk.key] = [of_run[:segments] for of_run in before]

    def segment(self, chunk: Chunk, number: int, signals: SegmentSignals) -> None:
        for row, measured in signals:
            self._signals[chunk.key][row].append(dict(measured))

    def checkpoint(self, chunk: Chunk, segments: int, snapshot: Snapshot) -> None:
        self._snapshots[chunk.key] = snapshot

    def done(self, chunk: Chunk, records: Sequence[RunRecord]) -> None:
        self._snapshots.pop(chunk.key, None)
        signals = self._signals.pop(chunk.key)
        about = facts(chunk.task)
        runs = []
        for number, (record, segments) in enumerate(zip(records, signals, strict=True)):
            planner, settings = record.planner, record.settings
            config = {
                **about,
                TASK: f"{self._collection.family} {chunk.task.data}",
                CONFIGURATION: chunk.task.name,
                "family": self._collection.family,
                "planner": planner,
                "planner_settings": json.dumps(dict(settings), sort_keys=True),
                "seed": record.seed,
                **{name: value for name, value in record.scores.items() if name == FINAL and np.isfinite(value)},
            }
            curves = {name: _series(segments, name) for name in ("lr", *_SIGNALS)}
            runs.append(
                ImportedRun(
                    run_id(chunk.task, number),
                    "lr_env",
                    {name: series for name, series in curves.items() if len(series.at)},
                    config,
                    chunk.task.budget,
                    record.diverged,
                )
            )
        self._store.write_imported(self._name, runs, self._spec, add=self._name in self._store.imports())
        self._progress(len(runs))


def _series(segments: Sequence[dict[str, float]], name: str) -> Series:
    """A signal over steps, where it is finite."""
    at = np.array([measured["step"] for measured in segments], dtype=np.float64)
    values = np.array([measured[name] for measured in segments], dtype=np.float64)
    finite = np.isfinite(values)
    return Series(at[finite], values[finite])

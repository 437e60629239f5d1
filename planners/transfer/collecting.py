"""Runs of many tasks of a family, for a model across tasks to learn from: a search of schedules for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lr_env.architecture.graph import Architecture
from lr_env.children import Execution
from lr_env.errors import UserError, whole
from lr_env.facts import CLASSES
from lr_env.records.readers.base import ImportedRun
from lr_env.rollout import PlannedRun
from lr_env.runs.chunks import Chunk
from lr_env.seeds import COLLECTIONS
from lr_env.tasks import Task
from lr_env.tasks.families import find_family, split_seeds
from planners.forecaster.collecting import FINAL
from planners.forecaster.from_runs import ARCHITECTURE, CONFIGURATION, TASK
from planners.transfer.runs import TaskRuns
from planners.tuning.search_space import Point, schedule_at, sobol

SCHEDULES = ("wsd", "wsd-sqrt", "cosine-warmup", "wsd", "one-cycle", "wsd-sqrt", "constant", "linear")
"""Families of schedules, which take turns."""

_BEYOND = 1.5
"""Peak rates reach beyond the range in which tasks are tuned by this factor."""

_FIRST_SEED = COLLECTIONS.start + 500_000

MOST_TASKS = 200_000
"""Each task has two seeds of its own for its children."""

_CONFIG = {TASK, CONFIGURATION, ARCHITECTURE, FINAL, "family", "planner", "planner_settings", "seed"}


@dataclass(frozen=True)
class Searches:
    """A search of schedules for each of some tasks of a family: Sobol sequences, all in lockstep.

    Attributes:
        family: name of the task family.
        tasks: number of tasks, the first ones of the split.
        per_task: runs of each task. Every fourth is made on a second seed.
        split: of the family's tasks.

    Raises:
        UserError: there is no such family or split, or a number is below 1.
    """

    family: str
    tasks: int
    per_task: int
    split: str = "train"

    def __post_init__(self) -> None:
        whole("tasks", self.tasks)
        whole("runs", self.per_task)
        most = min(MOST_TASKS, len(split_seeds(find_family(self.family), self.split)))
        if self.tasks > most:
            raise UserError(f"{self.tasks} tasks of {self.family}: there are {most:,} at most")

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.tasks * self.per_task

    @property
    def spec(self) -> dict[str, Any]:
        """What the runs depend on, besides their number."""
        return {**asdict(self), "tasks": None, "design": "search"}

    def chunks(self, execution: Execution) -> Iterator[Chunk]:
        """The runs of each task, to be trained together."""
        family = find_family(self.family)
        for number, seed in enumerate(split_seeds(family, self.split)[: self.tasks]):
            task = family.sample(seed)
            key = f"{self.family} {self.split} {number} search"
            yield Chunk(key, task, tuple(self._runs(task, number)), "collect", ("val",), execution)

    def _runs(self, task: Task, number: int) -> Iterator[PlannedRun]:
        low, high = task.tuning_range
        rates = low / _BEYOND, high * _BEYOND
        for place, point in enumerate(sobol(self.per_task, 3, number).tolist()):
            schedule = schedule_at(SCHEDULES[place % len(SCHEDULES)], Point(*point), rates)
            yield PlannedRun(schedule, _FIRST_SEED + 2 * number + (place % 4 == 3))


def tasks_of(runs: Iterable[ImportedRun]) -> list[TaskRuns]:
    """Runs of the record store as runs of tasks, in the order in which the tasks are first met.

    Raises:
        UserError: runs have no rates, validation losses or final losses.
    """
    groups: dict[str, list[ImportedRun]] = {}
    for run in runs:
        groups.setdefault(str(run.config[CONFIGURATION]), []).append(run)
    return [_task_of(name, group) for name, group in groups.items()]


def _task_of(name: str, runs: list[ImportedRun]) -> TaskRuns:
    config = runs[0].config
    facts = {key: value for key, value in config.items() if key not in _CONFIG}
    graph = Architecture.from_json(json.loads(str(config[ARCHITECTURE])))
    segments = max(len(run.curves["lr"].at) for run in runs if "lr" in run.curves)
    rates, losses = (np.full((len(runs), segments), np.nan) for _ in range(2))
    for row, run in enumerate(runs):
        if not {"lr", "val_loss"} <= run.curves.keys() and not run.diverged:
            raise UserError(f"run {run.run_id}: it has no rates or no validation losses, which a model needs")
        for part, signal in ((rates, "lr"), (losses, "val_loss")):
            values = run.curves[signal].values if signal in run.curves else np.empty(0)
            part[row, : len(values)] = values
    ends = [float(run.config.get(FINAL, np.inf)) if not run.diverged else np.inf for run in runs]  # type: ignore[arg-type]
    seeds = [int(run.config["seed"]) for run in runs]  # type: ignore[call-overload]
    chance = float(np.log(float(facts[CLASSES])))  # type: ignore[arg-type]
    return TaskRuns.of(name, facts, graph, chance, rates, losses, np.array(ends), seeds)

"""Simpler tuners with knowledge of other tasks, to compare with: averages, the nearest task, and a forest of trees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError, find
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.tasks import Task
from planners.forecaster.settings import Scaler
from planners.transfer.belief import WORST, Residual, features
from planners.transfer.candidates import Candidates, candidates
from planners.transfer.collecting import tasks_of
from planners.transfer.descriptors import rate_unit
from planners.transfer.evaluation import best_on_average, is_adaptive
from planners.transfer.fit import columns
from planners.transfer.grid import Floats, log_rates
from planners.transfer.knowledge import first_unlike
from planners.transfer.runs import TaskRuns
from planners.transfer.tuner import runs_of
from planners.tuning.tuners import RUNS_PER_SEED, planner_of

_TREES = 300

RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Name of a rule -> power of the batch size by which rates grow."""


@dataclass(frozen=True)
class PriorTuner(ABC):
    """A tuner that knows runs of other tasks.

    Attributes:
        name: name of the tuner.
        store: record store of these runs.
        names: under which they are kept there, joined by "+"; see `lr-env fit --family`.
    """

    name: str
    store: str = "results/records.sqlite"
    names: str = "MLPFamily-MLPFamily"

    most_runs: ClassVar[int | None] = 0

    def batch_size(self, done: int) -> int:
        """One run, for the next depends on it."""
        return 1

    def seed_index(self, run: int) -> int:
        """As other tuners have it: runs that follow each other share a seed."""
        return run // RUNS_PER_SEED

    def check(self, runs: Sequence[int]) -> None:
        """Check that there are such runs.

        Raises:
            UserError: there are none.
        """
        if self.most_runs is not None and max(runs) > self.most_runs:
            raise UserError(f"{max(runs)} runs of tuner {self.name!r}: it makes none")
        _ = self.prior

    @property
    def prior(self) -> tuple[TaskRuns, ...]:
        """The runs of other tasks."""
        return _prior(self.store, self.names)

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """None of these makes runs, unless it says otherwise."""
        raise UserError(f"tuner {self.name!r} makes no runs")

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The schedule that is chosen."""
        known = runs_of(task, [])
        considered = candidates(rate_unit(known.facts), task.lr_range, task.num_segments)
        return considered.schedules[self.choose(known, considered)]

    @abstractmethod
    def choose(self, known: TaskRuns, considered: Candidates) -> int:
        """Index of the schedule that is chosen for a task before its first run."""


@dataclass(frozen=True)
class AverageTuner(PriorTuner):
    """The schedule that is best on average of the other tasks with an optimizer of the same kind.

    Attributes:
        rule: how rates grow with the batch size: none, sqrt or linear.
    """

    name: str = "best-on-average"
    rule: str = "none"

    def choose(self, known: TaskRuns, considered: Candidates) -> int:
        """See `PriorTuner.choose`."""
        power = find("rule", self.rule, RULES)
        alike = [other for other in self.prior if is_adaptive(other) == is_adaptive(known)] or list(self.prior)
        moved = [_moved(other.log_rates, other, power) for other in alike]
        rates = _moved(log_rates(considered.rates, rate_unit(known.facts)), known, power)
        return best_on_average(rates, [(at, other.ends) for at, other in zip(moved, alike, strict=True)])


@dataclass(frozen=True)
class NearestTuner(PriorTuner):
    """The schedule that was best on the other task whose description is nearest."""

    name: str = "nearest-task"

    def choose(self, known: TaskRuns, considered: Candidates) -> int:
        """See `PriorTuner.choose`."""
        scaler, described = _described(self.store, self.names)
        own = scaler(columns([known]), 1)[0]
        nearest = self.prior[int(((described - own) ** 2).sum(1).argmin())]
        best = nearest.log_rates[int(nearest.ends.argmin())]
        rates = log_rates(considered.rates, rate_unit(known.facts))
        return int(((features(rates) - features(best[None])) ** 2).sum(1).argmin())


@dataclass(frozen=True)
class ForestTuner(PriorTuner):
    """Extremely randomised trees over descriptions of tasks and schedules, with a Gaussian process over runs.

    It chooses as `latent-ode-transfer` does, with another model of how runs end.
    """

    name: str = "forest"
    most_runs: ClassVar[int | None] = None

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The schedules with the lowest expected regrets that are unlike those made."""
        known = runs_of(task, records)
        considered = candidates(rate_unit(known.facts), task.lr_range, task.num_segments)
        rates = log_rates(considered.rates, rate_unit(known.facts))
        order = self._ends(known, rates).argsort(kind="stable")
        return [considered.schedules[order[place]] for place in first_unlike(rates[order], known.log_rates, count)]

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The schedule of the best run; what is expected counts half."""
        if not records:
            return super().select(task, seed, records, folder)
        known = runs_of(task, records)
        expected, measured = self._ends(known, known.log_rates), known.ends
        return planner_of(records[int((expected - expected.min() + measured - measured.min()).argmin())])

    def choose(self, known: TaskRuns, considered: Candidates) -> int:
        """See `PriorTuner.choose`."""
        return int(self._ends(known, log_rates(considered.rates, rate_unit(known.facts))).argmin())

    def _ends(self, known: TaskRuns, rates: Floats) -> Floats:
        """Expected ends, up to a constant before the first run, (schedules,)."""
        scaler, _ = _described(self.store, self.names)
        own = scaler(columns([known]), 1)[0]
        trees = _trees(self.store, self.names)
        expect = lambda at: trees.predict(np.concatenate([np.repeat(own, len(at), 0), features(at)], 1))  # noqa: E731
        if not len(known):
            return expect(rates)
        at_runs = expect(known.log_rates)
        offset = float(np.median(known.ends - at_runs))
        return expect(rates) + offset + Residual(known, at_runs + offset)(rates)[0]


def _moved(rates: Floats, task: TaskRuns, power: float) -> Floats:
    """Log rates as they would be at a batch size of 32 by a rule."""
    return rates - power * np.log(float(task.facts["batch_size"]) / 32)


@lru_cache(maxsize=4)
def _prior(store: str, names: str) -> tuple[TaskRuns, ...]:
    with closing(Store.reading(Path(store))) as records:
        return tuple(task for name in names.split("+") for task in tasks_of(records.imported(name)))


@lru_cache(maxsize=4)
def _described(store: str, names: str) -> tuple[Scaler, NDArray[np.float64]]:
    """A scaler of descriptions, and those of the other tasks, (tasks, numbers)."""
    tasks = _prior(store, names)
    scaler = Scaler.of(columns(tasks))
    return scaler, scaler(columns(tasks), len(tasks))[0]


@lru_cache(maxsize=4)
def _trees(store: str, names: str) -> Any:
    """Trees that are fitted to the regrets of all runs of other tasks."""
    from sklearn.ensemble import ExtraTreesRegressor

    tasks, (_, described) = _prior(store, names), _described(store, names)
    inputs = [
        np.concatenate([np.repeat(row[None], len(task), 0), features(task.log_rates)], 1)
        for row, task in zip(described, tasks, strict=True)
    ]
    regrets = [np.minimum(task.ends - task.ends.min(), WORST) for task in tasks]
    trees = ExtraTreesRegressor(_TREES, min_samples_leaf=2, max_features=0.5, random_state=0, n_jobs=1)
    return trees.fit(np.concatenate(inputs), np.concatenate(regrets))

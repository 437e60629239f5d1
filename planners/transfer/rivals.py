"""Simpler tuners with knowledge of other tasks, to compare with: averages, the nearest task, and a forest of trees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import find
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.tasks import Task
from planners.forecaster.settings import Scaler
from planners.transfer.belief import WORST, Outlook
from planners.transfer.candidates import Candidates, candidates
from planners.transfer.collecting import tasks_of
from planners.transfer.descriptors import rate_unit
from planners.transfer.evaluation import best_on_average, is_adaptive
from planners.transfer.fit import columns
from planners.transfer.grid import Floats, log_rates
from planners.transfer.knowledge import first_unlike
from planners.transfer.runs import TaskRuns
from planners.transfer.spread import Errors, Posterior, Schedules, Spread, features
from planners.transfer.tuner import runs_of
from planners.tuning.tuners import KnowingTuner, planner_of

_TREES = 300

_PARTS = 5
"""Parts of the tasks that are left out in turn, to learn how far trees are off."""

_ANY_LEVEL = 10.0
"""Standard deviation of what the ends of all runs of a task have in common, which trees do not forecast."""

RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Name of a rule -> power of the batch size by which rates grow."""


@dataclass(frozen=True)
class PriorTuner(KnowingTuner, ABC):
    """A tuner that knows runs of other tasks.

    Attributes:
        name: name of the tuner.
        store: record store of these runs.
        names: under which they are kept there, joined by "+"; see `lr-env fit --family`.
    """

    name: str
    store: str = "results/records.sqlite"
    names: str = "MLPFamily-MLPFamily"

    def check(self, runs: Sequence[int]) -> None:
        """Check that it makes so many runs, and that there are runs of other tasks.

        Raises:
            UserError: it does not, or there are none.
        """
        super().check(runs)
        _ = self.prior

    @property
    def prior(self) -> tuple[TaskRuns, ...]:
        """The runs of other tasks."""
        return _prior(self.store, self.names)

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
        order = self._outlook(known, rates).regrets.argsort(kind="stable")
        return [considered.schedules[order[place]] for place in first_unlike(rates[order], known.log_rates, count)]

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The schedule of the best run; what is expected counts half."""
        if not records:
            return super().select(task, seed, records, folder)
        known = runs_of(task, records)
        expected = self._outlook(known, known.log_rates).regrets
        measured = np.minimum(known.ends - known.ends.min(), WORST)
        return planner_of(records[int((expected - expected.min() + measured).argmin())])

    def choose(self, known: TaskRuns, considered: Candidates) -> int:
        """See `PriorTuner.choose`."""
        return int(self._outlook(known, log_rates(considered.rates, rate_unit(known.facts))).regrets.argmin())

    def _outlook(self, known: TaskRuns, rates: Floats) -> Outlook:
        """How runs would end, up to a constant before the first run."""
        scaler, _ = _described(self.store, self.names)
        own = scaler(columns([known]), 1)[0]
        trees, spread = _forest(self.store, self.names)
        expect = lambda at: trees.predict(_inputs(own, at))[None]  # noqa: E731
        schedules, one = _schedules(rates), np.ones(1)
        if not len(known):
            return Outlook.of(expect(rates), spread.between(schedules, schedules), one)
        ends = np.minimum(known.ends, known.ends.min() + WORST)
        spread = replace(spread, offset=_ANY_LEVEL)
        posterior = Posterior(spread, _schedules(known.log_rates), ends, expect(known.log_rates), np.array(known.seeds))
        return Outlook.of(expect(rates) + posterior.mean(schedules), posterior.covariance(schedules), one)


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
def _forest(store: str, names: str) -> tuple[Any, Spread]:
    """Trees that are fitted to the regrets of all runs of other tasks, and their errors on tasks left out."""
    tasks, (_, described) = _prior(store, names), _described(store, names)
    inputs = [_inputs(row[None], task.log_rates) for row, task in zip(described, tasks, strict=True)]
    regrets = [np.minimum(task.ends - task.ends.min(), WORST) for task in tasks]
    errors = []
    for part in range(min(_PARTS, len(tasks))):
        left_out, kept = range(part, len(tasks), _PARTS), [at for at in range(len(tasks)) if at % _PARTS != part]
        trees = _fitted([inputs[at] for at in kept], [regrets[at] for at in kept])
        errors += [
            Errors(
                _schedules(tasks[at].log_rates),
                regrets[at] - trees.predict(inputs[at]),
                regrets[at],
                np.array(tasks[at].seeds),
            )
            for at in left_out
        ]
    return _fitted(inputs, regrets), Spread.of(errors)


def _fitted(inputs: Sequence[Floats], regrets: Sequence[Floats]) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(_TREES, min_samples_leaf=2, max_features=0.5, random_state=0, n_jobs=1)
    return trees.fit(np.concatenate(inputs), np.concatenate(regrets))


def _inputs(own: Floats, rates: Floats) -> Floats:
    """What trees read of schedules for a task with a description, (1, numbers)."""
    return np.concatenate([np.repeat(own, len(rates), 0), features(rates)], 1)


def _schedules(rates: Floats) -> Schedules:
    """Schedules for a model without a code of tasks."""
    return Schedules(features(rates), np.zeros((1, 1, len(rates))))

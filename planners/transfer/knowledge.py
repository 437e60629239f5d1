"""A model's belief of one task, and the schedules that are considered for it: who plans, and who proposes runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.architecture.graph import Architecture
from lr_env.errors import UserError
from lr_env.facts import CLASSES
from planners.schedule import Schedule
from planners.transfer.artifact import TransferModel
from planners.transfer.belief import WORST, Belief
from planners.transfer.candidates import Candidates, candidates
from planners.transfer.descriptors import rate_unit
from planners.transfer.grid import STEPS, Floats, log_rates
from planners.transfer.runs import TaskRuns

_FINALISTS = 96
"""Schedules that are considered with draws; the others were worse at first guess."""


_OTHERS = 5
"""Schedules that are named beside the one that is chosen."""


def task_without_runs(name: str, facts: Mapping[str, Any], architecture: Architecture | None) -> TaskRuns:
    """Return what is known of a task before its first run.

    Raises:
        UserError: its optimizer is none that models are fitted to.
    """
    rate_unit(facts)
    classes = facts.get(CLASSES)
    chance = float(np.log(classes)) if isinstance(classes, int | float) and classes >= 2 else np.nan
    none = np.empty((0, STEPS))
    return TaskRuns(name, facts, architecture, chance, none, none, np.empty(0), ())


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a model knows of one task.

    Attributes:
        model: the model.
        task: what is known of the task, with its runs so far.
        lr_range: smallest and largest rate.
        segments: of a run.
    """

    model: TransferModel
    task: TaskRuns
    lr_range: tuple[float, float]
    segments: int

    @property
    def unit(self) -> float:
        """The rate that counts as 1."""
        return rate_unit(self.task.facts)

    @property
    def beyond(self) -> str:
        """What of the task lies beyond what the model was fitted to, in words; empty where nothing does."""
        found = self.model.fitted.beyond(self.task)
        return f"beyond what the model was fitted to, so that it guesses: {', '.join(found)}" if found else ""

    @cached_property
    def belief(self) -> Belief:
        """The belief of the task."""
        return Belief(self.model, self.task)

    @cached_property
    def candidates(self) -> Candidates:
        """The schedules that are considered.

        Raises:
            UserError: the range allows none.
        """
        found = candidates(self.unit, self.lr_range, self.segments)
        if not len(found):
            raise UserError(f"rates from {self.lr_range[0]:g} to {self.lr_range[1]:g}: no schedule that is considered")
        return found

    @cached_property
    def _finalists(self) -> list[int]:
        """Indices of the better schedules, the best first."""
        rates = log_rates(self.candidates.rates, self.unit)
        order = self.belief.first_guess(rates).argsort(kind="stable")[:_FINALISTS]
        ranked = self.belief.outlook(rates[order]).regrets.argsort(kind="stable")
        return order[ranked].tolist()

    @cached_property
    def best(self) -> Schedule:
        """The schedule with the lowest expected regret; of those that were made, where that is known of any.

        Among these, what was measured counts half: the luckiest of many runs is not the best, nor what is believed.
        """
        order = self._finalists
        made = self._made
        if not made:
            return self.candidates.schedules[order[0]]
        runs = [run for run, _ in made]
        outlook = self.belief.outlook(self.task.log_rates[runs])
        ends = _without_luck(self.task.ends[runs], outlook.means, np.array(self.task.seeds)[runs])
        measured = np.minimum(ends - ends.min(), WORST)
        best = int((outlook.regrets - outlook.regrets.min() + measured).argmin())
        return self.candidates.schedules[made[best][1]]

    @property
    def others(self) -> list[Schedule]:
        """The schedules with the lowest expected regrets, the best first."""
        order = self._finalists
        return [self.candidates.schedules[place] for place in order[:_OTHERS]]

    @cached_property
    def _made(self) -> list[tuple[int, int]]:
        """Runs of schedules that are considered: the number of each, and the index of its schedule."""
        if not len(self.task):
            return []
        rates = log_rates(self.candidates.rates, self.unit)
        distances = np.abs(self.task.log_rates[:, None] - rates[None]).max(-1)
        return [(run, int(row.argmin())) for run, row in enumerate(distances) if row.min() < _SAME]

    @property
    def expected_gain(self) -> float:
        """By how much the next run is expected to lower the log of the lowest final loss; infinite before the first."""
        return float(self._gains.max()) if len(self.task) else np.inf

    @cached_property
    def _gains(self) -> Floats:
        """Expected gain of a run under each of the better schedules over the best one that was made, (schedules,)."""
        order = self._finalists
        outlook = self.belief.outlook(np.concatenate([self._rates(order), self.task.log_rates]))
        best_made = len(order) + int(outlook.regrets[len(order) :].argmin())
        return outlook.gains(best_made)[: len(order)]

    def next(self, count: int) -> list[Schedule]:
        """Return the schedules of the next runs, which are unlike those made, and unlike each other.

        The first ones are those with the lowest expected regret: to look for the largest gain at once was measured to
        be worse, for a run that fails teaches little of the schedules that are good. Later ones have the largest gain:
        those with the lowest expected regret stay where the first ones were.
        """
        order = self._finalists
        if len(self.task) >= _SAFE_RUNS:
            order = [order[place] for place in (-self._gains).argsort(kind="stable")]
        chosen = first_unlike(self._rates(order), self.task.log_rates, count)
        return [self.candidates.schedules[order[place]] for place in chosen]

    def _rates(self, order: list[int]) -> Floats:
        return log_rates(self.candidates.rates[order], self.unit)


_SAFE_RUNS = 5
"""So many runs are chosen by their expected regret, the later ones by their expected gain."""

_SAME = 0.02
"""Largest difference of a log rate between a run and a schedule that it is taken to be of."""

_APART = 0.15
"""Smallest difference of a log rate between schedules of which one was made, or that are made at once."""


def first_unlike(rates: Floats, made: Floats, count: int) -> list[int]:
    """Return indices of the first schedules that are unlike those made and each other, then of those that are left out.

    Args:
        rates: their log rates, the best schedule first, (schedules, STEPS).
        made: log rates of runs that were made, (runs, STEPS).
        count: how many indices.
    """
    chosen: list[int] = []
    for place, own in enumerate(rates):
        if all(np.abs(own - other).max() >= _APART for other in (*made, *rates[chosen])):
            chosen.append(place)
    rest = [place for place in range(len(rates)) if place not in chosen]
    return (chosen + rest)[:count]


def _without_luck(ends: Floats, believed: Floats, seeds: NDArray[np.int64]) -> Floats:
    """Ends of runs, (runs,), without what the runs of each seed have in common beyond what is believed of them."""
    error = ends - believed
    luck = {seed: float(np.median(error[seeds == seed])) for seed in set(seeds.tolist())}
    return ends - np.array([luck[seed] for seed in seeds.tolist()])

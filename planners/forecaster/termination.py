"""Predictive termination: a run ends early once it is sure to end above the best (after Domhan et al., IJCAI 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from lr_env.capabilities import Previewable
from lr_env.errors import UserError
from lr_env.files import sha256_of
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.registry import make_planner
from lr_env.tasks import Task
from planners.forecaster.curves import POINTS, CurveSet, Floats, join
from planners.forecaster.description import RunDescription
from planners.forecaster.facts import describe
from planners.forecaster.fit import FittedODE
from planners.forecaster.forecaster import FORECASTERS, Forecaster
from planners.forecaster.intervals import LEVEL, Intervals

FEWEST_RUNS = 3
"""Whole runs before the first is stopped: by them the forecasts are corrected."""

EVERY = 5
"""A run may end each time that so many points of the grid were passed."""

SHIPPED = "AllFamilies"
"""The model that is used where none is named."""


@dataclass(frozen=True)
class Correction:
    """What the whole runs of a task say of forecasts of it.

    Attributes:
        shift: how far the logarithm of the last value is from the median, as a rule.
        wider: factor of the interval's width.
    """

    shift: float = 0.0
    wider: float = 1.0

    @classmethod
    def of(cls, errors: Floats, below: Floats, above: Floats) -> Correction:
        """Correct forecasts by their errors.

        Args:
            errors: log(last value / median) of each whole run, (runs,).
            below: log(median / low end of the interval), (runs,).
            above: log(high end / median), (runs,).

        The shift is their median, shrunk where runs are few. The interval gets wide enough to hold as many of the
        shifted errors as it says, and never narrower.
        """
        count = len(errors)
        shift = float(np.median(errors)) * count / (count + FEWEST_RUNS)
        away = errors - shift
        ratios = np.abs(away) / np.where(away < 0, below, above)
        return cls(shift, max(1.0, float(np.quantile(ratios, min(1.0, np.ceil((count + 1) * LEVEL) / count)))))


@dataclass(frozen=True, eq=False)
class ForecastPruner:
    """Ends a run once the lower end of the forecast of its last validation loss is above the best one.

    Attributes:
        ode: forecasts.
        intervals: of the forecasts.
        task: what is trained.
        base: what is known of a run of the task before its rates.
        best: lowest last validation loss of the whole runs.
        corrections: segments done -> what the whole runs say of forecasts from there.
    """

    ode: FittedODE
    intervals: Intervals
    task: Task
    base: RunDescription
    best: float
    corrections: Mapping[int, Correction]

    def stops(self, planner: Planner, losses: Floats, rates: Floats) -> bool:
        """Whether a run ends now; see `lr_env.pruning.Pruner`."""
        correction = self.corrections.get(len(losses))
        if correction is None or not np.isfinite(losses).all():
            return False
        run = described(self.base, self.task, planner, losses, rates).curves("val_loss")
        (median,), (below,), _ = last_forecast(self.ode, self.intervals, run, points_after(self.task, len(losses)))
        return bool(np.log(median) + correction.shift - correction.wider * below > np.log(self.best))


@dataclass(frozen=True)
class ForecastRule:
    """Ends runs that are forecast to end above the best so far, at 95 % one-sided.

    The model need not know the task: its forecasts are corrected by the whole runs so far.

    Attributes:
        model: a file of `lr-env forecast fit`, or the name of a shipped model.
    """

    model: str

    @classmethod
    def of(cls, option: str) -> ForecastRule:
        """The rule with the model of a text, or the shipped one.

        Raises:
            UserError: there is no such model, or it does not forecast validation losses.
        """
        rule = cls(option or SHIPPED)
        _ = rule._forecaster
        return rule

    @property
    def _forecaster(self) -> Forecaster:
        return _load(self.model)

    def to_json(self) -> list[str]:
        """Its name, and what the model's file holds."""
        return ["forecast", sha256_of(FORECASTERS.path(self.model))]

    def pruner(self, records: Sequence[RunRecord], task: Task) -> ForecastPruner | None:
        """The pruner of the next runs, see `lr_env.pruning.PruningRule`; None where there are too few whole runs."""
        whole = [record for record in records if not (record.pruned or record.diverged)]
        if len(whole) < FEWEST_RUNS:
            return None
        forecaster, base = self._forecaster, describe(task)
        intervals = forecaster.home.intervals["ode"]
        runs = join([_curve_of(base, task, record) for record in whole])
        ends = runs.values[:, -1]
        corrections = {}
        for segments in checks(task):
            medians, below, above = last_forecast(forecaster.ode, intervals, runs, points_after(task, segments))
            corrections[segments] = Correction.of(np.log(ends / medians), below, above)
        return ForecastPruner(forecaster.ode, intervals, task, base, float(ends.min()), corrections)


def checks(task: Task) -> list[int]:
    """Numbers of segments after which a run may end."""
    ends = range(2, task.num_segments)
    return [end for end in ends if points_after(task, end) // EVERY > points_after(task, end - 1) // EVERY]


def points_after(task: Task, segments: int) -> int:
    """Points of the grid up to the end of a segment."""
    return int(np.floor(segments * task.segment / task.budget * (POINTS - 1) + 1e-9)) + 1


def described(base: RunDescription, task: Task, planner: Planner, losses: Floats, rates: Floats) -> RunDescription:
    """A run under a planner, as far as it is known: its schedule too, or its rates so far where it has none."""
    if isinstance(planner, Previewable):
        planned = np.asarray(planner.preview(task.num_segments), np.float64).reshape(task.num_segments, -1)[:, -1]
    else:
        planned = np.append(rates, np.full(task.num_segments - len(rates), rates[-1]))
    steps = task.segment * np.arange(1, len(losses) + 1)
    return replace(base, lr=planned, steps=steps, values=losses)


def last_forecast(ode: FittedODE, intervals: Intervals, runs: CurveSet, points: int) -> tuple[Floats, Floats, Floats]:
    """Medians of the last values, and the logarithms of how far the interval goes below and above, (runs,) each."""
    medians, scales = ode(runs.seen(points), points)
    low, high = intervals(medians, {"ode": scales}, points)
    last = medians[:, -1]
    return last, np.log(last / low[:, -1]), np.log(high[:, -1] / last)


def _curve_of(base: RunDescription, task: Task, record: RunRecord) -> CurveSet:
    planner: Any = make_planner(record.planner, record.settings)
    return described(base, task, planner, record.curves["val_loss"], record.curves["lr"]).curves("val_loss")


@cache
def _load(model: str) -> Forecaster:
    forecaster = Forecaster.load(model)
    if forecaster.reference.metric != "val_loss":
        raise UserError(f"model {model!r} forecasts {forecaster.reference.metric}: give one of val_loss")
    return forecaster

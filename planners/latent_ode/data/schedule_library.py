"""The schedules of a sweep and how they ended: where plans start from, and where a model is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lr_env.errors import UserError
from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.data.dataset import RunDataset, end_losses, run_weights
from planners.latent_ode.data.rate_curve import RateCurve
from planners.piecewise import Knots

POINTS = 41
"""Evenly spaced times of a run, its start and its end among them, at which rates and losses are saved."""

TIMES = np.linspace(0, 1, POINTS)
"""These times, as shares of the run."""

MIN_DURATION = 0.98
"""A run that lasts for less than this share of the budget did not play a whole schedule."""

NEAR_BEST_WEIGHT = 0.5
"""A run or schedule ended near the best if its weight by `run_weights` is at least this."""


@dataclass(frozen=True, eq=False)
class ScheduleLibrary:
    """The schedules of a sweep, each once, without those of which a run diverged or stopped early.

    Attributes:
        log_rates: log rates at `TIMES`, (schedules, points).
        log_losses: log validation losses at `TIMES`, mean over seeds, (schedules, points).
        final_losses: log losses on the whole validation split at the end, mean over seeds, (schedules,); the last log
            loss on the validation subset where that was not measured.
        names: planner and settings of each schedule; free-form schedules are all named "knots".

    Raises:
        ValueError: there is no schedule, or the arrays have other shapes.
    """

    log_rates: Floats
    log_losses: Floats
    final_losses: Floats
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = [array.shape for array in (self.log_rates, self.log_losses, self.final_losses)]
        if count == 0 or shapes != [(count, POINTS), (count, POINTS), (count,)]:
            raise ValueError(f"{count} schedules of the sweep do not fit arrays of the shapes {shapes}")

    @property
    def curves(self) -> RateCurve:
        """All schedules, (schedules, points)."""
        return RateCurve(self.log_rates)

    def curve(self, index: int) -> RateCurve:
        """Return one schedule, (points,)."""
        return RateCurve(self.log_rates[index])

    def mean_of_best(self, count: int) -> RateCurve:
        """Average the log rates of the best schedules, (points,)."""
        return RateCurve(self.log_rates[self.ranking[:count]].mean(0))

    @cached_property
    def near_best(self) -> list[int]:
        """Indices of the schedules that ended near the best."""
        weights = run_weights(self.final_losses, self.log_losses[:, 0], np.zeros(len(self.names), dtype=bool))
        return np.flatnonzero(weights >= NEAR_BEST_WEIGHT).tolist()

    @cached_property
    def trust_region(self) -> RateCurve:
        """The schedules that ended near the best, (schedules, points): a model is trusted between their rates."""
        return RateCurve(self.log_rates[self.near_best])

    @cached_property
    def ranking(self) -> list[int]:
        """Indices of the schedules, best first."""
        return np.argsort(self.final_losses, kind="stable").tolist()

    @property
    def parametric_order(self) -> list[int]:
        """Indices of the schedules of a named shape, such as cosine, best first; of all if none has a name."""
        return [index for index in self.ranking if self.names[index] != Knots.name] or self.ranking

    @property
    def best_parametric(self) -> int:
        """Index of the best schedule of a named shape."""
        return self.parametric_order[0]


def schedule_library(dataset: RunDataset) -> ScheduleLibrary:
    """Collect the schedules of a sweep's runs.

    Raises:
        UserError: no schedule is left, for each has a run that diverged or was shorter than the budget.
    """
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(dataset.labels):
        rows_of.setdefault(label, []).append(row)
    rows_of = {label: rows for label, rows in rows_of.items() if not dataset.diverged[rows].any()}
    if not rows_of:
        raise UserError("of every schedule of the sweep a run diverged: give lower rates")
    last_steps = dataset.steps[:, -1]
    rows_of = {
        label: rows for label, rows in rows_of.items() if (last_steps[rows] >= MIN_DURATION * dataset.budget).all()
    }
    if not rows_of:
        raise UserError(f"no run lasts for {dataset.budget} steps: give the budget of the runs as --budget")
    ends = end_losses(dataset.final, dataset.values)
    return ScheduleLibrary(
        np.array([_mean_curve(dataset, rows, np.log(dataset.lr)) for rows in rows_of.values()]),
        np.array([_mean_curve(dataset, rows, dataset.values[..., LOSS]) for rows in rows_of.values()]),
        np.array([ends[rows].mean() for rows in rows_of.values()]),
        tuple(Knots.name if label.startswith(f"{Knots.name} ") else label for label in rows_of),
    )


def _mean_curve(dataset: RunDataset, rows: Sequence[int], values: Floats) -> Floats:
    """Interpolate values (runs, points) of some runs at `TIMES`, and average over the runs, (POINTS,)."""
    curves = []
    for row in rows:
        steps, measured = dataset.steps[row, : dataset.lengths[row]], values[row, : dataset.lengths[row]]
        finite = np.isfinite(measured)
        curves.append(np.interp(TIMES, steps[finite] / steps[-1], measured[finite]))
    return np.mean(curves, axis=0)

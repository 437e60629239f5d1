"""The schedules of a sweep and how they ended: what plans begin from, and where a model is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lr_env.errors import UserError
from planners.latent_ode.data.dataset import LOSS, Floats, Series, weights_of
from planners.piecewise import Knots

POINTS = 41
"""Evenly spaced times of a run, its start and its end among them, at which rates and losses are kept."""

TIMES = np.linspace(0, 1, POINTS)

WHOLE = 0.98
"""Share of the budget that a run lasts for at least whose rates are those of a whole schedule."""

TRUSTED = 0.5
"""Least weight of a run for its rates to count as seen, see `weights_of`."""


@dataclass(frozen=True, eq=False)
class Repertoire:
    """Schedules of which no run diverged or stopped before its time, each once.

    Attributes:
        log_rates: at `TIMES`, (schedules, points).
        log_losses: log validation losses at those times, (schedules, points), mean over seeds.
        ends: log losses on the whole validation split at the end, (schedules,), mean over seeds; where it was not
            measured, the last on the subset.
        names: planner and settings of each; of those that no one uses only the planner.
    """

    log_rates: Floats
    log_losses: Floats
    ends: Floats
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = [array.shape for array in (self.log_rates, self.log_losses, self.ends)]
        if count == 0 or shapes != [(count, POINTS), (count, POINTS), (count,)]:
            raise ValueError(f"{count} schedules of the sweep do not fit arrays of the shapes {shapes}")

    @cached_property
    def trusted(self) -> Floats:
        """Log rates of the schedules that ended near the best, (schedules, points)."""
        return self.log_rates[self.good]

    @cached_property
    def good(self) -> list[int]:
        """Numbers of those."""
        weights = weights_of(self.ends, self.log_losses[:, 0], np.zeros(len(self.ends), dtype=bool))
        return np.flatnonzero(weights >= TRUSTED).tolist()

    @cached_property
    def order(self) -> list[int]:
        """Numbers of the schedules, the best first."""
        return np.argsort(self.ends, kind="stable").tolist()

    def middle(self, count: int) -> Floats:
        """The mean of the log rates of so many of the best, (points,)."""
        return self.log_rates[self.order[:count]].mean(0)

    @property
    def families(self) -> list[int]:
        """Numbers of the schedules that people use, the best first; of all, if there are none of those."""
        return [number for number in self.order if self.names[number] != Knots.name] or self.order

    @property
    def best_family(self) -> int:
        """Number of the best schedule that people use."""
        return self.families[0]


def repertoire_of(series: Series) -> Repertoire:
    """The repertoire of a sweep's runs.

    Raises:
        UserError: of every schedule a run diverged, or was shorter than the budget.
    """
    by_name: dict[str, list[int]] = {}
    for row, label in enumerate(series.labels):
        by_name.setdefault(label, []).append(row)
    kept = {name: rows for name, rows in by_name.items() if not series.diverged[rows].any()}
    if not kept:
        raise UserError("of every schedule of the sweep a run diverged: give lower rates")
    ends = series.steps[:, -1]
    kept = {name: rows for name, rows in kept.items() if (ends[rows] >= WHOLE * series.budget).all()}
    if not kept:
        raise UserError(f"no run lasts for {series.budget} steps: give the budget of the runs as --budget")
    ends = [[_end(series, row) for row in rows] for rows in kept.values()]
    return Repertoire(
        np.array([_mean(series, rows, np.log(series.lr)) for rows in kept.values()]).reshape(-1, POINTS),
        np.array([_mean(series, rows, series.values[..., LOSS]) for rows in kept.values()]).reshape(-1, POINTS),
        np.array([float(np.mean(of)) for of in ends], dtype=np.float64),
        tuple(Knots.name if name.startswith(f"{Knots.name} ") else name for name in kept),
    )


def _end(series: Series, row: int) -> float:
    final = series.final[row]
    if np.isfinite(final):
        return float(final)
    losses = series.values[row, : series.lengths[row], LOSS]
    return float(losses[np.isfinite(losses)][-1])


def _mean(series: Series, rows: Sequence[int], values: Floats) -> Floats:
    """Mean over runs of what was seen, at `TIMES`."""
    found = []
    for row in rows:
        steps, seen = series.steps[row, : series.lengths[row]], values[row, : series.lengths[row]]
        known = np.isfinite(seen)
        found.append(np.interp(TIMES, steps[known] / steps[-1], seen[known]))
    return np.mean(found, axis=0)

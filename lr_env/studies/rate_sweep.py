"""A sweep of rates on several seeds, and the rate with the lowest loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lr_env.capabilities import OwnOptimizer
from lr_env.errors import UserError
from lr_env.files import json_numbers
from lr_env.records.record import RunRecord
from lr_env.registry import find_planner, has_peak, setting_defaults
from lr_env.report.chart import Series
from lr_env.report.document import Column
from lr_env.stats.intervals import DRAWS, Seeds, resampled
from lr_env.studies.comparison.comparison import ComparisonPlan

Floats = NDArray[np.float64]

FEWEST_SEEDS = 5
"""With fewer an interval over seeds says little: with 2 or 3, 53 and 81 % of percentile intervals held the truth."""

MOST_AT_EDGE = 0.05
"""The best rate counts as found where at most this share of bootstrap samples has it at an end of the grid."""


@dataclass(frozen=True)
class RateSweep:
    """A sweep of rates, the same seeds at each.

    Attributes:
        rates: increasing, (rates,).
        losses: final loss on the whole validation split, nats per example, (rates, seeds); infinite where diverged.
    """

    rates: Floats
    losses: Floats

    @property
    def lowest(self) -> int:
        """Index of the rate with the lowest mean loss."""
        return int(np.argmin(self.mean()))

    @cached_property
    def at_edge(self) -> bool:
        """Whether the best rate may lie beyond the grid.

        It may where the lowest loss lies at an end of the grid, or does so for more than `MOST_AT_EDGE` of bootstrap
        samples of the seeds.
        """
        ends = 0, len(self.rates) - 1
        (draws,) = resampled([self.losses.shape[1]], DRAWS)
        lowest = [int(np.argmin(self.mean(seeds))) for seeds in draws]
        return self.lowest in ends or float(np.isin(lowest, ends).mean()) > MOST_AT_EDGE

    def best(self, seeds: Seeds | None = None) -> float:
        """The best rate by mean loss over seeds with these indices, or all; see `parabola_minimum`."""
        return parabola_minimum(self.rates, self.mean(seeds))

    def mean(self, seeds: Seeds | None = None) -> Floats:
        """Mean loss at each rate, (rates,), over seeds with these indices, or all."""
        return (self.losses if seeds is None else self.losses[:, seeds]).mean(1)

    def interpolate(self, rates: ArrayLike, seeds: Seeds | None = None) -> Floats:
        """Mean losses at other rates, of their shape: on the parabola through the nearest rate and its neighbours.

        The parabola is in the log of the rate, as in `parabola_minimum`. Where it falls below 0, as no loss does, the
        straight line between the two rates is taken. Outside the sweep the loss is that at its end; between two rates
        of which one diverged it is infinite.
        """
        logs, mean = np.log(self.rates), self.mean(seeds)
        at = np.log(np.clip(rates, self.rates[0], self.rates[-1]))
        nearest = np.clip(np.abs(np.subtract.outer(at, logs)).argmin(-1), 1, len(logs) - 2)
        (x0, x1, x2), (y0, y1, y2) = ([of[nearest + shift] for shift in (-1, 0, 1)] for of in (logs, mean))
        right = np.clip(np.searchsorted(logs, at - 1e-9), 0, len(logs) - 1)
        left = np.where(np.abs(logs[right] - at) < 1e-9, right, np.maximum(right - 1, 0))
        with np.errstate(invalid="ignore"):
            bent = (
                y0 * (at - x1) * (at - x2) / ((x0 - x1) * (x0 - x2))
                + y1 * (at - x0) * (at - x2) / ((x1 - x0) * (x1 - x2))
                + y2 * (at - x0) * (at - x1) / ((x2 - x0) * (x2 - x1))
            )
            share = np.where(right > left, (at - logs[left]) / np.maximum(logs[right] - logs[left], 1e-300), 0.0)
            straight = np.where(right > left, mean[left] * (1 - share) + mean[right] * share, mean[left])
        inside = np.isfinite(mean[left]) & np.isfinite(mean[right])
        is_loss = np.isfinite(bent) & (bent > -1e-9)  # as small below 0 as it may be by rounding
        return np.where(inside, np.where(is_loss, bent, straight), np.inf)

    def series(self, name: str, style: int, scale: float = 1.0) -> list[Series]:
        """Mean losses over the rates, a star at the lowest, and each seed, for a chart.

        Args:
            name: of the sweep, and of its button.
            style: see `lr_env.report.chart.Series`.
            scale: factor of the rates.
        """
        rates, mean, lowest = scale * self.rates, self.mean(), self.lowest
        look: dict[str, Any] = {"style": style, "group": name}
        seeds = [f"seed number {number}" for number in range(self.losses.shape[1])]
        return [
            Series(name, rates, self.losses.T, behind=True, texts=seeds, **look),
            Series(name, rates, mean, **look),
            Series(name, rates, mean, "points", **look),
            Series(f"{name}: lowest", [rates[lowest]], [mean[lowest]], "points", marker="star", **look),
        ]

    def to_json(self) -> dict[str, Any]:
        """The sweep and its best rate; null where a run diverged."""
        return {
            "best_rate": self.best(),
            "at_edge_of_grid": self.at_edge,
            "rates": self.rates.tolist(),
            "losses": json_numbers(self.losses.tolist()),
        }


EDGE_COLUMN = Column[Any](
    "near grid end", lambda part: part.sweep.at_edge, lambda edge: "yes" if edge else "", 0, head="grid\nend"
)
"""Column of a table of things that have a `sweep`: whether its best rate may lie beyond the grid."""


def parabola_minimum(rates: Floats, losses: Floats) -> float:
    """The minimum of the parabola in the log of the rate through the lowest loss and its neighbours.

    At an end of the grid, or beside a rate that diverged, it is the rate of the lowest loss.
    """
    best = int(np.argmin(losses))
    if not 0 < best < len(rates) - 1 or not np.isfinite(losses[best - 1 : best + 2]).all():
        return float(rates[best])
    (x0, x1, x2), (y0, y1, y2) = np.log(rates[best - 1 : best + 2]).tolist(), losses[best - 1 : best + 2].tolist()
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return float(rates[best])
    return float(np.exp(np.clip((x0 + x1) / 2 - left / (2 * curvature), x0, x2)))


def check_sweep(plan: ComparisonPlan, planner: str) -> None:
    """Check that a plan can sweep a planner over the task's rates, with seeds for an interval.

    Raises:
        UserError: it cannot.
    """
    if isinstance(find_planner(planner), OwnOptimizer):
        raise UserError(
            f"planner {planner!r} brings an optimizer of its own, whose rates are not the task's: sweep another planner"
        )
    if not has_peak(planner):
        raise UserError(f"planner {planner!r} has no peak rate that could be swept: sweep another planner")
    if len(plan.rates) < 3:
        raise UserError(f"{len(plan.rates)} rates cannot show where the loss is lowest: give at least 3 with --rates")
    if len(plan.tune_seeds) < FEWEST_SEEDS:
        raise UserError(
            f"{len(plan.tune_seeds)} seeds are too few for an interval: give at least {FEWEST_SEEDS} with --tune-seeds"
        )


def fixed_shape_settings(plan: ComparisonPlan, planner: str) -> dict[str, dict[str, Any]]:
    """Settings that keep a planner to one shape: what a sweep would vary beside the rate stays at its default."""
    defaults = {name: default for name, default in setting_defaults(planner).items() if name != "peak"}
    return {planner: {**defaults, **plan.settings.get(planner, {})}}


def sweep_from_records(plan: ComparisonPlan, tuning: Sequence[RunRecord]) -> RateSweep:
    """Build the sweep of a plan of one planner from its records.

    Raises:
        UserError: every run diverged.
    """
    rates = np.array(sorted(plan.rates))
    losses = np.full((len(rates), len(plan.tune_seeds)), np.inf)
    for record in tuning:
        (row,) = np.flatnonzero(rates == record.settings["peak"])
        if not record.diverged:
            losses[row, plan.tune_seeds.index(record.seed)] = record.score("final_val_loss")
    if len(rates) > 1 and not np.isfinite(losses.mean(1)).any():
        raise UserError(f"at every rate a run of {plan.planners[0]!r} diverged: give lower --rates")
    return RateSweep(rates, losses)

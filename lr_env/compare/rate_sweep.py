"""A sweep of rates on several seeds: where the loss is lowest, and what the seeds say of anything found from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.compare.job import Job
from lr_env.records.record import RunRecord

Floats = NDArray[np.float64]
Seeds = NDArray[np.int64]

DRAWS = 2000
"""Bootstrap samples of the seeds."""


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
    def at_edge(self) -> bool:
        """Whether the lowest loss lies at an end of the grid, so that the best rate may lie beyond."""
        return int(np.argmin(self.mean())) in (0, len(self.rates) - 1)

    def best(self, seeds: Seeds | None = None) -> float:
        """The best rate by mean loss over the seeds with these numbers, or all; see `bottom`."""
        return bottom(self.rates, self.mean(seeds))

    def mean(self, seeds: Seeds | None = None) -> Floats:
        """Mean loss at each rate, (rates,), over the seeds with these numbers, or all."""
        return (self.losses if seeds is None else self.losses[:, seeds]).mean(1)

    def to_json(self) -> dict[str, Any]:
        """All of it; null where a run diverged."""
        return {
            "best_rate": self.best(),
            "at_edge_of_grid": self.at_edge,
            "rates": self.rates.tolist(),
            "losses": [[x if np.isfinite(x) else None for x in row] for row in self.losses.tolist()],
        }


def bottom(rates: Floats, losses: Floats) -> float:
    """Where a parabola in the log of the rate through the lowest loss and its neighbours is lowest.

    At an end of the grid, or beside a rate that diverged, it is the rate of the lowest loss.
    """
    best = int(np.argmin(losses))
    if not 0 < best < len(rates) - 1 or not np.isfinite(losses[best - 1 : best + 2]).all():
        return float(rates[best])
    x, y = np.log(rates[best - 1 : best + 2]), losses[best - 1 : best + 2]
    a, b, _ = np.polyfit(x - x[1], y, 2)
    if a <= 0:
        return float(rates[best])
    return float(np.exp(x[1] + np.clip(-b / (2 * a), x[0] - x[1], x[2] - x[1])))


def swept(job: Job, tuning: Sequence[RunRecord]) -> RateSweep:
    """The sweep that a job of one planner made, from its records."""
    rates = np.array(sorted(job.rates))
    losses = np.full((len(rates), len(job.tune_seeds)), np.inf)
    for record in tuning:
        if not record.diverged:
            row = int(np.argmin(np.abs(np.log(rates / record.settings["peak"]))))
            losses[row, job.tune_seeds.index(record.seed)] = record.scores["final_val_loss"]
    return RateSweep(rates, losses)


def bootstrap(of: Callable[[Seeds], float], count: int) -> tuple[float, float]:
    """95 % percentile interval of a number found from `count` seeds, which are drawn again with replacement.

    Args:
        of: the numbers of the seeds drawn, (count,) -> the number.
        count: seeds, shared by all that it is found from.
    """
    random = np.random.default_rng(0)
    low, high = np.percentile([of(random.integers(count, size=count)) for _ in range(DRAWS)], [2.5, 97.5])
    return float(low), float(high)

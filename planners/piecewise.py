"""A schedule that can have any shape: straight lines of the log rate between knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from planners.schedule import Index, Schedule
from planners.settings import RATIO, Array, TuningVariants


@dataclass(frozen=True)
class Knots(Schedule):
    """Straight lines of the log rate between knots at equal distances, the first at k = 0, the last at k = n-1.

    log f(k) is linear between the logs of the levels. No one's schedule: what a direct search of the best schedule goes
    through, and what sweeps of random shapes are made of.

    Attributes:
        levels: rates at the knots as fractions of the peak, at least two, the largest 1.
    """

    name = "knots"
    tuning_variants: ClassVar[TuningVariants] = (
        {},
        {"levels": (1.0, 1.0, 1.0, 0.5, 0.02)},
        {"levels": (1.0, 0.8, 0.5, 0.2, 0.01)},
    )
    levels: tuple[float, ...] = (0.3, 1.0, 1.0, 0.5, 0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.levels if isinstance(self.levels, list | tuple) else ()
        levels = tuple(float(RATIO.apply(self.name, "each of levels", level)) for level in given)
        if len(levels) < 2 or max(levels) != 1:
            raise UserError(
                f"planner {self.name!r}: levels must be a list of at least two fractions, the largest 1, "
                f"not {self.levels!r}"
            )
        self._set("levels", levels)  # from JSON it comes as a list

    def _at(self, k: Index, n: int) -> Array:
        at = k / max(1, n - 1) * (len(self.levels) - 1)
        return np.exp(np.interp(at, np.arange(len(self.levels)), np.log(self.levels)))


def knots_at(rates: Array) -> Knots:
    """The schedule that has these rates at its knots."""
    peak = float(np.max(rates))
    return Knots(peak=peak, levels=tuple(float(rate) / peak for rate in rates))

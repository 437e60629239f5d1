"""A piecewise schedule of any shape: the log rate is linear between knots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from planners.schedule import Index, Schedule
from planners.settings import RATIO, Array, TuningVariants


@dataclass(frozen=True)
class Knots(Schedule):
    """A piecewise schedule: the log rate is linear between evenly spaced knots, from k = 0 to k = n-1.

    Direct searches for the best schedule and sweeps over random schedules use it.

    Attributes:
        levels: rates at the knots as fractions of the peak, at least two, the largest 1.

    >>> Knots(peak=0.1, levels=(0.1, 1.0, 0.01)).preview(5).round(4)
    array([0.01  , 0.0316, 0.1   , 0.01  , 0.001 ])
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
        sequence = self.levels if isinstance(self.levels, list | tuple) else ()
        levels = tuple(float(RATIO.apply(self.name, "each of levels", level)) for level in sequence)
        if len(levels) < 2 or max(levels) != 1:
            raise UserError(
                f"planner {self.name!r}: levels must be a list of at least two fractions, the largest 1, "
                f"not {self.levels!r}"
            )
        self._set("levels", levels)  # JSON gives a list

    def _at(self, k: Index, n: int) -> Array:
        at = k / max(1, n - 1) * (len(self.levels) - 1)
        return np.exp(np.interp(at, np.arange(len(self.levels)), np.log(self.levels)))


def knots_at(rates: Array) -> Knots:
    """Return the schedule with these rates at its knots, (knots,)."""
    peak = float(np.max(rates))
    return Knots(peak=peak, levels=tuple(float(rate) / peak for rate in rates))

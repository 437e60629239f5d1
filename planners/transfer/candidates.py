"""The schedules that are considered for a task: settings of named families, at rates in the unit of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from planners.schedule import Schedule
from planners.transfer.grid import Floats
from planners.tuning.search_space import Point, schedule_at, sobol

PEAKS = (0.02, 4.5)
"""Smallest and largest peak rate, in the unit of the optimizer; see `planners.transfer.descriptors.rate_unit`."""

_FAMILIES = {"wsd": 128, "wsd-sqrt": 128, "cosine-warmup": 64, "one-cycle": 64, "linear": 32, "constant": 16}
"""Name of a family -> how many of its settings are considered."""

_SEED = 0xCA5D


@lru_cache(maxsize=1)
def in_units() -> tuple[Schedule, ...]:
    """Return the schedules at rates in units."""
    found = []
    for number, (family, count) in enumerate(_FAMILIES.items()):
        for peak, shape, warmup in sobol(count, 3, _SEED + number).tolist():
            found.append(_rounded(schedule_at(family, Point(peak, shape, warmup), PEAKS)))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Schedules for runs of a task.

    Attributes:
        schedules: as planners.
        rates: of each segment, (schedules, segments).
    """

    schedules: tuple[Schedule, ...]
    rates: Floats

    def __len__(self) -> int:
        return len(self.schedules)


def candidates(unit: float, lr_range: tuple[float, float], segments: int) -> Candidates:
    """Return the schedules for runs of so many segments; those whose peak the range does not allow are left out."""
    return _candidates(float(unit), (float(lr_range[0]), float(lr_range[1])), segments)


@lru_cache(maxsize=8)
def _candidates(unit: float, lr_range: tuple[float, float], segments: int) -> Candidates:
    low, high = lr_range
    scaled = [replace(one, peak=_significant(one.peak * unit)) for one in in_units()]
    kept = tuple(one for one in scaled if low <= one.peak <= high)
    rates = np.stack([one.preview(segments) for one in kept]) if kept else np.empty((0, segments))
    return Candidates(kept, np.clip(rates, low, high))


def _rounded(schedule: Schedule) -> Schedule:
    """The same with settings that a reader can keep in mind."""
    settings = {
        name: _significant(value)
        for name, value in vars(schedule).items()
        if isinstance(value, float) and not isinstance(value, bool)
    }
    return cast("Schedule", replace(cast("Any", schedule), **settings))


def _significant(value: float) -> float:
    return float(f"{value:.3g}")

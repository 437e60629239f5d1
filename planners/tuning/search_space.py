"""The search space of tuners: families of schedules, whose settings are points in a unit cube."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from lr_env.capabilities import SettingRange
from planners.schedule import Schedule
from planners.schedules import (
    WSD,
    Constant,
    Cosine,
    CosineWarmup,
    Exponential,
    InverseSqrt,
    Knee,
    Linear,
    OneCycle,
    Polynomial,
    Step,
    WSDSqrt,
)
from planners.settings import Array

Range = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """Settings of a schedule of any family, each from 0 to 1.

    Attributes:
        peak: position of the peak rate in its range, on a log scale.
        shape: the most important setting of the family, such as the length of the cool-down.
        warmup: length of the warm-up.
    """

    peak: float
    shape: float = 0.5
    warmup: float = 0.5


FAMILIES: Mapping[str, type[Schedule]] = {
    family.name: family
    for family in (
        Constant,
        Linear,
        Cosine,
        CosineWarmup,
        OneCycle,
        Step,
        Exponential,
        Polynomial,
        InverseSqrt,
        Knee,
        WSD,
        WSDSqrt,
    )
}
"""Name of a family -> its schedule; the values of its settings are its `search_ranges`."""


def schedule_at(family: str, point: Point, rates: Range) -> Schedule:
    """Return the schedule of a family at a point; `rates` is the range of peaks."""
    kind: Any = FAMILIES[family]
    ranges: Mapping[str, SettingRange] = kind.search_ranges
    settings = {name: one.at(point.warmup if name == "warmup" else point.shape) for name, one in ranges.items()}
    return kind(float(rates[0] * (rates[1] / rates[0]) ** point.peak), **settings)


def sobol(count: int, dimensions: int, seed: int) -> Array:
    """Return the first points of a scrambled Sobol sequence in the unit cube, (count, dimensions)."""
    sampler = qmc.Sobol(dimensions, scramble=True, rng=seed)
    return sampler.random_base2(max(1, int(np.ceil(np.log2(max(count, 2))))))[:count]

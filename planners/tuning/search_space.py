"""The search space of tuners: families of schedules, whose settings are points in a unit cube."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

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


def _warmup(point: Point) -> float:
    return 0.02 + 0.08 * point.warmup


FAMILIES: Mapping[str, Callable[[float, Point], Schedule]] = {
    "constant": lambda peak, at: Constant(peak),
    "linear": lambda peak, at: Linear(peak),
    "cosine": lambda peak, at: Cosine(peak),
    "cosine-warmup": lambda peak, at: CosineWarmup(peak, warmup=_warmup(at)),
    "one-cycle": lambda peak, at: OneCycle(peak, pct_start=0.05 + 0.4 * at.shape),
    "step": lambda peak, at: Step(peak, stages=3, gamma=0.1 + 0.4 * at.shape),
    "exponential": lambda peak, at: Exponential(peak, final=10.0 ** (-3 + 2 * at.shape)),
    "polynomial": lambda peak, at: Polynomial(peak, power=0.5 + 1.5 * at.shape),
    "inverse-sqrt": lambda peak, at: InverseSqrt(peak, warmup=_warmup(at)),
    "knee": lambda peak, at: Knee(peak, explore=0.2 + 0.6 * at.shape),
    "wsd": lambda peak, at: WSD(peak, cooldown=0.1 + 0.8 * at.shape, warmup=_warmup(at)),
    "wsd-sqrt": lambda peak, at: WSDSqrt(peak, cooldown=0.1 + 0.8 * at.shape, warmup=_warmup(at)),
}
"""Name of a family -> function that makes a schedule of (peak, point)."""


def schedule_at(family: str, point: Point, rates: Range) -> Schedule:
    """Return the schedule of a family at a point; `rates` is the range of peaks."""
    return FAMILIES[family](float(rates[0] * (rates[1] / rates[0]) ** point.peak), point)


def sobol(count: int, dimensions: int, seed: int) -> Array:
    """Return the first points of a scrambled Sobol sequence in the unit cube, (count, dimensions)."""
    sampler = qmc.Sobol(dimensions, scramble=True, rng=seed)
    return sampler.random_base2(max(1, int(np.ceil(np.log2(max(count, 2))))))[:count]

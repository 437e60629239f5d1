"""The grid of shares of the budget on which schedules and curves are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = 20
"""Equal parts of a run. Schedules are their mean rates in these parts, curves the values at their ends."""

LOWEST, HIGHEST = -12.0, 4.0
"""Bounds of the log of a rate in its unit; lower rates train as little, higher ones diverge as soon."""


def mean_rates(rates: Floats) -> Floats:
    """Mean of rates (..., segments) in each of `STEPS` parts, (..., STEPS)."""
    segments = rates.shape[-1]
    total = np.concatenate([np.zeros((*rates.shape[:-1], 1)), np.cumsum(rates, -1)], -1)
    at = np.arange(STEPS + 1) / STEPS * segments
    below = np.minimum(at.astype(int), segments - 1)
    sums = total[..., below] + (at - below) * rates[..., below]
    return np.diff(sums, axis=-1) * STEPS / segments


def log_rates(rates: Floats, unit: float | Floats) -> Floats:
    """Log of the mean rates in their unit, (..., STEPS)."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(mean_rates(rates) / unit), LOWEST, HIGHEST)


def at_ends(values: Floats) -> Floats:
    """Values at the ends of segments, (..., segments), at the ends of the parts, (..., STEPS), by straight lines."""
    segments = values.shape[-1]
    place = np.maximum((np.arange(STEPS) + 1) / STEPS * segments - 1, 0)
    below = np.minimum(place.astype(int), max(segments - 2, 0))
    share = place - below
    above = np.minimum(below + 1, segments - 1)
    return values[..., below] * (1 - share) + np.where(share > 0, values[..., above], 0.0) * share

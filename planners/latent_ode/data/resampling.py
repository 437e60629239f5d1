"""Logged curves at the ends of segments: means of rates and training losses, values of the others, and gaps filled."""

from __future__ import annotations

import numpy as np

from lr_env.records.readers.base import Series
from planners.latent_ode.channels import Floats


def point_steps(end: float, segment: int) -> Floats:
    """Return the ends of the segments of a run; the last one is from half to one and a half times as long."""
    steps = segment * np.arange(1, max(1, int(end / segment + 0.5)) + 1, dtype=np.float64)
    steps[-1] = end
    return steps


def mean_rates(rate: Series, steps: Floats) -> Floats:
    """Average a logged rate, with straight lines between logged points, over the time before each of some steps.

    Where it rises first, in a warm-up, the line through the first two points goes on to the start of the run.
    """
    at, values = rate.at, rate.values
    if len(at) > 1 and at[0] > 0 and values[1] > values[0]:
        before = values[0] - at[0] * (values[1] - values[0]) / (at[1] - at[0])
        at, values = np.append(0.0, at), np.append(max(0.0, before), values)
    knots = np.union1d(np.append(at, 0.0), steps)
    values = np.interp(knots, at, values)
    sums = np.append(0.0, np.cumsum(np.diff(knots) * (values[1:] + values[:-1]) / 2))
    return np.diff(np.interp(steps, knots, sums), prepend=0.0) / np.diff(steps, prepend=0.0)


def segment_means(curve: Series, steps: Floats) -> Floats:
    """Average a log loss, as a loss, over what was logged since the point before; NaN where nothing was."""
    place = np.searchsorted(steps, curve.at)
    within = place < len(steps)
    sums = np.bincount(place[within], np.exp(curve.values[within]), len(steps))
    counts = np.bincount(place[within], minlength=len(steps))
    return np.where(counts > 0, np.log(np.maximum(sums, 1e-300) / np.maximum(counts, 1)), np.nan)


def at_points(curve: Series, steps: Floats, segment: int) -> Floats:
    """Return a curve at some steps: interpolated between two values nearer than a segment, else the nearest value.

    It is NaN where no value is nearer than half a segment.
    """
    at = np.concatenate([[-np.inf], curve.at, [np.inf]])
    values = np.concatenate([[np.nan], curve.values, [np.nan]])
    after = np.searchsorted(at, steps)
    before = np.where(at[after] == steps, after, after - 1)
    since, until = steps - at[before], at[after] - steps
    near_before = np.where(since < segment / 2, values[before], np.nan)
    near_after = np.where(until <= segment / 2, values[after], np.nan)
    nearest = np.where(since <= until, near_before, near_after)
    both = (since < segment) & (until < segment)
    share = since[both] / np.maximum(since + until, 1e-9)[both]
    nearest[both] = (1 - share) * values[before][both] + share * values[after][both]
    return nearest


def filled(steps: Floats, values: Floats, longest: float) -> Floats:
    """Fill gaps of a curve by straight lines over the log of the step, which suit curves that fall fast at first."""
    measured = np.flatnonzero(np.isfinite(values))
    if not len(measured):
        return values
    before = np.searchsorted(measured, np.arange(len(steps)), side="right") - 1
    after = np.searchsorted(measured, np.arange(len(steps)))
    inside = (before >= 0) & (after < len(measured))
    gap = steps[measured[np.minimum(after, len(measured) - 1)]] - steps[measured[np.maximum(before, 0)]]
    filled = np.interp(np.log(steps), np.log(steps[measured]), values[measured])
    return np.where(np.isfinite(values), values, np.where(inside & (gap <= longest), filled, np.nan))

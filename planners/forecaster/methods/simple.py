"""Forecasts that need no fit: the last value, and the mean of the last three."""

from __future__ import annotations

import numpy as np

from planners.forecaster.curves import CurveSet, Floats


def last_value(curves: CurveSet, points: int) -> Floats:
    """The last value seen, at all points, (curves, POINTS)."""
    _, last = curves.last_seen(points)
    return np.repeat(last[:, None], curves.values.shape[1], axis=1)


def mean_of_last(curves: CurveSet, points: int, count: int = 3) -> Floats:
    """The mean of the last values seen, at all points, (curves, POINTS)."""
    seen = curves.values[:, :points]
    rank = np.isfinite(seen)[:, ::-1].cumsum(1)[:, ::-1]  # 1 for the last one measured
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(np.where((rank <= count) & np.isfinite(seen), seen, np.nan), axis=1)
    return np.repeat(mean[:, None], curves.values.shape[1], axis=1)

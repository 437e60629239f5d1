"""What was seen of a curve, as a fixed number of features, however many points it has."""

from __future__ import annotations

import numpy as np

from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.times import END, TIMES

PLACES = 8
"""Places at which the curve is read."""

EARLIEST = 0.2
"""Share of the points seen at which the first place is."""

FEATURES = PLACES + 5
"""Number of features of a window."""


def scale_of(curves: CurveSet, points: int) -> Floats:
    """What forecasts are relative to: the last value seen, or the reference where none was seen, (curves,)."""
    _, last = curves.last_seen(points)
    return np.where(np.isfinite(last), last, curves.reference)


def window(curves: CurveSet, points: int) -> Floats:
    """Describe the points seen, (curves, FEATURES).

    The features are the log ratios to the last value at evenly spaced points from `EARLIEST` of those seen up to the
    last one, read between the points measured; the time of the last one, as a share of the end's; the log ratio of the
    first value to the last; the log ratio of the last value to the reference, or 0 where that is not known; the
    roughness of the curve; and 1 where anything was seen. Without any point all are 0.

    What lies before is left out: runs that began alike go on alike only where they are alike now.
    """
    features = np.zeros((len(curves), FEATURES))
    if not points:
        return features
    index, last = curves.last_seen(points)
    seen = curves.values[:, :points]
    there = np.isfinite(seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.log(seen / last[:, None])
    number = np.arange(points)
    for row in np.flatnonzero(index >= 0):
        known = there[row]
        places = np.linspace(EARLIEST, 1, PLACES + 1)[:-1] * index[row]
        features[row, :PLACES] = np.interp(places, number[known], ratios[row, known])
        second = np.diff(ratios[row, known][-6:], n=2)
        features[row, PLACES + 3] = np.log1p(1e3 * np.sqrt(np.mean(second**2))) if len(second) else 0.0
        features[row, PLACES + 1] = ratios[row, known][0]
    features[:, PLACES] = np.where(index >= 0, TIMES[np.maximum(index, 0)] / END, 0.0)
    relative = np.log(np.where(index >= 0, last, 1.0) / curves.reference)
    features[:, PLACES + 2] = np.where(np.isfinite(relative) & (index >= 0), relative, 0.0)
    features[:, PLACES + 4] = index >= 0
    return features


def log_ratios(values: Floats, scale: Floats) -> Floats:
    """log(values / scale), (curves, POINTS); NaN where there is no value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(values / scale[:, None]).reshape(-1, POINTS)

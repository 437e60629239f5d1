"""What was seen of a curve, as a fixed number of features, however many points it has."""

from __future__ import annotations

import numpy as np

from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.times import END, TIMES

PLACES = 10
"""Places at which the curve is read."""

FEATURES = PLACES + 4
"""Number of features of a window."""


def scale_of(curves: CurveSet, points: int) -> Floats:
    """What forecasts are relative to: the last value seen, or the reference where none was seen, (curves,)."""
    _, last = curves.last_seen(points)
    return np.where(np.isfinite(last), last, curves.reference)


def window(curves: CurveSet, points: int) -> Floats:
    """Describe the points seen, (curves, FEATURES).

    The features are the log ratios to the last value at evenly spaced times log(1 + t) up to the last point, read
    between the points measured; its time, as a share of the end's; the log ratio to the reference, or 0 where that is
    not known; the roughness of the curve; and 1 where anything was seen. Without any point all are 0.
    """
    features = np.zeros((len(curves), FEATURES))
    if not points:
        return features
    index, last = curves.last_seen(points)
    seen = curves.values[:, :points]
    there = np.isfinite(seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.log(seen / last[:, None])
    for row in np.flatnonzero(index >= 0):
        places = np.linspace(0, 1, PLACES + 1)[:-1] * TIMES[index[row]]
        known = there[row]
        features[row, :PLACES] = np.interp(places, TIMES[:points][known], ratios[row, known])
        second = np.diff(ratios[row, known][-6:], n=2)
        features[row, PLACES + 2] = np.log1p(1e3 * np.sqrt(np.mean(second**2))) if len(second) else 0.0
    features[:, PLACES] = np.where(index >= 0, TIMES[np.maximum(index, 0)] / END, 0.0)
    relative = np.log(np.where(index >= 0, last, 1.0) / curves.reference)
    features[:, PLACES + 1] = np.where(np.isfinite(relative) & (index >= 0), relative, 0.0)
    features[:, PLACES + 3] = index >= 0
    return features


def log_ratios(values: Floats, scale: Floats) -> Floats:
    """log(values / scale), (curves, POINTS); NaN where there is no value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(values / scale[:, None]).reshape(-1, POINTS)

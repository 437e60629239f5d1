"""Extrapolation of losses: fit a falling exponential to a short, noisy series, and read it off at a later time."""

from __future__ import annotations

import math

import numpy as np

from planners.settings import Array

MIN_POINTS = 5
"""Smallest number of points for a fit of three numbers."""

_GRID = 40
_ROUNDS = 3
_OUTLIER = 4.0
_SLOWEST = 0.1
_FASTEST = 10.0


def fit_exponential(t: Array, y: Array) -> tuple[float, float, float] | None:
    """Fit y = a exp(b t) + c with a > 0, b < 0 and c >= 0 by least squares: a loss that falls to a floor.

    For a given b the best a and c have a closed form, so that the search is over b alone (variable projection, as in
    Jin et al. 2021): on a grid of log(-b), then between the neighbours of the best point. The time constant -1/b is
    between a tenth of the mean distance of points and ten times the length of the series, where a line fits as well.

    The times increase.

    Returns:
        (a, b, c); None if a falling exponential is no better than a constant.
    """
    from scipy.optimize import minimize_scalar  # here, because this import takes most of a second

    length = float(t[-1] - t[0])
    x = (t - t[0]) / length  # in these units b is in the range below, whatever the unit of time
    log_b = np.linspace(math.log(_SLOWEST), math.log(_FASTEST * (len(t) - 1)), _GRID)
    errors = [_project(x, y, b)[0] for b in np.exp(log_b)]
    best = int(np.argmin(errors))
    bounds = log_b[max(0, best - 1)], log_b[min(_GRID - 1, best + 1)]
    refined = minimize_scalar(
        lambda b: _project(x, y, math.exp(b))[0], bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    b = math.exp(refined.x if refined.fun <= errors[best] else log_b[best])
    _, a, c = _project(x, y, b)
    if not a > 0:
        return None
    b /= length
    return a * math.exp(min(b * float(t[0]), 700.0)), -b, c


def forecast(t: Array, y: Array, end: float) -> float:
    """Forecast the loss at a later time, in the unit of the losses; infinite if one of these is not finite.

    The times increase, and the end is not before the last of them. Points that are more than four robust standard
    deviations away from the fit are left out of the next fit, in at most three rounds, because single batches can be
    far off. A loss that does not fall is forecast to stay constant.
    """
    if not np.isfinite(y).all():
        return math.inf
    latest = float(y[-max(3, len(y) // 10) :].mean()) if len(y) >= MIN_POINTS else float(y[-1])
    inliers = np.ones(len(y), dtype=bool)
    value = latest
    for _ in range(_ROUNDS):
        if inliers.sum() < MIN_POINTS:
            break
        fit = fit_exponential(t[inliers], y[inliers])
        if fit is None:
            return latest
        a, b, c = fit
        value = float(a * np.exp(b * end) + c)
        off = np.abs(y - a * np.exp(b * t) - c)
        # For normal noise, 1.4826 medians are one standard deviation.
        inside = off <= _OUTLIER * 1.4826 * np.median(off[inliers]) + 1e-12
        if (inside == inliers).all():
            break
        inliers = inside
    return value


def _project(x: Array, y: Array, b: float) -> tuple[float, float, float]:
    """Return the squared error, a and c of the best a exp(-b x) + c for a given b, with a >= 0 and c >= 0."""
    e = np.exp(-b * x)
    deviation = e - e.mean()
    a = float(deviation @ y / (deviation @ deviation))
    c = float(y.mean() - a * e.mean())
    if c < 0:
        a, c = max(0.0, float(e @ y / (e @ e))), 0.0
    elif not a > 0:
        a, c = 0.0, max(0.0, float(y.mean()))
    residual = y - a * e - c
    return float(residual @ residual), a, c

"""Forecasts by parametric curves: a power law, and a weighted ensemble of six families.

All are y = a + b f(t), with a shape f from a grid. For each shape a and b follow in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from planners.forecaster.curves import POINTS, CurveSet, Floats

_T = np.maximum(np.arange(POINTS), 0.5)

SKIPPED = 0.3
"""Share of the points seen that are left out, from the first one on."""

CHANGE = (1.0, 0.5)
"""Standard deviations of the priors of the value now and of the change to come, in units of the change so far."""


@cache
def shapes() -> Floats:
    """The shapes of all families, (shapes, POINTS), each from 1 at its first point down towards 0.

    The families are those of Domhan et al. (IJCAI 2015) that fall: pow3, pow4, exponential, Weibull, Hill, logarithmic.
    """
    exponents = np.geomspace(0.05, 3, 16)
    found = [_T**-c for c in exponents]
    found += [(_T + d) ** -c for c in exponents[::2] for d in (2.0, 8.0, 25.0)]
    found += [np.exp(-c * _T) for c in np.geomspace(0.01, 2, 16)]
    found += [np.exp(-((c * _T) ** d)) for c in np.geomspace(0.005, 1, 8) for d in (0.3, 0.6, 1.5, 2.5)]
    found += [1 / (1 + (_T / c) ** d) for c in np.geomspace(1, 60, 8) for d in (0.5, 1.0, 2.0, 4.0)]
    found += [1 - np.log(_T + d) / np.log(POINTS + 1.0 + d) for d in (0.0, 1.0, 5.0, 20.0)]
    return np.array([shape / shape[0] for shape in found])


def power_law(curves: CurveSet, points: int) -> Floats:
    """Forecast a + b t^-c, with a + b t^-c >= 0 at the end; (curves, POINTS).

    It is fitted by least squares of relative errors. Later points weigh more, and the first ones, in which a run finds
    its feet, are left out. Curves with fewer than 3 points left stay at their last value.
    """
    forms = np.array([_T**-c for c in np.geomspace(0.1, 2, 20)])
    values, weights = _seen(curves, points)
    _, last = curves.last_seen(points)
    best = np.full(len(curves), np.inf)
    forecast = np.repeat(last[:, None], POINTS, axis=1)
    enough = (weights > 0).sum(1) >= 3
    for shape in forms:
        a, b = _line(values, weights, shape[:points])
        end = a + b * shape[-1]
        # Where the end would be below 0 the line goes through 0 there.
        relative = shape[:points] - shape[-1]
        through = (weights * values * relative).sum(1) / np.maximum((weights * relative**2).sum(1), 1e-300)
        b = np.where(end < 0, through, b)
        a = np.where(end < 0, -through * shape[-1], a)
        error = (weights * (values - a[:, None] - b[:, None] * shape[None, :points]) ** 2).sum(1)
        better = enough & (error < best)
        best = np.where(better, error, best)
        forecast[better] = a[better, None] + b[better, None] * shape
    return forecast


@dataclass(frozen=True)
class Mixture:
    """A forecast that is a mixture of normal distributions, one for each shape.

    Attributes:
        weights: (curves, shapes).
        means: (curves, shapes, POINTS).
        deviations: (curves, shapes, POINTS).
    """

    weights: Floats
    means: Floats
    deviations: Floats

    @property
    def mean(self) -> Floats:
        """(curves, POINTS)."""
        return np.einsum("cs,csp->cp", self.weights, self.means)

    @property
    def deviation(self) -> Floats:
        """Standard deviation of the mixture, (curves, POINTS)."""
        square = np.einsum("cs,csp->cp", self.weights, self.deviations**2 + self.means**2)
        return np.sqrt(np.maximum(square - self.mean**2, 0))


def ensemble(curves: CurveSet, points: int) -> Mixture:
    """Weigh all `shapes` by their likelihood, with a and b integrated out, and points weighed as in `power_law`.

    The prior of the change that is still to come is normal around 0, with a standard deviation that is proportional to
    what the curve has changed so far: without evidence a run stays where it is. The noise is estimated from the
    roughness of the points seen. All is in units of the last value seen.
    """
    values, weights = _seen(curves, points)
    index, last = curves.last_seen(points)
    scaled, weights = values / last[:, None], weights * (last**2)[:, None]
    root = np.sqrt(weights / np.maximum(weights.max(1, keepdims=True), 1e-300))
    there = (root > 0).astype(np.float64)
    noise = _roughness(scaled, there)
    spread = np.maximum(_spread(scaled, there), noise)
    prior = np.stack([(CHANGE[0] * spread) ** 2, (CHANGE[1] * spread) ** 2], -1)
    prior_mean = np.array([1.0, 0.0])
    log_weights, means, deviations = [], [], []
    for shape in shapes():
        # The line in terms of its value now and of the change from now to the end, whose priors are independent.
        now, end = shape[np.maximum(index, 0)], shape[-1]
        slope = (shape[None] - now[:, None]) / (end - now - 1e-12)[:, None]  # 0 now, 1 at the end
        design = np.stack([np.ones_like(slope), slope], -1)  # (curves, POINTS, 2)
        seen = design[:, :points] * root[..., None]
        precision = np.einsum("cpi,cpj->cij", seen, seen) / noise[:, None, None] ** 2
        precision[:, [0, 1], [0, 1]] += 1 / prior
        right = np.einsum("cpi,cp->ci", seen, scaled * root) / noise[:, None] ** 2 + prior_mean / prior
        covariance = np.linalg.inv(precision)
        posterior = np.einsum("cij,cj->ci", covariance, right)
        residual = root * (scaled - np.einsum("cpi,ci->cp", design[:, :points], posterior))
        fit = (residual**2).sum(1) / noise**2 + ((posterior - prior_mean) ** 2 / prior).sum(1)
        log_weights.append(-0.5 * (fit + np.linalg.slogdet(precision)[1] + np.log(prior).sum(1)))
        means.append(np.einsum("cpi,ci->cp", design, posterior))
        variance = np.einsum("cpi,cij,cpj->cp", design, covariance, design)
        deviations.append(np.sqrt(np.maximum(variance, 0) + noise[:, None] ** 2))
    log_weight = np.stack(log_weights, 1)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    scale = last[:, None, None]
    return Mixture(weight, np.stack(means, 1) * scale, np.stack(deviations, 1) * scale)


def _seen(curves: CurveSet, points: int) -> tuple[Floats, Floats]:
    """The values seen and their weights, 0 where there is none and for the first ones; (curves, points) each.

    A weight is the inverse square of the value, for errors are relative, times the number of the point.
    """
    seen = curves.values[:, :points]
    there = np.isfinite(seen)
    number = there.cumsum(1)
    used = there & (number > np.round(SKIPPED * number[:, -1:]) if points else there)
    values = np.where(there, seen, 1.0)
    return values, np.where(used, (np.arange(points) + 1.0) / values**2, 0.0)


def _line(values: Floats, weights: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Least squares of a + b x, (curves,) each."""
    count = np.maximum(weights.sum(1), 1e-300)
    mean_x, mean_y = (weights * x).sum(1) / count, (weights * values).sum(1) / count
    away = weights * (x - mean_x[:, None])
    b = (away * values).sum(1) / np.maximum((away * (x - mean_x[:, None])).sum(1), 1e-300)
    return mean_y - b * mean_x, b


def _roughness(values: Floats, there: Floats) -> Floats:
    """Standard deviation of the noise, from second differences of the later half of the points, (curves,)."""
    half = values.shape[1] // 2
    late, there = values[:, half:], there[:, half:]
    if late.shape[1] < 3:
        return np.full(len(values), 0.02)
    second = late[:, 2:] - 2 * late[:, 1:-1] + late[:, :-2]
    whole = there[:, 2:] * there[:, 1:-1] * there[:, :-2]
    square = (whole * second**2).sum(1) / np.maximum(whole.sum(1), 1) / 6
    return np.where(whole.sum(1) > 0, np.sqrt(np.maximum(square, 1e-8)), 0.02)


def _spread(values: Floats, there: Floats) -> Floats:
    """How far a curve has moved between the first point that is used and the last one, (curves,)."""
    start = values[np.arange(len(values)), np.argmax(there, axis=1)]
    return np.maximum(np.abs(start - 1.0), 1e-3)

"""Methods of forecasting, one by one and combined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError, find
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.fit import FittedODE
from planners.forecaster.methods.parametric import Mixture, ensemble, power_law
from planners.forecaster.methods.simple import last_value
from planners.forecaster.window import scale_of

METHODS = (
    "auto", "both", "blend", "median", "ode", "boosting", "nearest", "ensemble", "power-law", "last-value",
)  # fmt: skip
"""Names of the methods. "blend" is a weighted geometric mean of `BLENDED`, "median" the median of four, "both" the
geometric mean of "ode" and "blend", and "auto" the best of these four on runs that were held out, for each number of
points seen."""

CHOICES = ("ode", "blend", "median", "both")
"""What "auto" may be."""

BEFORE = ("auto", "both", "blend", "ode", "boosting", "nearest")
"""Methods for runs that have not begun."""

SINGLE = ("ode", "boosting", "nearest", "ensemble", "power-law", "last-value")
"""Methods that are not made of others."""

BLENDED = {"boosting": 2.0, "nearest": 2.0, "power-law": 1.0}
"""Weights of the blend; where nothing was seen there is no power law."""

MEDIAN = ("boosting", "nearest", "ensemble", "power-law")
"""Methods whose median is taken."""

_LEAST = 0.02
"""Smallest forecast that is combined, as a share of the last value: a power law may reach 0."""

_AGREED = 3e-3
"""Smallest disagreement of methods, as a log ratio."""

LookUp = Callable[[str, CurveSet, int], Floats]
"""Forecasts by "boosting" or "nearest" of curves of which so many points were seen, (curves, POINTS)."""


def can_forecast(curves: CurveSet, points: int) -> NDArray[np.bool_]:
    """Which runs can be forecast: those of which something was seen, or whose reference is known; (curves,)."""
    index, _ = curves.last_seen(points)
    return np.isfinite(curves.reference) if points == 0 else index >= 1


class Forecasts:
    """Forecasts of some runs by all methods; each is made when it is asked for, once.

    Args:
        ode: the fitted differential equations.
        look_up: forecasts by methods that look other runs up.
        curves: the runs.
        points: how many of their points are seen.
    """

    def __init__(self, ode: FittedODE, look_up: LookUp, curves: CurveSet, points: int) -> None:
        self.curves, self.points = curves, points
        self._ode, self._look_up, self._seen = ode, look_up, curves.seen(points)
        self._made: dict[str, Floats] = {}
        self._mixture: Mixture | None = None

    def median(self, method: str) -> Floats:
        """Forecast by a method, (curves, POINTS); no meaning at the points seen.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        find("method", method, dict.fromkeys(METHODS[1:]))
        if self.points == 0 and method not in BEFORE:
            raise UserError(f"method {method!r} needs a run that has begun: ask for {', '.join(BEFORE)}")
        if method not in self._made:
            self._made[method] = self._make(method)
        return self._made[method]

    def spreads(self, method: str) -> dict[str, Floats]:
        """How unsure a forecast is, as log ratios below and above, (2, curves, POINTS) each, told in several ways.

        "ode" is what the differential equation says, "deviation" that of the parametric ensemble, and "combined" the
        geometric mean of both and of how far the methods disagree. For the differential equation alone, and where
        nothing was seen, there is the first one only.
        """
        _ = self.median("ode")
        ode = self._made["spread of the ode"]
        if method == "ode" or not self.points:
            return {"ode": ode}
        _ = self.median("ensemble")
        assert self._mixture is not None
        scale = scale_of(self._seen, self.points)[:, None]
        deviation = np.log1p(self._mixture.deviation / scale)
        disagreement = np.std([self._log(name) for name in MEDIAN], axis=0) + _AGREED
        combined = np.cbrt(ode.mean(0) * (deviation + _AGREED) * disagreement)
        return {"ode": ode, "deviation": np.stack([deviation] * 2), "combined": np.stack([combined] * 2)}

    def _make(self, method: str) -> Floats:
        seen, points = self._seen, self.points
        if method == "both":
            return np.sqrt(self.median("ode") * self.median("blend"))
        if method == "blend":
            parts = {name: weight for name, weight in BLENDED.items() if points or name in BEFORE}
            return np.exp(sum(weight * self._log(name) for name, weight in parts.items()) / sum(parts.values()))
        if method == "median":
            return np.exp(np.median([self._log(name) for name in MEDIAN], axis=0))
        if method == "ode":
            median, self._made["spread of the ode"] = self._ode(seen, points)
            return median
        if method in ("boosting", "nearest"):
            return self._look_up(method, seen, points)
        if method == "ensemble":
            self._mixture = ensemble(seen, points)
            return np.maximum(self._mixture.mean, _LEAST * scale_of(seen, points)[:, None])  # lines fall below 0
        return power_law(seen, points) if method == "power-law" else last_value(seen, points)

    def _log(self, method: str) -> Floats:
        """Logarithm of a forecast, as it is combined."""
        least = _LEAST * scale_of(self._seen, self.points)[:, None]
        return np.log(np.maximum(self.median(method), least)).reshape(-1, POINTS)

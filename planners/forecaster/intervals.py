"""Conformal intervals: how wide they must be, from forecasts of runs that were not fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.window import log_ratios

SEEN = (0, 5, 10, 25)
"""Numbers of points seen for which the width is set; for others that of the next lower one holds."""

LEVEL = 0.9
"""Probability with which the interval is to hold the value."""

_THIRDS = 3


@dataclass(frozen=True)
class Intervals:
    """Factors of the scales of a forecast.

    The interval of a point at which a model's scales are (below, above) is median * exp(-factor * below) to median *
    exp(factor * above). The factor is a quantile of (log error / scale) over runs that were held out: split conformal
    prediction (Lei et al., arXiv 1604.04173), with the scales as the difficulty.

    Attributes:
        factors: (len(SEEN), thirds of what is still to come); NaN where there was nothing to set it by.
        unit: "configuration" or "task": what the runs were held out by.
    """

    factors: Floats
    unit: str

    def __call__(self, median: Floats, scales: Floats, points: int) -> tuple[Floats, Floats]:
        """Lower and upper ends, (curves, POINTS) each."""
        share = (np.arange(POINTS) - points + 0.5) / max(1, POINTS - points)
        factors = np.interp(share, (np.arange(_THIRDS) + 0.5) / _THIRDS, self._of(points))  # without steps in between
        return median * np.exp(-factors * scales[0]), median * np.exp(factors * scales[1])

    def _of(self, points: int) -> Floats:
        known = [row for row in range(len(SEEN)) if np.isfinite(self.factors[row]).all()]
        lower = [row for row in known if SEEN[row] <= points]
        return self.factors[lower[-1] if lower else known[0]] if known else np.full(_THIRDS, np.nan)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "factors": [[None if np.isnan(f) else f for f in row] for row in self.factors.tolist()],
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Intervals:
        """What `to_json` gave."""
        return cls(
            np.array([[np.nan if f is None else f for f in row] for row in saved["factors"]], np.float64), saved["unit"]
        )


def thirds(points: int) -> NDArray[np.int64]:
    """Third of what is still to come that each point is in, (POINTS,); 0 at the points seen."""
    place = (np.arange(POINTS) - points) * _THIRDS // max(1, POINTS - points)
    return np.clip(place, 0, _THIRDS - 1)


def standardised(curves: CurveSet, median: Floats, scales: Floats, points: int) -> Floats:
    """|log error| in units of the scale on its side, (curves, POINTS); NaN at the points seen."""
    error = log_ratios(curves.values, np.ones(len(curves))) - np.log(np.maximum(median, 1e-300))
    error[:, :points] = np.nan
    return np.abs(error) / np.where(error < 0, scales[0], scales[1])


def conformal(errors: Sequence[Floats], unit: str) -> Intervals:
    """Set the factors.

    Args:
        errors: `standardised` errors of held-out runs for each number of points in `SEEN`; empty where there are none.
        unit: what they were held out by.
    """
    factors = np.full((len(SEEN), _THIRDS), np.nan)
    for row, (points, error) in enumerate(zip(SEEN, errors, strict=True)):
        for third in range(_THIRDS):
            inside = error[:, (thirds(points) == third) & (np.arange(POINTS) >= points)] if len(error) else error
            runs = np.isfinite(inside).any(1).sum() if len(error) else 0
            if runs:
                # Points of a run are alike, so that the correction for few runs counts runs.
                level = min(1.0, np.ceil((runs + 1) * LEVEL) / runs)
                factors[row, third] = np.nanquantile(inside, level)
    return Intervals(factors, unit)

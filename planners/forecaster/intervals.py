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

_WIDEST = 30.0
"""Largest log ratio of an end of an interval to the median, which may be far off for a run unlike any other."""


def rows_of(seen: Sequence[int]) -> list[int]:
    """Those of `SEEN` whose width holds for some numbers of points."""
    return sorted({max(points for points in SEEN if points <= number) for number in seen})


@dataclass(frozen=True, eq=False)
class Case:
    """Forecasts of runs that were not fitted to.

    Attributes:
        curves: the truth.
        median: forecasts, (curves, POINTS).
        spreads: name -> how unsure the forecast of each point is, as a log ratio below and above, (2, curves, POINTS).
    """

    curves: CurveSet
    median: Floats
    spreads: Mapping[str, Floats]


@dataclass(frozen=True)
class Intervals:
    """Factors of the spreads of a forecast.

    The interval of a point whose spreads are (below, above) is median * exp(-factor * below) to median * exp(factor *
    above). The factor is a quantile of (log error / spread) over runs that were held out: split conformal prediction
    (Lei et al., arXiv 1604.04173), with the spreads as the difficulty. Where whole tasks were held out, one after the
    other, each task counts the same.

    Attributes:
        factors: (len(SEEN), thirds of what is still to come); NaN where there was nothing to set it by.
        spreads: name of the spread for each of `SEEN`.
        unit: "configuration" or "task": what the runs were held out by.
    """

    factors: Floats
    spreads: tuple[str, ...]
    unit: str

    def __call__(self, median: Floats, spreads: Mapping[str, Floats], points: int) -> tuple[Floats, Floats]:
        """Lower and upper ends, (curves, POINTS) each."""
        row = self._row(points)
        share = (np.arange(POINTS) - points + 0.5) / max(1, POINTS - points)
        middles = (np.arange(_THIRDS) + 0.5) / _THIRDS
        factors = np.interp(share, middles, self.factors[row])  # without steps in between
        below, above = (np.minimum(factors * side, _WIDEST) for side in spreads[self.spreads[row]])
        return median * np.exp(-below), median * np.exp(above)

    def _row(self, points: int) -> int:
        known = [row for row in range(len(SEEN)) if np.isfinite(self.factors[row]).all()]
        lower = [row for row in known if SEEN[row] <= points]
        return lower[-1] if lower else (known[0] if known else 0)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "factors": [[None if np.isnan(f) else f for f in row] for row in self.factors.tolist()],
            "spreads": list(self.spreads),
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Intervals:
        """What `to_json` gave."""
        factors = [[np.nan if f is None else f for f in row] for row in saved["factors"]]
        return cls(np.array(factors, np.float64), tuple(saved["spreads"]), saved["unit"])


def conformal(cases: Sequence[Sequence[Case]], unit: str) -> Intervals:
    """Set the factors, and choose the spread with the best interval score (Gneiting & Raftery 2007, eq. 43).

    Args:
        cases: for each number of points in `SEEN`, forecasts of the runs that were held out together.
        unit: what they were held out by.
    """
    factors = np.full((len(SEEN), _THIRDS), np.nan)
    names = []
    for row, (points, of_points) in enumerate(zip(SEEN, cases, strict=True)):
        of_points = [case for case in of_points if len(case.curves)]
        best = np.inf
        names.append("ode")
        for name in of_points[0].spreads if of_points else ():
            found = _factors(of_points, name, points)
            trial = Intervals(np.tile(found, (len(SEEN), 1)), (name,) * len(SEEN), unit)
            score = float(np.mean([_score(case, trial, points) for case in of_points]))
            if score < best:
                best, names[-1], factors[row] = score, name, found
    return Intervals(factors, tuple(names), unit)


def thirds(points: int) -> NDArray[np.int64]:
    """Third of what is still to come that each point is in, (POINTS,); 0 at the points seen."""
    place = (np.arange(POINTS) - points) * _THIRDS // max(1, POINTS - points)
    return np.clip(place, 0, _THIRDS - 1)


def _log_errors(case: Case, points: int) -> Floats:
    """log(value / median), (curves, POINTS); NaN at the points seen."""
    error = log_ratios(case.curves.values, np.ones(len(case.curves))) - np.log(np.maximum(case.median, 1e-300))
    error[:, :points] = np.nan
    return error


def _factors(cases: Sequence[Case], name: str, points: int) -> Floats:
    """Quantile of |log error| in units of the spread, (thirds,); cases weigh the same."""
    ratios = []
    for case in cases:
        error, (below, above) = _log_errors(case, points), case.spreads[name]
        ratios.append(np.abs(error) / np.where(error < 0, below, above))
    factors = np.full(_THIRDS, np.nan)
    for third in range(_THIRDS):
        inside = [ratio[:, (thirds(points) == third) & (np.arange(POINTS) >= points)] for ratio in ratios]
        known = [part[np.isfinite(part)] for part in inside]
        runs = sum(int(np.isfinite(part).any(1).sum()) for part in inside)
        if runs:
            # Points of a run are alike, so that the correction for few runs counts runs.
            level = min(1.0, np.ceil((runs + 1) * LEVEL) / runs)
            weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in known if len(part)])
            values = np.concatenate(known)
            factors[third] = np.quantile(values, level, weights=weights, method="inverted_cdf")
    return factors


def _score(case: Case, intervals: Intervals, points: int) -> float:
    """Mean interval score of the logarithms."""
    low, high = intervals(case.median, case.spreads, points)
    return interval_scores(np.log(case.curves.values[:, points:]), np.log(low[:, points:]), np.log(high[:, points:]))


def interval_scores(truth: Floats, low: Floats, high: Floats) -> float:
    """Mean interval score (Gneiting & Raftery 2007, eq. 43) at `LEVEL`, over the values that are there."""
    outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    return float(np.nanmean(high - low + 2 / (1 - LEVEL) * outside))

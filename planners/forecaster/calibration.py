"""What forecasts of runs that were not fitted to teach: how wide intervals must be, and which method is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lr_env.errors import find
from planners.forecaster.combining import BEFORE, CHOICES, METHODS, Forecasts
from planners.forecaster.curves import POINTS, Floats
from planners.forecaster.intervals import SEEN, Case, Intervals, conformal
from planners.forecaster.scores import scores

Trial = Callable[[int], Forecasts]
"""Forecasts of runs that were left out, after a number of points seen, by what was fitted to others."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Forecasts of several runs.

    Attributes:
        median: (curves, POINTS); the values themselves at the points seen.
        low: lower ends of the 90 % intervals, (curves, POINTS).
        high: upper ends.
    """

    median: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Calibration:
    """How wide intervals are, and what "auto" is.

    Attributes:
        intervals: name of a method -> its intervals.
        chosen: what "auto" is for each number of points in `SEEN`.
    """

    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    chosen: tuple[str, ...] = ("ode",) * len(SEEN)

    @classmethod
    def of(cls, trials: Sequence[Trial], unit: str, names: Sequence[str], seen: Sequence[int]) -> Calibration:
        """Learn from trials.

        Args:
            trials: count the same.
            unit: what was left out in each: "configuration" or "task".
            names: methods that "auto" may be.
            seen: numbers of points seen, of `SEEN`.
        """
        cases: dict[str, list[list[Case]]] = {name: [] for name in (*names, "auto")}
        chosen = []
        for points in SEEN:
            found: dict[str, list[Case]] = {name: [] for name in names if points or name in BEFORE}
            for forecasts in (trial(points) for trial in trials if points in seen):
                for name, of_name in found.items() if len(forecasts.curves) else ():
                    of_name.append(Case(forecasts.curves, forecasts.median(name), forecasts.spreads(name)))
            by_error = {
                name: np.mean([scores(case.curves, case.median, points)["log_mae"] for case in of_name])
                for name, of_name in found.items()
                if of_name
            }
            chosen.append(min(by_error, key=lambda name: by_error[name]) if by_error else "ode")
            for name, of_name in cases.items():
                of_name.append(found.get(chosen[-1] if name == "auto" else name, []))
        return cls({name: conformal(of_name, unit) for name, of_name in cases.items()}, tuple(chosen))

    def method(self, name: str, points: int) -> str:
        """What a method is after so many points seen: another one for "auto"."""
        return self.chosen[max(row for row, of_row in enumerate(SEEN) if of_row <= points)] if name == "auto" else name

    def predict(self, forecasts: Forecasts, name: str) -> Prediction:
        """The forecasts by a method, with intervals; those of methods that are only compared with are the ODE's.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        find("method", name, dict.fromkeys(METHODS))
        points, curves, method = forecasts.points, forecasts.curves, self.method(name, forecasts.points)
        intervals = self.intervals.get(name) or self.intervals["ode"]
        median = forecasts.median(method)
        low, high = intervals(median, forecasts.spreads(method if name in self.intervals else "ode"), points)
        seen = np.isfinite(curves.values) & (np.arange(POINTS) < points)
        return Prediction(*(np.where(seen, curves.values, end) for end in (median, low, high)))

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        intervals = {name: intervals.to_json() for name, intervals in self.intervals.items()}
        return {"chosen": list(self.chosen), "intervals": intervals}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave.

        Raises:
            ValueError: it does not say how forecasts are made.
        """
        intervals = {name: Intervals.from_json(of_name) for name, of_name in saved["intervals"].items()}
        chosen = tuple(saved["chosen"])
        if "ode" not in intervals or len(chosen) != len(SEEN) or not {*chosen} <= {*CHOICES}:
            raise ValueError("it does not say how its forecasts are made")
        return cls(intervals, chosen)

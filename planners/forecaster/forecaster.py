"""The forecaster: a fitted model with the curves that it was fitted to, and the methods that it is combined with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lr_env.errors import UserError, find
from lr_env.files import sha256_of
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.description import Forecast, RunDescription
from planners.forecaster.encoding import Encoding
from planners.forecaster.fit import FittedODE, Fitting, fit, held_out_unit
from planners.forecaster.intervals import SEEN, Intervals, conformal, standardised
from planners.forecaster.methods.learned import Boosting, NearestRuns
from planners.forecaster.methods.parametric import ensemble, power_law
from planners.forecaster.methods.simple import last_value
from planners.forecaster.model.network import CurveODE, Sizes
from planners.forecaster.scores import scores
from planners.forecaster.settings import rate_settings
from planners.forecaster.tables import read_curves, write_curves
from planners.forecaster.window import scale_of
from planners.weights import Tensors, WeightFiles

METHODS = ("auto", "both", "blend", "ode", "boosting", "nearest", "ensemble", "power-law", "last-value")
"""Names of the methods. "blend" is a weighted geometric mean of `BLENDED`, "both" that of "ode" and "blend", and "auto"
the best of these three on runs that were held out, for each number of points seen."""

CHOICES = ("ode", "blend", "both")
"""What "auto" may be."""

BLENDED = {"boosting": 2.0, "nearest": 2.0, "power-law": 1.0}
"""Weights of the blend; where nothing was seen there is no power law."""

_LEAST = 0.02
"""Smallest part of a blend, as a share of the last value: a power law may reach 0."""

BEFORE = METHODS[:6]
"""Methods for runs that have not begun."""


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


@dataclass(eq=False)
class Forecaster:
    """Forecasts learning curves.

    Attributes:
        ode: the fitted differential equations.
        reference: the curves that it was fitted to, in which runs are looked up.
        intervals: name of a method -> how wide its intervals are.
        chosen: what "auto" is for each number of points in `SEEN`.
        about: provenance.
    """

    ode: FittedODE
    reference: CurveSet
    intervals: Mapping[str, Intervals]
    chosen: tuple[str, ...] = ("ode",) * len(SEEN)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fitted: dict[tuple[str, int], Callable[[CurveSet], Floats]] = {}

    @classmethod
    def fit(
        cls,
        curves: CurveSet,
        fitting: Fitting = Fitting(),  # noqa: B008 (frozen)
        about: Mapping[str, Any] | None = None,
        *,
        combined: bool = True,
    ) -> Forecaster:
        """Fit to usable curves. What is held out stops the fit early, sets the intervals, and chooses what "auto" is.

        Args:
            curves: curves of one metric.
            fitting: settings of the fit.
            about: provenance.
            combined: whether "auto" may be more than "ode"; the blend takes most of the time of a fit.

        Raises:
            UserError: there are too few curves.
        """
        curves = curves.rounded
        ode, held = fit(curves, fitting)
        validation = curves.rows(held)
        forecaster = cls(ode, curves.rows(~held), {}, about=about or {})
        unit = held_out_unit(curves)
        errors: dict[str, list[Floats]] = {name: [] for name in (*CHOICES, "auto")}
        chosen = []
        for points in SEEN:
            runs = validation.rows(forecaster.able(validation, points))
            names = CHOICES if combined else CHOICES[:1]
            forecasts = {name: forecaster.median(runs, points, name) for name in names} if len(runs) else {}
            by_error = {name: scores(runs, forecast, points)["log_mae"] for name, forecast in forecasts.items()}
            chosen.append(min(by_error, key=lambda name: by_error[name]) if by_error else "ode")
            scales = ode(runs, points)[1] if len(runs) else None
            found = {
                name: np.zeros((0, POINTS)) if scales is None else standardised(runs, forecast, scales, points)
                for name, forecast in forecasts.items()
            }
            for name, of_method in errors.items():
                of_method.append(found.get(chosen[-1] if name == "auto" else name, np.zeros((0, POINTS))))
        forecaster.intervals = {name: conformal(of_method, unit) for name, of_method in errors.items()}
        forecaster.chosen = tuple(chosen)
        forecaster.reference, forecaster._fitted = curves, {}
        return forecaster

    @staticmethod
    def able(curves: CurveSet, points: int) -> np.ndarray:
        """Which runs can be forecast: those of which something was seen, or whose reference is known; (curves,)."""
        index, _ = curves.last_seen(points)
        return np.isfinite(curves.reference) if points == 0 else index >= 1

    def median(self, curves: CurveSet, points: int, method: str = "auto") -> Floats:
        """Forecast the runs of which the first points are seen, (curves, POINTS); no meaning at the points seen.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        find("method", method, dict.fromkeys(METHODS))
        seen = curves.seen(points)
        if method == "auto":
            method = self.chosen[max(row for row, of_row in enumerate(SEEN) if of_row <= points)]
        if method == "both":
            return np.sqrt(self.median(curves, points, "ode") * self.median(curves, points, "blend"))
        if method == "blend":
            parts = {name: weight for name, weight in BLENDED.items() if points or name in BEFORE}
            least = _LEAST * scale_of(seen, points)[:, None]
            logs = [
                weight * np.log(np.maximum(self.median(curves, points, name), least)) for name, weight in parts.items()
            ]
            return np.exp(np.sum(logs, axis=0) / sum(parts.values()))
        if method == "ode":
            return self.ode(seen, points)[0]
        if method in ("boosting", "nearest"):
            key = method, points
            if key not in self._fitted:
                kind = Boosting if method == "boosting" else NearestRuns
                self._fitted[key] = kind(self.reference.rows(self.able(self.reference, points)), points)
            return self._fitted[key](seen)
        if points == 0:
            raise UserError(f"method {method!r} needs a run that has begun: ask for {', '.join(BEFORE)}")
        if method == "ensemble":
            return ensemble(seen, points).mean
        return power_law(seen, points) if method == "power-law" else last_value(seen, points)

    def predict(self, curves: CurveSet, points: int, method: str = "auto") -> Prediction:
        """Forecast runs of which the first points are seen, with intervals."""
        median = self.median(curves, points, method)
        intervals = self.intervals.get(method) or self.intervals["ode"]
        low, high = intervals(median, self.ode(curves.seen(points), points)[1], points)
        seen = np.isfinite(curves.values) & (np.arange(POINTS) < points)
        return Prediction(*(np.where(seen, curves.values, end) for end in (median, low, high)))

    def forecast(
        self, run: RunDescription, at: Sequence[float] | Floats | None = None, method: str = "auto"
    ) -> Forecast:
        """Forecast one run, from its beginning or before it.

        Args:
            run: what is known of it.
            at: optimizer steps to forecast; by default all later points of the grid.
            method: one of `METHODS`.

        Raises:
            UserError: the run has diverged, its values are none of the metric, or too little is known of it.
        """
        if (step := run.diverged_at) is not None:
            raise UserError(f"the run has diverged: its {self.reference.metric} at step {step:g} is not finite")
        run.check_metric(self.reference.metric)
        curves, points = run.curves(self.reference.metric), run.points
        if not self.able(curves, points).all():
            what = "its number of classes" if not points else "at least 2 values, the last one after the start"
            raise UserError(f"too little is known of the run to forecast it: give {what}")
        predicted = self.predict(curves, points, method)
        grid = np.arange(POINTS) / (POINTS - 1) * run.budget
        steps = grid[points:] if at is None else np.asarray(at, np.float64)
        first = run.steps[-1] if points else 0
        if not (np.isfinite(steps).all() and (steps >= first).all() and (steps <= run.budget).all()):
            raise UserError(f"at: give steps from {first:g}, up to which the run is known, to {run.budget}")
        ends = [
            np.interp(steps, grid[points:], part[0, points:])
            for part in (predicted.median, predicted.low, predicted.high)
        ]
        median, low, high = ends
        return Forecast(steps, median, low, high, self._baselines(curves, points), self.notes(curves))

    def _baselines(self, curves: CurveSet, points: int) -> dict[str, float]:
        methods = ("ode", "boosting", "nearest", *(("ensemble", "power-law", "last-value") if points else ()))
        return {method: float(self.median(curves, points, method)[0, -1]) for method in methods}

    def notes(self, curves: CurveSet) -> tuple[str, ...]:
        """What makes a forecast of the first run doubtful: what is not known of it, and what was never fitted to."""
        encoding, known = self.ode.encoding, rate_settings(curves)
        beyond = [f"beyond what was fitted to: {what}" for what in encoding.beyond(curves)]
        optimizers = [name for name in known if name.startswith("optimizer=") and name not in self.reference.settings]
        beyond += [f"{name.removeprefix('optimizer=')} is no optimizer that was fitted to" for name in optimizers]
        always = [name for name, values in rate_settings(self.reference).items() if np.isfinite(values).all()]
        missing = [name for name in encoding.settings.names if name in always and "=" not in name and name not in known]
        beyond += [f"not known: {', '.join(missing)}"] if missing else []
        if encoding.summary is not None and not curves.architectures:
            beyond.append("not known: the architecture")
        return tuple(beyond)

    def save(self, path: Path) -> None:
        """Write the model, and the curves beside it; see `curves_file`."""
        write_curves(self.reference, curves_file(path))
        header = {
            "encoding": self.ode.encoding.to_json(),
            "sizes": asdict(self.ode.network.sizes),
            "metric": self.reference.metric,
            "chosen": list(self.chosen),
            "intervals": {name: intervals.to_json() for name, intervals in self.intervals.items()},
            "curves": sha256_of(curves_file(path)),
            "about": dict(self.about),
        }
        weights = {name: weight.detach().numpy() for name, weight in self.ode.network.named_parameters()}
        FORECASTERS.save(path, header, weights)

    @classmethod
    def load(cls, path: Path | str) -> Forecaster:
        """Read what `save` wrote, by its path or by the name of a shipped model.

        Raises:
            UserError: a file is missing, damaged, or not the one that was written with the other.
        """
        saved = FORECASTERS.find(str(path))
        file = curves_file(FORECASTERS.path(str(path)))
        reference = read_curves(file)
        if sha256_of(file) != saved.curves or reference.metric != saved.metric:
            raise UserError(
                f"{str(file)!r} holds other curves than the forecaster beside it was fitted to: fit it anew"
            )
        return cls(saved.ode, reference, saved.intervals, saved.chosen, saved.about)


def curves_file(model: Path) -> Path:
    """The file of the curves that lies beside a model."""
    return model.with_suffix(".curves.parquet")


@dataclass(frozen=True, eq=False)
class _Saved:
    """What the file of a model holds."""

    ode: FittedODE
    intervals: Mapping[str, Intervals]
    chosen: tuple[str, ...]
    about: Mapping[str, Any]
    metric: str
    curves: str


def _read(header: Mapping[str, Any], tensors: Tensors, what: str) -> _Saved:
    encoding, sizes = Encoding.from_json(header["encoding"]), Sizes(**header["sizes"])
    if sizes.known != encoding.size:
        raise ValueError(f"its network reads {sizes.known} numbers, and {encoding.size} are told")
    network = CurveODE(sizes)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    intervals = {name: Intervals.from_json(saved) for name, saved in header["intervals"].items()}
    chosen = tuple(header["chosen"])
    if "ode" not in intervals or len(chosen) != len(SEEN) or not {*chosen} <= {*CHOICES}:
        raise ValueError("it does not say how its forecasts are made")
    return _Saved(FittedODE(network, encoding), intervals, chosen, header["about"], header["metric"], header["curves"])


FORECASTERS = WeightFiles("forecaster", "forecaster-", 1, "fit one with `lr-env forecast fit`", "fit it anew", _read)
"""Files of forecasters."""

"""The forecaster: a fitted model with the curves that it was fitted to, and the methods that it is combined with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lr_env.errors import UserError, find
from lr_env.files import sha256_of
from planners.forecaster.combining import BEFORE, CHOICES, METHODS, SINGLE, Forecasts, can_forecast
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.description import Forecast, RunDescription
from planners.forecaster.encoding import Encoding
from planners.forecaster.fit import LEAST_CURVES, FittedODE, Fitting, fit, held_out_unit
from planners.forecaster.intervals import SEEN, Case, Intervals, conformal
from planners.forecaster.methods.learned import Boosting, NearestRuns
from planners.forecaster.model.network import CurveODE, Sizes
from planners.forecaster.scores import scores
from planners.forecaster.settings import rate_settings
from planners.forecaster.tables import read_curves, write_curves
from planners.weights import Tensors, WeightFiles

FOLDS = 5
"""Most groups of tasks that are left out in turn."""

_STREAM = 0xF01D


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
        seen: Sequence[int] = SEEN,
    ) -> Forecaster:
        """Fit to usable curves. What is held out stops the fit early, sets the intervals, and chooses what "auto" is.

        Where there are several tasks, the last two are done by leaving out one after the other, or one group of them.

        Args:
            curves: curves of one metric.
            fitting: settings of the fit.
            about: provenance.
            combined: whether "auto" may be more than "ode"; the other methods take most of the time of a fit.
            seen: numbers of points seen, of `SEEN`, for which the last two are done.

        Raises:
            UserError: there are too few curves.
        """
        curves = curves.rounded
        ode, held = fit(curves, fitting)
        forecaster = cls(ode, curves.rows(~held), {}, about=about or {})
        unit, trials = held_out_unit(curves), [(forecaster, curves.rows(held))]
        if unit == "task":
            parts = list(_leaving_out_tasks(curves, fitting))
            trials = [(cls(other, rest, {}), left_out) for other, rest, left_out in parts] or trials
        names = CHOICES if combined else CHOICES[:1]
        cases: dict[str, list[list[Case]]] = {name: [] for name in (*names, "auto")}
        chosen = []
        for points in SEEN:
            found: dict[str, list[Case]] = {name: [] for name in names if points or name in BEFORE}
            for other, left_out in trials if points in seen else ():
                runs = left_out.rows(can_forecast(left_out, points))
                if len(runs):
                    forecasts = Forecasts(other.ode, other.single, runs, points)
                    for name, of_name in found.items():
                        of_name.append(Case(runs, forecasts.median(name), forecasts.spreads(name)))
            by_error = {
                name: np.mean([scores(case.curves, case.median, points)["log_mae"] for case in of_name])
                for name, of_name in found.items()
                if of_name
            }
            chosen.append(min(by_error, key=lambda name: by_error[name]) if by_error else "ode")
            for name, of_name in cases.items():
                of_name.append(found.get(chosen[-1] if name == "auto" else name, []))
        forecaster.intervals = {name: conformal(of_name, unit) for name, of_name in cases.items()}
        forecaster.chosen = tuple(chosen)
        forecaster.reference, forecaster._fitted = curves, {}
        return forecaster

    def single(self, method: str, seen: CurveSet, points: int) -> Floats:
        """Forecast runs by a method that looks other runs up, "boosting" or "nearest", (curves, POINTS)."""
        key = method, points
        if key not in self._fitted:
            kind = Boosting if method == "boosting" else NearestRuns
            self._fitted[key] = kind(self.reference.rows(can_forecast(self.reference, points)), points)
        return self._fitted[key](seen)

    def forecasts(self, curves: CurveSet, points: int) -> Forecasts:
        """Forecasts by all methods of runs of which the first points are seen."""
        return Forecasts(self.ode, self.single, curves, points)

    def predict(self, curves: CurveSet, points: int, method: str = "auto") -> Prediction:
        """Forecast runs of which the first points are seen, with intervals."""
        return self.prediction(self.forecasts(curves, points), method)

    def prediction(self, forecasts: Forecasts, method: str = "auto") -> Prediction:
        """The forecasts by one method, with intervals.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        find("method", method, dict.fromkeys(METHODS))
        points, curves = forecasts.points, forecasts.curves
        intervals = self.intervals.get(method) or self.intervals["ode"]
        name = self.chosen_for(points) if method == "auto" else method
        median = forecasts.median(name)
        low, high = intervals(median, forecasts.spreads(name if method in self.intervals else "ode"), points)
        seen = np.isfinite(curves.values) & (np.arange(POINTS) < points)
        return Prediction(*(np.where(seen, curves.values, end) for end in (median, low, high)))

    def chosen_for(self, points: int) -> str:
        """What "auto" is after so many points seen."""
        return self.chosen[max(row for row, of_row in enumerate(SEEN) if of_row <= points)]

    def median(self, curves: CurveSet, points: int, method: str = "auto") -> Floats:
        """Forecast the runs of which the first points are seen, (curves, POINTS); no meaning at the points seen.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        return self.forecasts(curves, points).median(self.chosen_for(points) if method == "auto" else method)

    def forecast(
        self,
        run: RunDescription,
        at: Sequence[float] | Floats | None = None,
        method: str = "auto",
        *,
        baselines: bool = False,
    ) -> Forecast:
        """Forecast one run, from its beginning or before it.

        Args:
            run: what is known of it.
            at: optimizer steps to forecast; by default all later points of the grid.
            method: one of `METHODS`.
            baselines: whether to forecast by the other methods too, of which trees take seconds the first time.

        Raises:
            UserError: the run has diverged, its values are none of the metric, or too little is known of it.
        """
        if (step := run.diverged_at) is not None:
            raise UserError(f"the run has diverged: its {self.reference.metric} at step {step:g} is not finite")
        run.check_metric(self.reference.metric)
        curves, points = run.curves(self.reference.metric), run.points
        if not can_forecast(curves, points).all():
            what = "its number of classes" if not points else "at least 2 values, the last one after the start"
            raise UserError(f"too little is known of the run to forecast it: give {what}")
        forecasts = self.forecasts(curves, points)
        predicted = self.prediction(forecasts, method)
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
        beside: dict[str, float] = {}
        if baselines:
            names = [name for name in SINGLE if points or name in BEFORE]
            beside = {name: float(forecasts.median(name)[0, -1]) for name in names}
        return Forecast(steps, median, low, high, beside, self.notes(curves))

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


def _leaving_out_tasks(curves: CurveSet, fitting: Fitting) -> Iterator[tuple[FittedODE, CurveSet, CurveSet]]:
    """Leave out the tasks in turn, or groups of them; what is fitted to the others, these, and those left out.

    The ensembles are smaller and fitted for a shorter time, for there are many.
    """
    names = list(dict.fromkeys(curves.tasks))
    order = np.random.Generator(np.random.PCG64([_STREAM, fitting.seed])).permutation(len(names))
    quick = replace(fitting, members=-(-fitting.members // 2), updates=-(-fitting.updates // 2))
    of_curves = np.array(curves.tasks)
    for group in np.array_split(order, min(FOLDS, len(names))):
        left_out = np.isin(of_curves, [names[place] for place in group])
        if (~left_out).sum() >= LEAST_CURVES:
            rest = curves.rows(~left_out)
            yield fit(rest, quick)[0], rest, curves.rows(left_out)


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


FORECASTERS = WeightFiles("forecaster", "forecaster-", 2, "fit one with `lr-env forecast fit`", "fit it anew", _read)
"""Files of forecasters."""

"""The forecaster: a fitted model with the curves that it was fitted to, and the methods that it is combined with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.files import sha256_of
from planners.forecaster.calibration import Calibration, Prediction, Trial
from planners.forecaster.combining import BEFORE, CHOICES, SINGLE, Forecasts, can_forecast
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.description import Forecast, RunDescription
from planners.forecaster.encoding import Encoding
from planners.forecaster.fit import LEAST_CURVES, FittedODE, Fitting, fit, unlike
from planners.forecaster.intervals import SEEN
from planners.forecaster.methods.learned import Boosting, NearestRuns
from planners.forecaster.model.network import CurveODE, Sizes
from planners.forecaster.model.published import PublishedODE
from planners.forecaster.settings import rate_settings, summaries
from planners.forecaster.tables import read_curves, write_curves
from planners.weights import Tensors, WeightFiles

SEVERAL_TASKS = 3
"""Fewest tasks that are left out in turn to tell how an unseen one is forecast."""

FOLDS = 5
"""Most groups of tasks that are left out in turn."""

_STREAM = 0xF01D

_SLACK = 0.1
"""Part of the range of a number in the summaries by which a network may be beyond it and still be of the same kind."""


@dataclass(eq=False)
class Forecaster:
    """Forecasts learning curves.

    Attributes:
        ode: the fitted differential equations.
        reference: the curves that it was fitted to, in which runs are looked up.
        home: how runs like them are forecast.
        abroad: how runs of networks are forecast that are of another kind, with the architecture hidden; None where
            that could not be tried.
        about: provenance.
    """

    ode: FittedODE
    reference: CurveSet
    home: Calibration = field(default_factory=Calibration)
    abroad: Calibration | None = None
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

        Where there are several tasks and networks are not known, the last two are done by leaving out one task after
        the other, or one group of them. Where networks are known, that is done for networks of another kind.

        Args:
            curves: curves of one metric.
            fitting: settings of the fit.
            about: provenance.
            combined: whether "auto" may be more than "ode"; the other methods take most of the time of a fit.
            seen: numbers of points seen, of `SEEN`, for which the last two are done.

        Raises:
            UserError: there are too few curves.
        """
        if fitting.dynamics == "paper":  # which knows nothing of runs that have not begun
            seen = [points for points in seen if points]
        names = CHOICES if combined else CHOICES[:1]
        curves = curves.rounded
        ode, held = fit(curves, fitting)
        unit = "task" if unlike(curves, SEVERAL_TASKS) else "configuration"
        reads = combined and ode.encoding.summary is not None and bool(curves.architectures)
        parts = list(_leaving_out_tasks(curves, fitting)) if unit == "task" or reads else []
        trials = [_trial(cls(ode, curves.rows(~held)), curves.rows(held))]
        if unit == "task" and parts:
            trials = [_trial(other, left_out) for other, left_out in parts]
        home, abroad = Calibration.of(trials, unit, names, seen), None
        if reads and parts:
            trials = [_trial(other, left_out.without(architecture=True)) for other, left_out in parts]
            abroad = Calibration.of(trials, "task", names, seen)
        return cls(ode, curves, home, abroad, about or {})

    def single(self, method: str, seen: CurveSet, points: int) -> Floats:
        """Forecast runs by a method that looks other runs up, "boosting" or "nearest", (curves, POINTS)."""
        key = method, points
        if key not in self._fitted:
            kind = Boosting if method == "boosting" else NearestRuns
            self._fitted[key] = kind(self.reference.rows(can_forecast(self.reference, points)), points)
        return self._fitted[key](seen)

    def forecasts(self, curves: CurveSet, points: int) -> Forecasts:
        """Forecasts by all methods of runs of which the first points are seen, as if the networks were like others."""
        return Forecasts(self.ode, self.single, curves, points)

    def predictions(self, curves: CurveSet, points: int) -> Predictions:
        """Forecasts of the same with intervals, by any method."""
        return Predictions(self, curves, points)

    def predict(self, curves: CurveSet, points: int, method: str = "auto") -> Prediction:
        """Forecast runs of which the first points are seen, with intervals.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        return self.predictions(curves, points)(method)

    def median(self, curves: CurveSet, points: int, method: str = "auto") -> Floats:
        """Forecast the runs of which the first points are seen, (curves, POINTS); the values at these points.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        return self.predict(curves, points, method).median

    def foreign(self, curves: CurveSet) -> NDArray[np.bool_]:
        """Which networks are of another kind than all that were fitted to, (curves,).

        A number in the summary of such a network is beyond the range of theirs by more than a part of it, or differs
        where theirs do not.
        """
        found = np.zeros(len(curves), dtype=bool)
        if self.abroad is None or not self._summary_ranges:
            return found
        for name, values in summaries(curves).items():
            low, high = self._summary_ranges[name]
            slack = _SLACK * (high - low)
            with np.errstate(invalid="ignore"):
                found |= (values < low - slack) | (values > high + slack)
        return found

    @cached_property
    def _always_known(self) -> frozenset[str]:
        """Names of the settings that are known of all runs that were fitted to."""
        settings = rate_settings(self.reference)
        return frozenset(name for name, values in settings.items() if np.isfinite(values).all())

    @cached_property  # every forecast asks
    def _summary_ranges(self) -> dict[str, tuple[float, float]]:
        """Name -> smallest and largest value in the summaries of the networks that were fitted to."""
        known = summaries(self.reference)
        return {name: (float(np.nanmin(values)), float(np.nanmax(values))) for name, values in known.items()}

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
        predictions = self.predictions(curves, points)
        predicted = predictions(method)
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
            beside = {name: float(predictions(name).median[0, -1]) for name in names}
        return Forecast(steps, median, low, high, beside, self.notes(curves))

    def notes(self, curves: CurveSet) -> tuple[str, ...]:
        """What makes a forecast of the first run doubtful: what is not known of it, and what was never fitted to."""
        encoding, known = self.ode.encoding, rate_settings(curves)
        beyond = [f"beyond what was fitted to: {what}" for what in encoding.beyond(curves)]
        optimizers = [name for name in known if name.startswith("optimizer=") and name not in self.reference.settings]
        beyond += [f"{name.removeprefix('optimizer=')} is no optimizer that was fitted to" for name in optimizers]
        missing = [
            name
            for name in encoding.settings.names
            if name in self._always_known and "=" not in name and name not in known
        ]
        beyond += [f"not known: {', '.join(missing)}"] if missing else []
        if self.foreign(curves).any():
            beyond.append("no network of this kind was fitted to: its architecture is not used")
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
            "home": self.home.to_json(),
            "abroad": self.abroad and self.abroad.to_json(),
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
        return cls(saved.ode, reference, saved.home, saved.abroad, saved.about)


def curves_file(model: Path) -> Path:
    """The file of the curves that lies beside a model."""
    return model.with_suffix(".curves.parquet")


@dataclass(frozen=True, eq=False)
class _Saved:
    """What the file of a model holds."""

    ode: FittedODE
    home: Calibration
    abroad: Calibration | None
    about: Mapping[str, Any]
    metric: str
    curves: str


def _trial(forecaster: Forecaster, left_out: CurveSet) -> Trial:
    """Forecasts of runs that a forecaster was not fitted to."""
    return lambda points: forecaster.forecasts(left_out.rows(can_forecast(left_out, points)), points)


def _leaving_out_tasks(curves: CurveSet, fitting: Fitting) -> Iterator[tuple[Forecaster, CurveSet]]:
    """Leave out the tasks in turn, or groups of them: what is fitted to the others, and those left out.

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
            yield Forecaster(fit(rest, quick)[0], rest), curves.rows(left_out)


class Predictions:
    """Forecasts of some runs with intervals, by any method; what methods have in common is made once.

    Args:
        forecaster: makes them.
        curves: the runs.
        points: how many of their points are seen.
    """

    def __init__(self, forecaster: Forecaster, curves: CurveSet, points: int) -> None:
        self.forecaster = forecaster
        self.home = forecaster.forecasts(curves, points)
        self._foreign = forecaster.foreign(curves)
        hidden = curves.rows(self._foreign).without(architecture=True)
        self.abroad = forecaster.forecasts(hidden, points) if len(hidden) else None

    def __call__(self, method: str = "auto") -> Prediction:
        """The forecasts by a method.

        Raises:
            UserError: there is no such method, or it needs a run to have begun.
        """
        found = self.forecaster.home.predict(self.home, method)
        if self.abroad is None or self.forecaster.abroad is None:
            return found
        away = self.forecaster.abroad.predict(self.abroad, method)
        ends = [(getattr(found, name).copy(), getattr(away, name)) for name in ("median", "low", "high")]
        for of_all, of_foreign in ends:
            of_all[self._foreign] = of_foreign
        return Prediction(*(of_all for of_all, _ in ends))


def _read(header: Mapping[str, Any], tensors: Tensors, what: str) -> _Saved:
    encoding, sizes = Encoding.from_json(header["encoding"]), Sizes(**header["sizes"])
    if sizes.known != encoding.size:
        raise ValueError(f"its network reads {sizes.known} numbers, and {encoding.size} are told")
    network = PublishedODE(sizes) if sizes.dynamics == "paper" else CurveODE(sizes)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    home, abroad = Calibration.from_json(header["home"]), header["abroad"] and Calibration.from_json(header["abroad"])
    return _Saved(FittedODE(network, encoding), home, abroad, header["about"], header["metric"], header["curves"])


FORECASTERS = WeightFiles("forecaster", "forecaster-", 3, "fit one with `lr-env forecast fit`", "fit it anew", _read)
"""Files of forecasters."""

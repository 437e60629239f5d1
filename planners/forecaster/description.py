"""What is known of one run: its beginning, its schedule, its settings and its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lr_env.architecture.graph import Architecture
from lr_env.errors import UserError, whole
from planners.forecaster.curves import POINTS, CurveSet, Floats, on_grid


@dataclass(frozen=True, eq=False)
class RunDescription:
    """A run that is to be forecast, begun or not.

    Attributes:
        budget: optimizer steps of the whole run.
        lr: learning rate: one for the whole run, or one for each of equal parts of it, past and planned, (parts,). None
            where it is not known.
        settings: name -> number, or name of the optimizer, e.g. {"batch_size": 64, "optimizer": "SGD"}.
        architecture: of the network; see `lr_env.architecture.architecture_of`.
        classes: number of classes, by which a run is forecast that has not begun.
        steps: optimizer steps at which the metric was measured, rising, (points,).
        values: the metric, (points,).

    Raises:
        UserError: they do not fit together.
    """

    budget: int
    lr: ArrayLike | None = None
    settings: Mapping[str, float | str] = field(default_factory=dict)
    architecture: Architecture | None = None
    classes: int | None = None
    steps: Sequence[float] | Floats = ()
    values: Sequence[float] | Floats = ()

    def __post_init__(self) -> None:
        whole("budget", self.budget)
        steps, values = (np.asarray(part, np.float64) for part in (self.steps, self.values))
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", values)
        if steps.shape != values.shape or steps.ndim != 1:
            raise UserError(f"steps of shape {steps.shape} and values of shape {values.shape}: give as many of each")
        if not np.isfinite(steps).all() or (np.diff(steps) <= 0).any() or (len(steps) and steps[0] < 0):
            raise UserError("the steps of the curve do not rise: give each step once, in order, from 0 up")
        if len(steps) and steps[-1] > self.budget:
            raise UserError(
                f"the curve goes to step {steps[-1]:g}, and the budget is {self.budget}: give a larger budget"
            )
        if self.lr is not None:
            rates = np.atleast_1d(np.asarray(self.lr, np.float64))
            if (
                rates.ndim != 1
                or not len(rates)
                or not (np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0)
            ):
                raise UserError("lr: give one rate above 0, or one for each of equal parts of the run")

    @property
    def points(self) -> int:
        """Points of the grid up to the last step that was measured; 0 where nothing was."""
        if not len(self.steps):
            return 0
        return int(np.floor(self.steps[-1] / self.budget * (POINTS - 1) + 1e-9)) + 1

    @property
    def diverged_at(self) -> float | None:
        """The first step at which the metric was not finite; None if it always was."""
        wrong = ~np.isfinite(self.values)
        return float(np.asarray(self.steps)[np.argmax(wrong)]) if wrong.any() else None

    def check_metric(self, metric: str) -> None:
        """Check that the values can be of a metric.

        Raises:
            UserError: one is not above 0, or all are those of an accuracy.
        """
        values = np.asarray(self.values)
        below = np.flatnonzero(values <= 0)
        if len(below):
            raise UserError(f"{metric} is {values[below[0]]:g} at step {self.steps[below[0]]:g}: it must be above 0")
        half = len(values) // 2
        if len(values) >= 4 and values.max() <= 1 and values[half:].mean() > values[:half].mean() + 0.05:
            raise UserError(
                f"the values rise and are at most 1, as an accuracy: give {metric}, of which lower is better"
            )

    def curves(self, metric: str) -> CurveSet:
        """The run as a set of one curve."""
        rates = np.full(POINTS, np.nan)
        if self.lr is not None:
            given = np.atleast_1d(np.asarray(self.lr, np.float64))
            rates = given[np.minimum((np.arange(POINTS) * len(given)) // (POINTS - 1), len(given) - 1)]
        settings: dict[str, Floats] = {"budget": np.array([float(self.budget)])}
        for name, value in self.settings.items():
            if isinstance(value, str):
                settings[f"{name}={value}"] = np.ones(1)
            else:
                settings[name] = np.array([float(value)])
        reference = np.nan
        if self.classes:
            settings["classes"] = np.array([float(self.classes)])
            reference = 1 - 1 / self.classes if metric == "val_error" else float(np.log(self.classes))
        graphs = () if self.architecture is None else (self.architecture,)
        values = on_grid(np.asarray(self.steps), np.asarray(self.values), self.budget)
        names = ("run",)
        return CurveSet(
            metric, values[None], rates[None], settings, graphs, np.array([len(graphs) - 1]), np.array([reference]),
            names, names, names,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Forecast:
    """How a run will go on.

    Attributes:
        steps: optimizer steps, (points,).
        median: forecast of the metric, (points,).
        low: lower end of the 90 % interval, (points,).
        high: upper end, (points,).
        baselines: name of a method -> its forecast of the last point.
        notes: what makes the forecast doubtful, a line each: settings beyond those fitted to, unknown names.
    """

    steps: Floats
    median: Floats
    low: Floats
    high: Floats
    baselines: Mapping[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        arrays = {name: getattr(self, name).tolist() for name in ("steps", "median", "low", "high")}
        return {**arrays, "baselines": dict(self.baselines), "notes": list(self.notes)}

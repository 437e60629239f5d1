"""Sets of learning curves on a common grid of shares of the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.architecture.graph import Architecture

Floats = NDArray[np.float64]
Rows = Sequence[int] | NDArray[np.int64] | NDArray[np.bool_]

POINTS = 51
"""Points of the grid: shares 0, 1/50, ..., 1 of the budget."""

GROWTH = 2.0
"""A run whose metric ever exceeds so many times its first value has diverged."""


_NAMES = ("tasks", "configurations", "run_ids")
"""Fields of a `CurveSet` that hold a name of each run."""

_SINGLE = ("values", "rates", "reference")
"""Fields that files keep in single precision, as they do settings."""


@dataclass(frozen=True, eq=False)
class CurveSet:
    """Learning curves of one metric, of which lower is better.

    Attributes:
        metric: "val_loss", "train_loss" or "val_error" (1 - accuracy).
        values: the metric at each share of the budget, above 0, (curves, POINTS); NaN where it was not measured.
        rates: learning rate at each share, (curves, POINTS); NaN where it is not known.
        settings: name -> what is known of each run besides, (curves,); NaN where it is not known. Names of the form
            "optimizer=SGD" are 1 where that is so and 0 where it is not.
        architectures: the different networks.
        network: index of each run's network in `architectures`, (curves,); -1 where it is not known.
        reference: metric of a model that has learned nothing, e.g. log(classes), (curves,); NaN where it is not known.
        tasks: name of each run's task.
        configurations: what runs share that differ in nothing but their seed.
        run_ids: name of each run.
    """

    metric: str
    values: Floats
    rates: Floats
    settings: Mapping[str, Floats]
    architectures: tuple[Architecture, ...]
    network: NDArray[np.int64]
    reference: Floats
    tasks: tuple[str, ...]
    configurations: tuple[str, ...]
    run_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.values)
        if self.values.shape != (count, POINTS) or self.rates.shape != (count, POINTS):
            raise UserError(
                f"curves of shape {self.values.shape} and rates of shape {self.rates.shape}: both must be "
                f"(curves, {POINTS})"
            )
        arrays = [*self.settings.values(), self.network, self.reference, self.tasks, self.configurations, self.run_ids]
        if any(len(array) != count for array in arrays):
            raise UserError(f"{count} curves need {count} of each setting, network, reference, task and name")

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, which: Rows) -> CurveSet:
        """The curves of some rows, or where a mask is true."""
        index = np.arange(len(self))[np.asarray(which)]
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = value[index]
            elif field.name in _NAMES:
                changed[field.name] = tuple(value[row] for row in index)
        return replace(self, settings={name: values[index] for name, values in self.settings.items()}, **changed)

    @property
    def rounded(self) -> CurveSet:
        """The same in the single precision in which files keep it."""
        single = {name: getattr(self, name).astype(np.float32).astype(np.float64) for name in _SINGLE}
        settings = {name: values.astype(np.float32).astype(np.float64) for name, values in self.settings.items()}
        return replace(self, settings=settings, **single)

    def seen(self, points: int) -> CurveSet:
        """The same with nothing but the first points, and with no rates of later ones hidden: a plan is known."""
        values = self.values.copy()
        values[:, points:] = np.nan
        return replace(self, values=values)

    def without(self, *, settings: bool = False, architecture: bool = False) -> CurveSet:
        """The same with the settings and rates, or the architectures, unknown."""
        changed: dict[str, Any] = {}
        if settings:
            changed = {"settings": {}, "rates": np.full_like(self.rates, np.nan)}
        if architecture:
            changed |= {"architectures": (), "network": np.full(len(self), -1)}
        return replace(self, **changed)

    @property
    def graph_index(self) -> NDArray[np.int64]:
        """Index of each run's network among the architectures and an empty one, which stands for unknown, (curves,)."""
        return np.where(self.network >= 0, self.network, len(self.architectures))

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Runs that end, whose values are finite and above 0, and that never exceed `GROWTH` times the first."""
        first = _first_finite(self.values)
        with np.errstate(invalid="ignore"):
            wrong = (self.values <= 0) | (self.values > GROWTH * first[:, None]) | np.isinf(self.values)
        return ~wrong.any(1) & np.isfinite(self.values[:, -1]) & np.isfinite(first)

    def last_seen(self, points: int) -> tuple[NDArray[np.int64], Floats]:
        """Index of the last measured of the first points, and its value, (curves,); -1 and NaN where there is none."""
        if not points:
            return np.full(len(self), -1), np.full(len(self), np.nan)
        seen = np.isfinite(self.values[:, :points])
        index = np.where(seen.any(1), points - 1 - np.argmax(seen[:, ::-1], axis=1), -1)
        return index, np.where(index >= 0, self.values[np.arange(len(self)), index], np.nan)


def _first_finite(values: Floats) -> Floats:
    """First finite value of each row, (rows,); NaN where there is none."""
    finite = np.isfinite(values)
    found = values[np.arange(len(values)), np.argmax(finite, axis=1)]
    return np.where(finite.any(1), found, np.nan)


def join(sets: Sequence[CurveSet]) -> CurveSet:
    """One set of the curves of several, of the same metric; a setting that one set lacks is unknown there.

    Raises:
        UserError: there are none, or of several metrics.
    """
    if not sets or len({one.metric for one in sets}) > 1:
        raise UserError(
            f"curves of {', '.join(sorted({one.metric for one in sets})) or 'nothing'}: give those of one metric"
        )
    architectures: dict[Architecture, int] = {}
    networks = []
    for one in sets:
        places = np.array([architectures.setdefault(graph, len(architectures)) for graph in one.architectures] + [-1])
        networks.append(places[one.network])
    together = {name: np.concatenate([getattr(one, name) for one in sets]) for name in _SINGLE}
    settings = {
        name: np.concatenate([one.settings.get(name, np.full(len(one), np.nan)) for one in sets])
        for name in dict.fromkeys(name for one in sets for name in one.settings)
    }
    names: dict[str, Any] = {name: sum((getattr(one, name) for one in sets), ()) for name in _NAMES}
    return CurveSet(
        sets[0].metric,
        settings=settings,
        architectures=tuple(architectures),
        network=np.concatenate(networks),
        **together,
        **names,
    )


def on_grid(at: Floats, values: Floats, budget: float) -> Floats:
    """A series at the shares of the budget, (POINTS,); NaN outside of it.

    Where the series is finer than the grid, or as fine, it is interpolated. Where it is sparser, each measurement goes
    to the nearest point of the grid, and what lies between stays NaN.

    Args:
        at: optimizer steps, rising, (measurements,).
        values: (measurements,).
        budget: optimizer steps of the run.
    """
    share = np.asarray(at, np.float64) / budget * (POINTS - 1)
    grid = np.full(POINTS, np.nan)
    if not len(share):
        return grid
    spacing = np.median(np.diff(share)) if len(share) > 1 else np.inf
    if spacing <= 1 + 1e-9:
        inside = np.arange(max(0, np.ceil(share[0] - 0.5)), min(POINTS, np.floor(share[-1] + 1e-9) + 1)).astype(int)
        grid[inside] = np.interp(inside, share, values)
        return grid
    nearest = np.clip(np.round(share), 0, POINTS - 1).astype(int)
    grid[nearest] = values
    return grid

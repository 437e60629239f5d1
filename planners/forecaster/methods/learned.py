"""Forecasts from other runs without a differential equation: nearest runs, and gradient-boosted trees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.methods.parametric import ensemble, power_law
from planners.forecaster.settings import Scaler, rate_settings, summaries
from planners.forecaster.times import TIMES
from planners.forecaster.window import PLACES, log_ratios, scale_of, window

_FLOOR = 0.02
"""Least ratio of a forecast of the ensemble to the last value: its lines may fall below 0."""


class Described:
    """Settings and architectures of runs as columns that are scaled by those of the runs fitted to."""

    def __init__(self, train: CurveSet, *, settings: bool, architecture: bool) -> None:
        self._settings, self._architecture = settings, architecture
        self._scaler = Scaler.of(self._columns(train))

    def _columns(self, curves: CurveSet) -> dict[str, Floats]:
        columns = rate_settings(curves) if self._settings else {}
        return columns | (summaries(curves) if self._architecture else {})

    def __call__(self, curves: CurveSet) -> Floats:
        """(curves, columns)."""
        return self._scaler(self._columns(curves), len(curves))[0]


class NearestRuns:
    """The median of how the runs went on whose beginnings, and settings, are most like it.

    Args:
        train: whole curves.
        points: number of points seen.
        neighbours: number of runs.
        settings: whether settings are compared too.
        architecture: whether architectures are compared too.
    """

    def __init__(
        self, train: CurveSet, points: int, neighbours: int = 15, *, settings: bool = True, architecture: bool = True
    ) -> None:
        self.points, self.neighbours = points, min(neighbours, len(train))
        self._describe = Described(train, settings=settings, architecture=architecture)
        self._train = self._coordinates(train)
        self._futures = log_ratios(train.values, scale_of(train, points))

    def _coordinates(self, curves: CurveSet) -> Floats:
        described = self._describe(curves)
        shape = window(curves, self.points)[:, :PLACES] if self.points else np.zeros((len(curves), 0))
        share = _SETTINGS if self.points else 1.0
        return np.concatenate([shape, share * described / max(1, described.shape[1]) ** 0.5], 1)

    def __call__(self, curves: CurveSet) -> Floats:
        """Forecast, (curves, POINTS)."""
        distance = ((self._coordinates(curves)[:, None] - self._train[None]) ** 2).sum(-1)
        nearest = np.argpartition(distance, self.neighbours - 1, axis=1)[:, : self.neighbours]
        futures = self._futures[nearest]
        measured = np.any(np.isfinite(futures), axis=1)
        assert isinstance(measured, np.ndarray)
        median = np.nanmedian(np.where(measured[:, None], futures, 0.0), axis=1)
        return np.where(measured, np.exp(median), np.nan) * scale_of(curves, self.points)[:, None]


_SETTINGS = 0.03
"""Weight of a standard deviation of the settings, against log ratios."""


class Boosting:
    """Gradient-boosted trees (scikit-learn) on the points seen, what parametric curves forecast, settings and networks.

    They forecast the log ratio to the parametric ensemble's forecast, which carries over to tasks of another kind
    better than the ratio to the last value. Where nothing was seen they forecast the ratio to the reference.

    Args:
        train: whole curves.
        points: number of points seen.
        settings: whether settings are read.
        architecture: whether the summaries of architectures are read.
        horizons: number of later points of each curve that the trees are fitted to.
        seed: of their choice.
    """

    def __init__(
        self,
        train: CurveSet,
        points: int,
        *,
        settings: bool = True,
        architecture: bool = True,
        horizons: int = 8,
        seed: int = 0,
    ) -> None:
        self.points = points
        self._describe = Described(train, settings=settings, architecture=architecture)
        self._trees = HistGradientBoostingRegressor(
            loss="absolute_error",
            learning_rate=0.06,
            max_iter=250,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            l2_regularization=1.0,
            random_state=seed,
        )
        draw = np.random.Generator(np.random.PCG64(seed))
        later = np.arange(points, POINTS)
        count = min(horizons, len(later))
        chosen = np.stack([draw.permutation(later)[:count] for _ in range(len(train))])
        chosen[:, 0] = POINTS - 1
        rows = np.repeat(np.arange(len(train)), count)
        at = chosen.ravel()
        target = log_ratios(train.values / self._base(train), np.ones(len(train)))[rows, at]
        there = np.isfinite(target)
        self._trees.fit(self._inputs(train, rows[there], at[there]), target[there])

    def _inputs(self, curves: CurveSet, rows: NDArray[np.int64], at: NDArray[np.int64]) -> Floats:
        """One row for each curve and point that is forecast."""
        columns = [self._describe(curves)[rows], TIMES[at, None]]
        if self.points:
            seen = curves.seen(self.points)
            scale = scale_of(seen, self.points)
            fits = [np.log(np.maximum(fit / scale[:, None], 0.01))[rows, at] for fit in self._fits(seen)]
            columns += [window(seen, self.points)[rows], np.stack(fits, 1)]
        return np.concatenate(columns, 1)

    def _fits(self, seen: CurveSet) -> list[Floats]:
        return [power_law(seen, self.points), self._base(seen)]

    def _base(self, curves: CurveSet) -> Floats:
        """What is corrected, (curves, POINTS)."""
        seen = curves.seen(self.points)
        scale = np.repeat(scale_of(seen, self.points)[:, None], POINTS, axis=1)
        return np.maximum(ensemble(seen, self.points).mean, _FLOOR * scale) if self.points else scale

    def __call__(self, curves: CurveSet) -> Floats:
        """Forecast, (curves, POINTS)."""
        later = np.arange(self.points, POINTS)
        rows, at = np.repeat(np.arange(len(curves)), len(later)), np.tile(later, len(curves))
        ratio = np.full((len(curves), POINTS), np.nan)
        ratio[rows, at] = self._trees.predict(self._inputs(curves, rows, at))
        return np.exp(ratio) * self._base(curves)

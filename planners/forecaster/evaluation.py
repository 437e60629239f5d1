"""Evaluation of forecasters: every method on runs that it was not fitted to, in the same splits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError, find
from lr_env.stats.intervals import Estimate, paired_difference
from planners.forecaster.combining import BEFORE, METHODS, can_forecast
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.fit import FittedODE, Fitting, fit_published, held_out
from planners.forecaster.forecaster import Forecaster
from planners.forecaster.intervals import SEEN, rows_of
from planners.forecaster.methods.learned import Boosting, NearestRuns
from planners.forecaster.model.encoders import ENCODERS
from planners.forecaster.scores import mean_scores, scores
from planners.forecaster.settings import summaries

Split = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Which curves are fitted to, and which are forecast, (curves,) each."""

HOLD_OUTS = ("configuration", "task", "depth")
"""What can be held out."""

_STREAM = 0xE7A1


@dataclass(frozen=True)
class Ablation:
    """A forecaster that is told, or made of, something else.

    Attributes:
        change: of the settings of the fit.
        shuffled: whether each run is given the architecture of another one, in training and test alike.
    """

    change: Mapping[str, object] = field(default_factory=dict)
    shuffled: bool = False


ABLATIONS: Mapping[str, Ablation] = {
    "ode, no architecture": Ablation({"encoder": "none"}),
    "ode, architectures shuffled": Ablation(shuffled=True),
    "ode, no settings": Ablation({"settings": False}),
    "ode, curve alone": Ablation({"settings": False, "encoder": "none"}),
    **{f"ode, {kind}": Ablation({"encoder": kind}) for kind in ENCODERS if kind not in ("summary", "none")},
    "ode, gcn, architectures shuffled": Ablation({"encoder": "gcn"}, shuffled=True),
    "direct decoder": Ablation({"dynamics": "direct"}),
}
"""Name -> forecaster without a part, or with another one."""

BASELINES: Mapping[str, tuple[type, Mapping[str, bool]]] = {
    "boosting, no architecture": (Boosting, {"architecture": False}),
    "boosting, curve alone": (Boosting, {"architecture": False, "settings": False}),
    "nearest, curve alone": (NearestRuns, {"architecture": False, "settings": False}),
}
"""Name -> method, and what it is told."""

PUBLISHED = "published"
"""Name of the model of LC-GODE (arXiv 2412.15554), and of what its code reports of it; see `published_scores`."""

Results = dict[tuple[str, int], list[dict[str, float]]]
"""(method, points seen) -> scores of each split."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of all methods, and an example.

    Attributes:
        results: (method, points seen) -> scores of each split.
        forecaster: that of the first split.
        test: the runs of the first split that it was not fitted to.
        seconds: CPU time of each fit of a forecaster, (splits,).
    """

    results: Results
    forecaster: Forecaster
    test: CurveSet
    seconds: Floats

    def summary(self) -> dict[tuple[str, int], dict[str, float]]:
        """The means over splits."""
        return {key: mean_scores(of_splits) for key, of_splits in self.results.items()}

    def paired(self, method: str, other: str, points: int, score: str) -> Estimate | None:
        """How much higher a score of a method is than that of another: mean over splits, and 95 % interval.

        None where there are fewer than 3 splits, a split has no such score, or a method was not scored; or of itself.
        """
        if method == other or not {(method, points), (other, points)} <= self.results.keys():
            return None
        pair = [[split.get(score, np.nan) for split in self.results[name, points]] for name in (method, other)]
        if len(pair[0]) < 3 or not np.isfinite(pair).all():
            return None
        return paired_difference(*pair)


def splits_of(curves: CurveSet, hold_out: str, count: int, seed: int = 0) -> list[Split]:
    """Split curves into those that are fitted to and those that are forecast.

    Args:
        curves: all of them.
        hold_out: "configuration": a fifth of the configurations, at random, for each split. "task": each task in turn.
            "depth": the networks that are deeper than three in five, once.
        count: number of splits by configuration.
        seed: of the splits by configuration.

    Raises:
        UserError: there is nothing to hold out by.
    """
    find("hold-out", hold_out, dict.fromkeys(HOLD_OUTS))
    if hold_out == "configuration":
        names = sorted(set(curves.configurations))
        if len(names) < 10:
            raise UserError(f"{len(names)} configurations: give at least 10 to hold some of them out")
        tests = []
        for number in range(count):
            order = np.random.Generator(np.random.PCG64([_STREAM, seed, number])).permutation(len(names))
            chosen = {names[place] for place in order[: len(names) // 5]}
            tests.append(np.array([name in chosen for name in curves.configurations]))
    elif hold_out == "task":
        tasks = sorted(set(curves.tasks))
        if len(tasks) < 2:
            raise UserError(f"all curves are of the task {tasks[0]!r}: hold out configurations instead")
        tests = [np.array([name == task for name in curves.tasks]) for task in tasks]
    else:
        depth = summaries(curves).get("longest_path")
        if depth is None or np.isnan(depth).all():
            raise UserError("no architecture is known: depths cannot be held out")
        tests = [depth > np.nanquantile(depth, 0.6)]
        if not 0 < tests[0].sum() < len(curves):
            raise UserError("all networks are of one depth: hold out configurations instead")
    return [(~test, test) for test in tests]


def evaluate(
    curves: CurveSet,
    splits: Sequence[Split],
    *,
    seen: Sequence[int] = SEEN,
    methods: Sequence[str] = METHODS,
    ablations: Sequence[str] = (),
    baselines: Sequence[str] = (),
    published: bool = False,
    fitting: Fitting = Fitting(),  # noqa: B008 (frozen)
    progress: Callable[[str], None] = lambda what: None,
) -> Evaluation:
    """Fit and score every method in every split; curves that are not usable are left out.

    Raises:
        UserError: there is no such method, or there are too few curves.
    """
    results: Results = {}
    example: tuple[Forecaster, CurveSet] | None = None
    seconds = []
    for number, (train_rows, test_rows) in enumerate(splits):
        train, test = curves.rows(train_rows & curves.usable), curves.rows(test_rows & curves.usable)
        of_split = replace(fitting, seed=fitting.seed + number)
        began = time.process_time()
        forecaster = Forecaster.fit(train, of_split, seen=rows_of(seen))
        seconds.append(time.process_time() - began)
        example = example or (forecaster, test)
        progress(f"split {number + 1} of {len(splits)}: fitted to {len(train)} curves, {seconds[-1]:.0f} s")
        for points in seen:
            runs = test.rows(can_forecast(test, points))
            if not len(runs):
                continue
            predictions = forecaster.predictions(runs, points)
            for method in methods:
                if points == 0 and method not in BEFORE:
                    continue
                predicted = predictions(method)
                interval = (predicted.low, predicted.high) if method in forecaster.home.intervals else None
                results.setdefault((method, points), []).append(scores(runs, predicted.median, points, interval))
            for name in baselines:
                kind, told = BASELINES[name]
                able = train.rows(can_forecast(train, points))
                median = kind(able, points, **told)(runs.seen(points))
                results.setdefault((name, points), []).append(scores(runs, median, points))
        for name in ablations:
            ablation = ABLATIONS[name]
            trained, tested = (
                (_shuffled(part, number) for part in (train, test)) if ablation.shuffled else (train, test)
            )
            other = Forecaster.fit(trained, replace(of_split, **ablation.change), combined=False, seen=rows_of(seen))
            for points in seen:
                runs = tested.rows(can_forecast(tested, points))
                if len(runs):
                    predicted = other.predict(runs, points, "ode")
                    of_run = scores(runs, predicted.median, points, (predicted.low, predicted.high))
                    results.setdefault((name, points), []).append(of_run)
            progress(f"split {number + 1}: {name}")
        for points in (points for points in seen if published and points):
            for name, of_run in published_scores(train, test, points, of_split).items():
                results.setdefault((name, points), []).append(of_run)
            progress(f"split {number + 1}: the published model, {points} points seen")
    if example is None:
        raise UserError("there is nothing to hold out")
    return Evaluation(results, *example, np.array(seconds))


def published_scores(train: CurveSet, test: CurveSet, points: int, fitting: Fitting) -> dict[str, dict[str, float]]:
    """Scores of the published model, and of what its code does on top: name -> scores.

    The code takes the epoch with the lowest error on the runs that it is judged by, and leaves out their last point.
    """
    runs = test.rows(can_forecast(test, points))
    draw = np.random.Generator(np.random.PCG64([_STREAM, 2, fitting.seed]))
    held = held_out(train, fitting.held_out, draw)
    best: dict[bool, dict[str, float]] = {}

    def judge(fitted: FittedODE) -> None:
        median = fitted(runs, points)[0]
        for last in (True, False):
            judged = (
                runs if last else replace(runs, values=np.where(np.arange(POINTS) == POINTS - 1, np.nan, runs.values))
            )
            found = scores(judged, median, points)
            if last not in best or found["mape"] < best[last]["mape"]:
                best[last] = found

    of_paper = replace(fitting, dynamics="paper", encoder="paper", members=1, points=points)
    fitted = fit_published(train.rows(~held), train.rows(held), of_paper, judge)
    return {
        PUBLISHED: scores(runs, fitted(runs, points)[0], points),
        f"{PUBLISHED}, best epoch by the test runs": best[True],
        f"{PUBLISHED}, the same without the last point": best[False],
    }


def _shuffled(curves: CurveSet, seed: int) -> CurveSet:
    """The same with the networks of the configurations exchanged at random."""
    names = list(dict.fromkeys(curves.configurations))
    first = [curves.configurations.index(name) for name in names]
    order = np.random.Generator(np.random.PCG64([_STREAM, 1, seed])).permutation(len(names))
    network = {name: curves.network[first[place]] for name, place in zip(names, order, strict=True)}
    return replace(curves, network=np.array([network[name] for name in curves.configurations]))


def floor_of(curves: CurveSet, points: int) -> dict[str, float] | None:
    """Scores of a run on another seed as the forecast, which no method can beat by much that ignores seeds."""
    by_configuration: dict[tuple[str, bytes], list[int]] = {}
    for row, name in enumerate(curves.configurations):
        by_configuration.setdefault((name, curves.rates[row].tobytes()), []).append(row)
    pairs = np.array([rows[:2] for rows in by_configuration.values() if len(rows) > 1])
    if not len(pairs):
        return None
    truth, other = curves.rows(pairs[:, 0]), curves.rows(pairs[:, 1])
    return {**scores(truth, other.values, points), "pairs": float(len(pairs))}

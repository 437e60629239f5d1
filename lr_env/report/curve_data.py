"""Curves of runs, summarised over seeds, and the limits of axes that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.stats.intervals import Estimate

Scale = Literal["log", "linear"]
"""Scale of an axis."""

HIGHLIGHTED = 5
"""Planners drawn in colour; the others are grey."""

OFF_SCALE = 4.0
"""A curve or an interval this many spreads beyond the median one is cut off."""


@dataclass(frozen=True)
class Curve:
    """The curves of one planner: medians and quartiles over its seeds.

    Attributes:
        planner: name.
        n: runs.
        diverged: how many of them diverged.
        steps: optimizer steps at the ends of segments, (segments,).
        lr: lower quartile, median and upper quartile of the rates of the runs that have not ended, (3, segments).
        loss: lower quartile, median and upper quartile of the validation losses of all runs; a loss is infinite from
            where its run diverged, (3, segments).
        ends: step and validation loss where a run diverged, (diverged, 2).
        score: mean test loss, nats per example; infinite where a run diverged.
    """

    planner: str
    n: int
    diverged: int
    steps: NDArray[np.float64]
    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    ends: NDArray[np.float64]
    score: float

    @property
    def label(self) -> str:
        """The planner, and how many of its runs diverged."""
        return diverged_label(self.planner, self.diverged, self.n)


def diverged_label(planner: str, diverged: int, n: int) -> str:
    """A planner, and how many of its n runs diverged, if any did."""
    return f"{planner} ({diverged}/{n} diverged)" if diverged else planner


def curve_of(planner: str, runs: Sequence[RunRecord]) -> Curve:
    """Compute the curve of a planner from its runs, which have the curves `step`, `lr` and `val_loss`."""
    steps = np.asarray(max((r.curves["step"] for r in runs), key=len), dtype=np.float64)
    lr = np.full((len(runs), len(steps)), np.nan)
    loss = np.full((len(runs), len(steps)), np.inf)
    ends = []
    for i, run in enumerate(runs):
        length = len(run.curves["step"])
        lr[i, :length] = run.curves["lr"]
        loss[i, :length] = np.nan_to_num(run.curves["val_loss"], nan=np.inf, posinf=np.inf)
        if run.diverged:
            ends.append((run.curves["step"][-1], loss[i, length - 1]))
    scores = [np.inf if r.diverged else r.scores.get("test_loss", np.inf) for r in runs]
    # The rate of a run that ended is left out, its loss is not. Quantiles are not interpolated: losses may be infinite.
    rates = [np.quantile(c[np.isfinite(c)], (0.25, 0.5, 0.75), method="inverted_cdf") for c in lr.T]
    return Curve(
        planner=planner,
        n=len(runs),
        diverged=sum(r.diverged for r in runs),
        steps=steps,
        lr=np.stack(rates, axis=1),
        loss=np.quantile(loss, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf"),
        ends=np.array(ends).reshape(-1, 2),
        score=float(np.mean(np.nan_to_num(scores, nan=np.inf, posinf=np.inf))),
    )


def curves_by_planner(records: Sequence[RunRecord]) -> list[Curve]:
    """The curves of the planners of some final runs, the lowest mean test loss first.

    Raises:
        UserError: when there are no records or a record has no curves.
    """
    if not records:
        raise UserError("there are no records to draw; run the comparison first")
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        if not {"step", "lr", "val_loss"} <= record.curves.keys() or not len(record.curves["step"]):
            raise UserError(
                f"the run of planner {record.planner!r} on seed {record.seed} has no curves to draw; "
                "read the records with their curves"
            )
        runs.setdefault(record.planner, []).append(record)
    curves = [curve_of(planner, of) for planner, of in runs.items()]
    return sorted(curves, key=lambda c: (c.score, c.loss[1, -1], c.planner))


def rate_limits(curves: Sequence[Curve], scale: Scale = "log") -> tuple[float, float]:
    """Limits of an axis of rates: those of the medians; of a log axis, three decades at most."""
    rates = np.concatenate([c.lr[1] for c in curves])
    positive = rates[rates > 0]
    if not len(positive):
        return (0.1, 1.0) if scale == "log" else (0.0, 1.0)
    top = float(positive.max())
    if scale == "linear":
        return -0.03 * top, 1.05 * top
    return max(float(positive.min()), top * 1e-3) / 1.2, top * 1.2


def loss_limits(curves: Sequence[Curve], start: float, scale: Scale = "log") -> tuple[float, float]:
    """Limits of an axis of losses from a step on, without the planners far above the median one."""
    place, value = (np.log, np.exp) if scale == "log" else (np.asarray, np.asarray)
    seen = [c.loss[1, c.steps >= start] for c in curves]
    seen = [x[np.isfinite(x) & (x > 0)] for x in seen]
    lows, highs = [place([f(x) for x in seen if len(x)]) for f in (np.min, np.max)]
    if not len(lows):
        return 0.1, 1.0
    reach = np.median(highs) + OFF_SCALE * max(np.median(highs) - lows.min(), 0.01)
    bands = np.concatenate([c.loss[0, c.steps >= start] for c in curves[:HIGHLIGHTED]])
    low = min(lows.min(), *place(bands[np.isfinite(bands) & (bands > 0)]))
    high = highs[highs <= reach].max()
    margin = max(0.04 * (high - low), 0.002)
    return float(value(low - margin)), float(value(high + margin))


def interval_limits(estimates: Sequence[Estimate], always: Sequence[float] = ()) -> tuple[float, float]:
    """Limits that hold the intervals, except those far beyond the median one, and the numbers in `always`."""
    ends = np.array([(e.value, *(x if np.isfinite(x) else e.value for x in (e.low, e.high))) for e in estimates])
    ends = ends.reshape(-1, 3)
    ends = ends[np.isfinite(ends).all(axis=1)]
    shown = np.array(always, dtype=np.float64)
    if len(ends):
        middle = np.median(ends[:, 0])
        spread = max(np.median(np.abs(ends[:, 0] - middle)), np.median(np.ptp(ends, axis=1)))
        near = np.abs(ends - middle).max(axis=1) <= 2 * OFF_SCALE * spread
        shown = np.append(shown, ends[near] if near.any() else ends)
    low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return float(low - margin), float(high + margin)

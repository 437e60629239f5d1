"""Parts of figures: curves of runs, and rows of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.records.record import RunRecord
from lr_env.report.plotting import (
    HIGHLIGHTED,
    PAGE,
    TEXT,
    Axes,
    FuncFormatter,
    MaxNLocator,
    Scale,
    Sizes,
    blended_transform_factory,
    log_scale,
    plain,
    step_ticks,
)
from lr_env.stats.intervals import Estimate

VERDICT_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "tie": "#757575"}
BAND: dict[str, Any] = {"alpha": 0.11, "linewidth": 0, "zorder": 10}

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


def rows_axes(axes: Axes, names: Sequence[str], sizes: Sizes = PAGE) -> None:
    """Turn axes into one named row a planner, the first at the top."""
    plain(axes, sizes)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(min(5, sizes.ticks)))  # numbers of six characters, side by side
    for y in range(0, len(names), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axes.set_yticks(range(len(names)), names, fontsize=sizes.row, color=TEXT)


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


def step_axes(
    axes: Axes,
    across: tuple[float, float],
    limits: tuple[float, float],
    scale: Scale = "log",
    sizes: Sizes = PAGE,
    most: int = 6,
) -> None:
    """Set up axes over optimizer steps.

    Args:
        axes: the axes.
        across: limits of the steps.
        limits: limits of the other axis.
        scale: of the other axis.
        sizes: of the texts.
        most: ticks of the steps.
    """
    plain(axes, sizes)
    if scale == "log":
        log_scale(axes, "y", sizes.ticks)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(sizes.ticks, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(*limits)
    axes.set_xlim(*across)
    axes.set_xlabel("optimizer step", fontsize=sizes.label, color=TEXT)
    step_ticks(axes, most)


def draw_rate(axes: Axes, curve: Curve, style: Mapping[str, Any], *, band: bool) -> None:
    """Draw the median of the rates, and with `band` their quartiles."""
    low, middle, high = (floored(rates, axes) for rates in curve.lr)
    axes.plot(curve.steps, middle, drawstyle="steps-pre", **style)
    if band:
        axes.fill_between(curve.steps, low, high, step="pre", color=style["color"], **BAND)


def draw_loss(axes: Axes, curve: Curve, style: Mapping[str, Any], *, band: bool, sizes: Sizes = PAGE) -> None:
    """Draw the median of the losses, with `band` their quartiles, and crosses where runs diverged."""
    top = axes.get_ylim()[1]
    low, middle, high = np.where(np.isfinite(curve.loss), curve.loss, np.nan)
    axes.plot(curve.steps, middle, **style)
    if band:
        high = np.where(np.isfinite(high), high, top)
        axes.fill_between(curve.steps, low, high, where=np.isfinite(middle), color=style["color"], **BAND)
    start = axes.get_xlim()[0]
    ends = curve.ends[curve.ends[:, 0] >= start]
    if len(ends):
        heights = np.minimum(np.nan_to_num(ends[:, 1], posinf=top), top)
        axes.plot(ends[:, 0], heights, "x", color=style["color"], markersize=sizes.cross, clip_on=False, zorder=40)


def floored(rates: NDArray[np.float64], axes: Axes) -> NDArray[np.float64]:
    """Rates, with those too small for the axis, such as 0, moved to its lower border."""
    return np.maximum(rates, axes.get_ylim()[0])


def span(axes: Axes, estimates: Sequence[Estimate], always: Sequence[float] = ()) -> None:
    """Set limits that hold the intervals, except those far beyond the median one, and the numbers in `always`."""
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
    axes.set_xlim(low - margin, high + margin)


def interval_bar(axes: Axes, y: int, estimate: Estimate, colour: str, marker: str, sizes: Sizes = PAGE) -> None:
    """Draw an interval and its mean, or an arrow at the border that it lies beyond."""
    value, low, high = estimate.value, estimate.low, estimate.high
    left, right = axes.get_xlim()
    if np.isnan(value):
        return
    bar = np.clip([low, high], left, right)
    if np.all(np.isfinite(bar)) and bar[1] > bar[0]:
        axes.plot(bar, [y, y], color=colour, linewidth=sizes.line, solid_capstyle="butt", zorder=2)
    if value > right or value < left:
        at, arrow = (right, ">") if value > right else (left, "<")
        for shift in (0, 1):
            size = sizes.cross * (1 + 4 / 7 * shift)
            axes.plot([at], [y], arrow, color=colour, markersize=size, fillstyle="none", clip_on=False)
    else:
        face = "white" if colour == VERDICT_COLOURS["tie"] else colour
        axes.plot([value], [y], marker, color=colour, markerfacecolor=face, markersize=sizes.marker, zorder=3)


def beside(axes: Axes, y: int, text: str, colour: str, sizes: Sizes = PAGE) -> None:
    """Write text at the right border of a row."""
    place = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(1.045, y, text, transform=place, va="center", fontsize=sizes.number, color=colour)

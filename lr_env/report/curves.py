"""Parts of figures: curves of runs, and rows of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.report.curve_data import Curve, Scale, interval_limits
from lr_env.report.plotting import (
    PAGE,
    TEXT,
    Axes,
    FuncFormatter,
    MaxNLocator,
    Sizes,
    blended_transform_factory,
    log_scale,
    plain,
    step_ticks,
)
from lr_env.stats.intervals import Estimate

VERDICT_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "tie": "#757575"}
BAND: dict[str, Any] = {"alpha": 0.11, "linewidth": 0, "zorder": 10}


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
    axes.set_xlim(*interval_limits(estimates, always))


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

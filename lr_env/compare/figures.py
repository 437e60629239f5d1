"""Two figures of a comparison: the curves of the runs, and the scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.compare.statistics import Estimate
from lr_env.compare.table import Row, Summary
from lr_env.compare.text import decimals_of, estimate_text, seeds_text
from lr_env.drawing import (
    COLOURS,
    HIGHLIGHTED,
    TEXT,
    Axes,
    FuncFormatter,
    MaxNLocator,
    blended_transform_factory,
    caption,
    line_style,
    log_scale,
    new_figure,
    own_style,
    plain,
    save,
)
from lr_env.errors import UserError
from lr_env.records.record import RunRecord

VERDICT_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "tie": "#757575"}
BAND: dict[str, Any] = {"alpha": 0.11, "linewidth": 0, "zorder": 10}
LATE = 0.25
"""The part of a run, from its end, that is drawn once more on a scale of its own."""

OFF_SCALE = 4.0
"""A curve or an interval this many times beyond the middle one leaves the picture."""


@dataclass(frozen=True)
class Curve:
    """The runs of one planner put together: medians and quartiles over its seeds.

    Attributes:
        planner: name.
        n: runs.
        diverged: how many of them diverged.
        steps: optimizer steps at the ends of segments, (segments,).
        lr: lower quartile, median and upper quartile of the rates of the runs that go on, (3, segments).
        loss: the same of the validation losses of all runs, infinite from where one diverged, (3, segments).
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
        """The name, and how many of its runs diverged."""
        return f"{self.planner} ({self.diverged}/{self.n} diverged)" if self.diverged else self.planner


@own_style()
def draw_curves(records: Sequence[RunRecord], path: str | PathLike[str], title: str) -> None:
    """Draw learning rates and validation losses of every planner against the optimizer step, as a PNG.

    Lines are medians and bands quartiles over seeds, not means: a run that diverged counts as infinitely bad
    from there on, which a median bears and a mean does not, and leaving it out would flatter its planner. A
    cross shows where a run diverged. The planners with the lowest mean test loss are in colour.

    Args:
        records: final runs with the curves `step`, `lr` and `val_loss`.
        path: the file to write.
        title: above the panels.

    Raises:
        UserError: when there are no records or a record has no curves.
    """
    curves = sorted(_curves(records), key=lambda c: (c.score, c.loss[1, -1], c.planner))
    figure = new_figure(14.0, 7.6, title)
    left, whole, late = figure.subplot_mosaic("ab;ac", height_ratios=(1, 1.25)).values()
    end = max(float(c.steps[-1]) for c in curves)
    for axes, start, limits in (
        (left, 0.0, rate_limits(curves)),
        (whole, 0.0, loss_limits(curves, 0.0)),
        (late, (1 - LATE) * end, loss_limits(curves, (1 - LATE) * end)),
    ):
        log_axes(axes, (start, end), limits)
    for rank in reversed(range(len(curves))):
        style, band = line_style(rank), rank < HIGHLIGHTED
        draw_rate(left, curves[rank], style, band=band)
        for axes in (whole, late):
            draw_loss(axes, curves[rank], style, band=band)
    _end_labels(left, [_floored(c.lr[1], left)[-1] for c in curves], [c.planner for c in curves], 0.034, 0.028)
    named = _end_labels(late, [c.loss[1, -1] for c in curves], [c.label for c in curves], 0.066, 0.058)
    left.set_ylabel("learning rate", fontsize=11, color=TEXT)
    for axes in (whole, late):
        axes.set_ylabel("validation loss [nats/example]", fontsize=11, color=TEXT)
    floor = "; a rate of 0 is on the lower border" if any(c.lr[1].min() <= 0 for c in curves) else ""
    crosses = "; cross: a run diverged" if any(c.diverged for c in curves) else ""
    caption(left, f"median of {seeds_text(curves[0].n)}; band: quartiles{floor}")
    caption(whole, f"whole run; median; band: quartiles{crosses}")
    some = "" if named == len(curves) else f"; the {named} lowest test losses are named"
    caption(late, f"the last {100 * LATE:.0f} % of the run{some}")
    save(figure, path)


@own_style()
def draw_scores(summary: Summary, path: str | PathLike[str], title: str) -> None:
    """Draw mean test losses and paired differences to the best baseline with their 95 % intervals, as a PNG.

    What lies far beyond the others is cut off at the border and marked there by an arrow; its number is
    printed.

    Args:
        summary: of a comparison.
        path: the file to write.
        title: above the panels.
    """
    rows = summary.rows
    figure = new_figure(13.0, 1.9 + 0.34 * len(rows), title)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    means = [r.test_loss for r in rows]
    gaps = [None if r.to_baseline is None else r.to_baseline.difference for r in rows]
    places = (decimals_of(means), decimals_of(gaps))
    span(left, means)
    span(right, [e for e in gaps if e is not None], always=(0.0,))
    right.axvline(0, color=TEXT, linewidth=1.1, zorder=1)
    for y, row in enumerate(rows):
        versus = row.to_baseline
        tone = TEXT if versus is None else VERDICT_COLOURS[versus.verdict]
        marker = "D" if versus is None else "o"
        e = row.test_loss
        interval_bar(left, y, e, tone, marker)
        beside(left, y, estimate_text(e, places[0]), tone)
        if versus is None:
            right.plot([0], [y], "D", color=TEXT, markersize=6, zorder=3)
            beside(right, y, "(reference)", tone)
        else:
            e = versus.difference
            interval_bar(right, y, e, tone, marker)
            beside(right, y, f"{estimate_text(e, places[1], sign=True)}  {versus.verdict}", tone)
    rows_axes(left, [_name(r) for r in rows])
    rows_axes(right, [""] * len(rows))
    left.set_xlabel("mean test loss [nats/example]", fontsize=11, color=TEXT)
    right.set_xlabel(f"difference in test loss to {summary.baseline} [nats/example]", fontsize=11, color=TEXT)
    n = seeds_text(len(summary.seeds))
    caption(left, f"mean over {n}, 95 % interval")
    caption(right, f"paired on {n}, 95 % interval; left of the line: lower loss than {summary.baseline}")
    save(figure, path)


def rows_axes(axes: Axes, names: Sequence[str]) -> None:
    """Axes with a named row for each planner, the first at the top."""
    plain(axes)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))  # numbers of six characters, side by side
    for y in range(0, len(names), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axes.set_yticks(range(len(names)), names, fontsize=10.5, color=TEXT)


def _curves(records: Sequence[RunRecord]) -> list[Curve]:
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
    return [curve_of(planner, of) for planner, of in runs.items()]


def curve_of(planner: str, runs: Sequence[RunRecord]) -> Curve:
    """Put the runs of a planner together; they have the curves `step`, `lr` and `val_loss`."""
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
    # The rate of a run that ended is left out, its loss is not. Not interpolated, so that infinity is borne.
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


def rate_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Three decades of rates at most."""
    rates = np.concatenate([c.lr[1] for c in curves])
    positive = rates[rates > 0]
    if not len(positive):
        return 0.1, 1.0
    top = float(positive.max())
    return max(float(positive.min()), top * 1e-3) / 1.2, top * 1.2


def loss_limits(curves: Sequence[Curve], start: float) -> tuple[float, float]:
    """Limits of the losses from a step on, without the planners far above the middle one."""
    seen = [c.loss[1, c.steps >= start] for c in curves]
    seen = [x[np.isfinite(x) & (x > 0)] for x in seen]
    lows, highs = [np.log([f(x) for x in seen if len(x)]) for f in (np.min, np.max)]
    if not len(lows):
        return 0.1, 1.0
    reach = np.median(highs) + OFF_SCALE * max(np.median(highs) - lows.min(), 0.01)
    bands = np.concatenate([c.loss[0, c.steps >= start] for c in curves[:HIGHLIGHTED]])
    low = min(lows.min(), *np.log(bands[np.isfinite(bands) & (bands > 0)]))
    high = highs[highs <= reach].max()
    margin = max(0.04 * (high - low), 0.002)
    return float(np.exp(low - margin)), float(np.exp(high + margin))


def log_axes(axes: Axes, across: tuple[float, float], limits: tuple[float, float]) -> None:
    """Axes over optimizer steps, from and to which they go `across`, with `limits` of what is on a log scale."""
    plain(axes)
    log_scale(axes, "y")
    axes.set_ylim(*limits)
    axes.set_xlim(*across)
    axes.set_xlabel("optimizer step", fontsize=11, color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.3g}"))


def draw_rate(axes: Axes, curve: Curve, style: Mapping[str, Any], *, band: bool) -> None:
    """Draw the median of the rates, and their quartiles if there is to be a `band`."""
    low, middle, high = (_floored(rates, axes) for rates in curve.lr)
    axes.plot(curve.steps, middle, drawstyle="steps-pre", **style)
    if band:
        axes.fill_between(curve.steps, low, high, step="pre", color=style["color"], **BAND)


def draw_loss(axes: Axes, curve: Curve, style: Mapping[str, Any], *, band: bool) -> None:
    """Draw the median of the losses, their quartiles if there is to be a `band`, and crosses where runs diverged."""
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
        axes.plot(ends[:, 0], heights, "x", color=style["color"], markersize=7, clip_on=False, zorder=40)


def _floored(rates: NDArray[np.float64], axes: Axes) -> NDArray[np.float64]:
    """Rates with those too small for the axis, such as 0, put on its lower border."""
    return np.maximum(rates, axes.get_ylim()[0])


def _end_labels(axes: Axes, ends: Sequence[float], labels: Sequence[str], height: float, least: float) -> int:
    """Name the lines at their right ends, names pushed apart, with a sample of the line as a leader.

    Args:
        axes: with a log scale.
        ends: (planners,) where the lines end; infinite for one that ended early.
        labels: (planners,) names, best first.
        height: of a line of text, as a fraction of the axes.
        least: of a line of text where there are many, before lines remain without a name, the last ones first.

    Returns:
        How many are named.
    """
    ends, labels = ends[: int(1 / least) + 1], labels[: int(1 / least) + 1]
    low, high = np.log(axes.get_ylim())
    at = np.array([np.log(v) if v > 0 else low for v in ends])
    heights = np.clip((at - low) / (high - low), 0, 1)
    order = np.argsort(heights, kind="stable")
    apart = min(height, 1.0 / max(len(ends) - 1, 1))
    placed = np.empty(len(ends))
    placed[order] = _pushed_apart(heights[order], apart)
    for rank, label in enumerate(labels):
        bright = rank < HIGHLIGHTED
        style = line_style(rank) | {"clip_on": False, "transform": axes.transAxes}
        if np.isfinite(ends[rank]):
            leader = style | {"linewidth": 0.6, "linestyle": "-"}
            axes.plot([1.0, 1.03], [heights[rank], placed[rank]], **leader)
        axes.plot([1.03, 1.085], [placed[rank]] * 2, **style)
        axes.text(
            1.095,
            placed[rank],
            label,
            transform=axes.transAxes,
            va="center",
            fontsize=9.5,
            color=COLOURS[rank] if bright else "#555555",
            fontweight="bold" if bright else "normal",
        )
    return len(labels)


def _pushed_apart(heights: NDArray[np.float64], apart: float) -> NDArray[np.float64]:
    """Ascending heights in [0, 1] moved as little as is needed to lie `apart` from each other."""
    offset = apart * np.arange(len(heights), dtype=np.float64)
    blocks: list[list[float]] = []  # pool adjacent violators: mean, size
    for value in heights - offset:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (m1, n1), (m2, n2) = blocks[-2:]
            blocks[-2:] = [[(m1 * n1 + m2 * n2) / (n1 + n2), n1 + n2]]
    base = np.concatenate([np.full(int(n), m) for m, n in blocks])
    return np.clip(base, 0, max(0.0, 1 - offset[-1])) + offset


def span(axes: Axes, estimates: Sequence[Estimate], always: Sequence[float] = ()) -> None:
    """Limits that hold the intervals, except those far beyond the middle one, and the numbers in `always`."""
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


def interval_bar(axes: Axes, y: int, estimate: Estimate, colour: str, marker: str) -> None:
    """One interval bar and its mean, or an arrow at the border it lies beyond."""
    value, low, high = estimate.value, estimate.low, estimate.high
    left, right = axes.get_xlim()
    if np.isnan(value):
        return
    bar = np.clip([low, high], left, right)
    if np.all(np.isfinite(bar)) and bar[1] > bar[0]:
        axes.plot(bar, [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=2)
    if value > right or value < left:
        at, arrow = (right, ">") if value > right else (left, "<")
        for shift in (0, 1):
            axes.plot([at], [y], arrow, color=colour, markersize=7 + 4 * shift, fillstyle="none", clip_on=False)
    else:
        face = "white" if colour == VERDICT_COLOURS["tie"] else colour
        axes.plot([value], [y], marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)


def beside(axes: Axes, y: int, text: str, colour: str) -> None:
    """Text at the right border of a row."""
    place = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(1.045, y, text, transform=place, va="center", fontsize=9.5, color=colour)


def _name(row: Row) -> str:
    return f"{row.planner} ({row.diverged}/{row.n} diverged)" if row.diverged else row.planner

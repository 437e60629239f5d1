"""The two figures of a comparison: the curves of the runs, and the scores with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from lr_env.objectives import VAL_LOSS, Objective
from lr_env.records.record import RunRecord
from lr_env.report.curve_data import curves_by_planner, diverged_label, loss_limits, rate_limits
from lr_env.report.curves import (
    VERDICT_COLOURS,
    beside,
    draw_loss,
    draw_rate,
    floored,
    interval_bar,
    rows_axes,
    span,
    step_axes,
)
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.plotting import (
    COLOURS,
    HIGHLIGHTED,
    PAGE,
    TEXT,
    Axes,
    Sizes,
    caption,
    line_style,
    new_figure,
    own_style,
    save,
)
from lr_env.studies.comparison.summary import Row, Summary

LATE = 0.25
"""The part of a run, from its end, that is drawn once more on a scale of its own."""


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
    curves = curves_by_planner(records)
    figure = new_figure(14.0, 7.6, title)
    left, whole, late = figure.subplot_mosaic("ab;ac", height_ratios=(1, 1.25)).values()
    end = max(float(c.steps[-1]) for c in curves)
    for axes, start, limits in (
        (left, 0.0, rate_limits(curves)),
        (whole, 0.0, loss_limits(curves, 0.0)),
        (late, (1 - LATE) * end, loss_limits(curves, (1 - LATE) * end)),
    ):
        step_axes(axes, (start, end), limits)
    for rank in reversed(range(len(curves))):
        style, band = line_style(rank), rank < HIGHLIGHTED
        draw_rate(left, curves[rank], style, band=band)
        for axes in (whole, late):
            draw_loss(axes, curves[rank], style, band=band)
    _end_labels(left, [floored(c.lr[1], left)[-1] for c in curves], [c.planner for c in curves], 0.034, 0.028)
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
    draw_means(left, rows, objective=summary.objective)
    draw_differences(right, rows, summary.baseline, objective=summary.objective)
    rows_axes(right, [""] * len(rows))
    n = seeds_text(len(summary.seeds))
    caption(left, f"mean over {n}, 95 % interval")
    caption(right, f"paired on {n}, 95 % interval; left of the line: lower loss than {summary.baseline}")
    save(figure, path)


def draw_means(
    axes: Axes, rows: Sequence[Row], sizes: Sizes = PAGE, *, numbers: bool = True, objective: Objective = VAL_LOSS
) -> None:
    """Draw mean test losses with their intervals, one row a planner, with `numbers` beside them.

    What else planners are judged by takes their place.
    The colour says how a planner compares to the best baseline, whose marker is a diamond.
    """
    means = [row.judged for row in rows]
    decimals = decimals_of(means)
    span(axes, means)
    for y, row in enumerate(rows):
        tone, marker = _look(row)
        interval_bar(axes, y, row.judged, tone, marker, sizes)
        if numbers:
            beside(axes, y, estimate_text(row.judged, decimals), tone, sizes)
    rows_axes(axes, [diverged_label(row.planner, row.diverged, row.n) for row in rows], sizes)
    axes.set_xlabel(f"mean {objective.reported_as} [{objective.unit}]", fontsize=sizes.label, color=TEXT)


def draw_differences(
    axes: Axes,
    rows: Sequence[Row],
    baseline: str,
    sizes: Sizes = PAGE,
    *,
    numbers: bool = True,
    objective: Objective = VAL_LOSS,
) -> None:
    """Draw paired differences in test loss to the best baseline, one row a planner, with `numbers` beside them."""
    gaps = [None if row.to_baseline is None else row.to_baseline.difference for row in rows]
    decimals = decimals_of(gaps)
    span(axes, [gap for gap in gaps if gap is not None], always=(0.0,))
    axes.axvline(0, color=TEXT, linewidth=sizes.line / 2, zorder=1)
    for y, (row, gap) in enumerate(zip(rows, gaps, strict=True)):
        tone, marker = _look(row)
        if row.to_baseline is None or gap is None:
            axes.plot([0], [y], marker, color=tone, markersize=sizes.marker, zorder=3)
            text = "(reference)"
        else:
            interval_bar(axes, y, gap, tone, marker, sizes)
            text = f"{estimate_text(gap, decimals, sign=True)}  {row.to_baseline.short}"
        if numbers:
            beside(axes, y, text, tone, sizes)
    rows_axes(axes, [diverged_label(row.planner, row.diverged, row.n) for row in rows], sizes)
    label = f"difference in {objective.reported_as} to {baseline} [{objective.unit}]"
    axes.set_xlabel(label, fontsize=sizes.label, color=TEXT)


def _look(row: Row) -> tuple[str, str]:
    """Colour and marker of a planner."""
    versus = row.to_baseline
    return (TEXT, "D") if versus is None else (VERDICT_COLOURS[versus.tone], "o")


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

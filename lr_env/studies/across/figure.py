"""The figure of standings over several comparisons: mean ranks, and performance profiles of steps to target."""

from __future__ import annotations

from os import PathLike

import numpy as np

from lr_env.report.curves import beside, interval_bar, rows_axes, span
from lr_env.report.formatting import interval_text, number_text
from lr_env.report.plotting import (
    HIGHLIGHTED,
    MUTED,
    TEXT,
    Axes,
    caption,
    line_style,
    new_figure,
    own_style,
    plain,
    save,
)
from lr_env.stats.ranks import LARGEST_RATIO, profile
from lr_env.studies.across.standings import RANK_DECIMALS, Standings


@own_style()
def draw_standings(standings: Standings, path: str | PathLike[str], title: str) -> None:
    """Draw mean ranks with their 95 % intervals beside performance profiles, as a PNG.

    The planners with the lowest mean ranks have the same colour in both panels; the legend of the profiles is in the
    order of their scores.

    Args:
        standings: of several comparisons.
        path: the file to write.
        title: above the panels.
    """
    figure = new_figure(14.5, max(4.6, 1.9 + 0.34 * len(standings.rows)), title)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.1))
    _draw_ranks(left, standings)
    _draw_profiles(right, standings)
    save(figure, path)


def _draw_ranks(axes: Axes, standings: Standings) -> None:
    rows = standings.rows
    span(axes, [row.mean_rank for row in rows])
    for y, row in enumerate(rows):
        colour = line_style(y)["color"] if y < HIGHLIGHTED else MUTED[-1]
        estimate = row.mean_rank
        interval_bar(axes, y, estimate, colour, "o")
        text = f"{number_text(estimate.value, RANK_DECIMALS)} {interval_text(estimate, RANK_DECIMALS)}"
        beside(axes, y, text if row.to_first is None else f"{text}  {row.to_first.short}", colour)
    rows_axes(axes, [row.planner for row in rows])
    axes.set_xlabel("mean rank by test loss", fontsize=11, color=TEXT)
    caption(axes, f"mean over {len(standings.tasks)} tasks, 95 % interval over seeds; 1 is best")


def _draw_profiles(axes: Axes, standings: Standings) -> None:
    rows = standings.rows
    steps = np.unique(np.concatenate([of.ravel() for of in standings.ratios]))
    taus = np.concatenate([[1.0], steps[(steps > 1) & (steps < LARGEST_RATIO)], [LARGEST_RATIO]])
    shares = profile(standings.ratios, taus)
    plain(axes)
    order = sorted(range(len(rows)), key=lambda rank: (-rows[rank].score.value, rank))
    for rank in order:
        label = f"{number_text(rows[rank].score.value, 2)}  {rows[rank].planner}"
        axes.plot(taus, shares[rank], drawstyle="steps-post", label=label, **line_style(rank))
    axes.set_xlim(1, LARGEST_RATIO)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("child steps to target, over those of the fastest planner", fontsize=11, color=TEXT)
    axes.set_ylabel("share of runs, tasks weighing alike", fontsize=11, color=TEXT)
    caption(axes, "performance profile; in the legend, its mean")
    legend = axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.01, 1.01), borderaxespad=0)
    for rank, text in zip(order, legend.get_texts(), strict=True):
        if rank < HIGHLIGHTED:
            text.set(color=line_style(rank)["color"], fontweight="bold")

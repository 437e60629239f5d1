"""The figures of a comparison for papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lr_env.errors import UserError, refuse_duplicates, unknown
from lr_env.records.record import RunRecord
from lr_env.report.curve_data import Curve, Scale, curve_of, loss_limits, rate_limits
from lr_env.report.curves import draw_loss, draw_rate, step_axes
from lr_env.report.formatting import seeds_text
from lr_env.report.paper import LINE, PAPER, Page, inches, legend_below, most_ticks, panel_height
from lr_env.report.plotting import TEXT, Axes, Figure, MaxNLocator, distinct_style
from lr_env.stats.paired_runs import run_scores
from lr_env.studies.comparison.figures import draw_differences, draw_means
from lr_env.studies.comparison.summary import Summary, summarise

CURVES = ("step", "lr", "val_loss")
"""The curves that are drawn."""

SCALES: Mapping[str, Scale] = {"log": "log", "linear": "linear"}

AT_ONCE = 7
"""Curves that can be told apart in a column, each in a colour of its own."""

MOST = 28
"""Curves that differ in colour or dashes."""

_TWO_PANELS = 5.0
"""Width in inches from which on two panels are beside each other."""

_ROW = 0.16
"""Height in inches of the row of a planner."""


@dataclass(frozen=True)
class PaperFigure:
    """How a comparison is drawn for a paper.

    Attributes:
        page: size and title.
        lr_scale, loss_scale: "log" or "linear".
    """

    page: Page
    lr_scale: Scale = "log"
    loss_scale: Scale = "log"

    def draw(self, kind: str, runs: Mapping[str, Sequence[RunRecord]]) -> tuple[Figure, str]:
        """Draw a figure.

        Args:
            kind: one of `KINDS`.
            runs: planner -> its final runs, in the order of the figure; see `chosen`.

        Returns:
            The figure, and what its caption should say.

        Raises:
            UserError: there is no room for it.
        """
        return KINDS[kind].draw(self, runs)

    def _curves(self, runs: Mapping[str, Sequence[RunRecord]], signals: Sequence[str]) -> tuple[Figure, str]:
        """Draw medians and quartiles over seeds, in one panel for each signal."""
        curves = [curve_of(planner, of) for planner, of in runs.items()]
        figure, page = self.page.figure(), self.page
        across = len(signals) if page.width >= _TWO_PANELS else 1
        down = len(signals) // across
        panels = figure.subplots(down, across, sharex=down > 1, squeeze=False).ravel()
        lines = []
        for axes, signal in zip(panels, signals, strict=True):
            lines = self._panel(axes, signal, curves, page.width / across)
        if down > 1:
            panels[0].set_xlabel("")
        if len(curves) > 1:
            legend_below(figure, lines, page.width)
        page.fit(figure, panel_height(page.width / across))
        n = len(next(iter(runs.values())))
        crosses = "; a cross marks where a run diverged" if any(curve.diverged for curve in curves) else ""
        bands = "; bands: quartiles" if len(curves) <= AT_ONCE and n > 1 else ""
        return figure, f"Median over {seeds_text(n)}{bands}{crosses}."

    def _panel(self, axes: Axes, signal: str, curves: Sequence[Curve], width: float) -> list[object]:
        """Draw one signal, and return its lines, which are named."""
        across = (0.0, max(float(curve.steps[-1]) for curve in curves))
        is_rate = signal == "lr"
        scale = self.lr_scale if is_rate else self.loss_scale
        limits = rate_limits(curves, scale) if is_rate else loss_limits(curves, 0.0, scale)
        step_axes(axes, across, limits, scale, PAPER, most_ticks(width - 0.6))
        label = "learning rate" if is_rate else "validation loss [nats/example]"
        axes.set_ylabel(label, fontsize=PAPER.label, color=TEXT)
        lines: list[object] = []
        for number, curve in enumerate(curves):
            before = len(axes.lines)
            style = distinct_style(number) | {"linewidth": LINE, "label": curve.label, "zorder": 30 - number}
            style["gid"] = f"{signal} {curve.planner}"  # by which it is found in an SVG
            band = len(curves) <= AT_ONCE and curve.n > 1
            if is_rate:
                draw_rate(axes, curve, style, band=band)
            else:
                draw_loss(axes, curve, style, band=band, sizes=PAPER)
            lines.append(axes.lines[before])
        return lines

    def _scores(self, runs: Mapping[str, Sequence[RunRecord]]) -> tuple[Figure, str]:
        """Draw mean test losses with their intervals."""
        summary = _summary(runs)
        figure = self._rows(summary, lambda axes, numbers: draw_means(axes, summary.rows, PAPER, numbers=numbers))
        return figure, f"Mean test loss over {seeds_text(len(summary.seeds))}, 95 % intervals. {_colours(summary)}"

    def _differences(self, runs: Mapping[str, Sequence[RunRecord]]) -> tuple[Figure, str]:
        """Draw paired differences in test loss to the best baseline, with their intervals."""
        summary = _summary(runs)
        if len(summary.rows) == 1:
            raise UserError("differences of one planner: name at least two with --planners")
        figure = self._rows(
            summary,
            lambda axes, numbers: draw_differences(axes, summary.rows, summary.baseline, PAPER, numbers=numbers),
        )
        n = seeds_text(len(summary.seeds))
        return figure, f"Differences in test loss, paired on {n}, 95 % intervals. {_colours(summary)}"

    def _rows(self, summary: Summary, draw: Callable[[Axes, bool], None]) -> Figure:
        """Draw one row a planner, with numbers beside them where there is room."""
        height = _ROW * (len(summary.rows) + 0.2)
        for numbers in (True, False):
            figure = self.page.figure()
            axes = figure.subplots()
            draw(axes, numbers)
            try:
                self.page.fit(figure, height)
            except UserError:
                if not numbers:
                    raise
            else:
                break
        axes.xaxis.set_major_locator(MaxNLocator(most_ticks(inches(figure, axes.patch).width)))
        self.page.fit(figure, height)
        return figure


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        draw: the function that draws it.
        curves: the curves that it needs.
    """

    draw: Callable[[PaperFigure, Mapping[str, Sequence[RunRecord]]], tuple[Figure, str]]
    curves: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "curves": Kind(lambda figure, runs: figure._curves(runs, ("lr", "val_loss")), CURVES),
    "rates": Kind(lambda figure, runs: figure._curves(runs, ("lr",)), CURVES),
    "losses": Kind(lambda figure, runs: figure._curves(runs, ("val_loss",)), CURVES),
    "scores": Kind(PaperFigure._scores),
    "differences": Kind(PaperFigure._differences),
}


def chosen(
    runs: Mapping[str, Sequence[RunRecord]], planners: Sequence[str], kind: str
) -> dict[str, Sequence[RunRecord]]:
    """The runs that are drawn: those of some planners in that order; of all, best first, if none is named.

    Of more than can be told apart as curves, the best are taken.

    Raises:
        UserError: the comparison has no such planner, it is named twice, or they are too many.
    """
    for name in planners:
        if name not in runs:
            raise unknown("planner", name, runs)
    refuse_duplicates("planner", planners)
    if not planners:
        planners = sorted(runs, key=lambda name: (float(np.mean(run_scores(runs[name], "test_loss"))), name))
        planners = planners[:AT_ONCE] if KINDS[kind].curves else planners
    if KINDS[kind].curves and len(planners) > MOST:
        raise UserError(f"{len(planners)} planners: at most {MOST} curves can be told apart, name fewer")
    return {name: runs[name] for name in planners}


def _summary(runs: Mapping[str, Sequence[RunRecord]]) -> Summary:
    """The summary of some planners, with rows in their order."""
    records = [record for of in runs.values() for record in of]
    summary = summarise(records, target_val_loss=None, tuning_steps=dict.fromkeys(runs, 0))
    by_name = {row.planner: row for row in summary.rows}
    return replace(summary, rows=tuple(by_name[name] for name in runs))


def _colours(summary: Summary) -> str:
    """What the colours of rows mean."""
    return (
        f"Diamond: {summary.baseline}, which has the lowest validation loss; blue: better than it, orange: worse, "
        "grey: not told apart from it."
    )

"""Sizes, colours and lines of all figures, and the parts of matplotlib that they use (imported `as` themselves)."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np

from lr_env.report.curve_data import HIGHLIGHTED as HIGHLIGHTED
from lr_env.report.style import own_style as own_style

# isort: split
from matplotlib import colormaps as colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import blended_transform_factory as blended_transform_factory

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Colours of Okabe and Ito, which colour-blind readers can tell apart."""

MORE_COLOURS = (*COLOURS, "#56B4E9", "#000000")
"""All colours of Okabe and Ito that show on white."""

MUTED = ("#8a8a8a", "#a3a3a3", "#767676")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1.2)))
TEXT = "#262626"


@dataclass(frozen=True)
class Sizes:
    """Sizes of what a figure consists of, in points; pads in inches.

    Attributes:
        title: text of the title.
        label: text beside axes.
        tick: numbers at ticks.
        row: names of rows.
        number: numbers beside rows.
        line: width of the line of an interval.
        marker: a marker in a row.
        cross: a marker where a run diverged.
        pads: space around panels, across and down.
        ticks: most ticks of an axis.
    """

    title: float = 13.0
    label: float = 11.0
    tick: float = 9.5
    row: float = 10.5
    number: float = 9.5
    line: float = 2.2
    marker: float = 6.0
    cross: float = 7.0
    pads: tuple[float, float] = (0.12, 0.1)
    ticks: int = 12


PAGE = Sizes()
"""Sizes of the figures of reports, which are as wide as a page on a screen."""


def new_figure(width: float, height: float, title: str, sizes: Sizes = PAGE) -> Figure:
    """An empty figure with a title, unless that is empty."""
    layout = ConstrainedLayoutEngine(wspace=0.03, w_pad=sizes.pads[0], h_pad=sizes.pads[1])
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=sizes.title, color=TEXT, x=0.01, ha="left", fontweight="bold", parse_math=False)
    return figure


def plain(axes: Axes, sizes: Sizes = PAGE) -> None:
    """Reduce axes to a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.tick_params(labelsize=sizes.tick, color="#888888", labelcolor=TEXT)
    axes.grid(visible=True, color="#e9e9e9", linewidth=0.7)
    axes.set_axisbelow(True)


class _LogTicks(LogLocator):
    """Ticks of a logarithmic axis, as many as there is room for, at most."""

    def __init__(self, most: int) -> None:
        super().__init__(numticks=most)
        self._most = most

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Positions of the ticks, for the limits that the axis has when it is drawn."""
        span = abs(np.log10(vmax / vmin)) if min(vmin, vmax) > 0 else 0.0
        if span < 0.8:  # no room for powers of ten: a plain scale's ticks are the readable ones
            return MaxNLocator(min(7, self._most), steps=[1, 2, 5, 10]).tick_values(vmin, vmax)
        self.set_params(subs=(1, 2, 5) if span <= max(self._most / 4, 2) else (1,))
        return super().tick_values(vmin, vmax)


def log_scale(axes: Axes, which: Literal["x", "y"], most: int = PAGE.ticks) -> None:
    """Make an axis logarithmic, with plain numbers at so many ticks at most."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(_LogTicks(most))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def step_ticks(axes: Axes, most: int = 6) -> None:
    """Set ticks of an axis of optimizer steps, with plain numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.3g}"))


def caption(axes: Axes, text: str) -> None:
    """Write a small caption above axes."""
    axes.set_title(text, fontsize=9.5, color="#555555", loc="left", parse_math=False)


def save(figure: Figure, path: str | PathLike[str], kind: str = "png", dpi: int = DPI) -> None:
    """Write a figure as PNG, PDF or SVG, without the date: the same figure gives the same bytes."""
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=dpi, format=kind, facecolor="white", metadata=dates.get(kind))


def line_style(rank: int) -> dict[str, Any]:
    """Colour and dashes of the planner at a rank; the best are drawn last and thickest."""
    dashes = DASHES[rank % len(DASHES)]
    if rank < HIGHLIGHTED:
        return {"color": COLOURS[rank], "linestyle": dashes, "linewidth": 2.0, "zorder": 30 - rank}
    muted = rank - HIGHLIGHTED
    return {
        "color": MUTED[muted // len(DASHES) % len(MUTED)],
        "linestyle": dashes,
        "linewidth": 1.0,
        "zorder": 20 - muted,
    }


def distinct_style(number: int) -> dict[str, Any]:
    """Colour and dashes of one of several lines of equal rank; the first 28 all differ."""
    dashes = DASHES[:4]  # the last looks too much like the second for two lines of one colour
    return {
        "color": MORE_COLOURS[number % len(MORE_COLOURS)],
        "linestyle": dashes[number % len(dashes)],
        "linewidth": 1.8,
    }

"""Figures for papers: as wide as a column, text that stays text, and nothing cut off."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.report.plotting import TEXT, Axes, Figure, Sizes, new_figure, own_style

FORMATS = ("pdf", "svg", "png")
NARROWEST, WIDEST = 2.0, 20.0
"""Limits of the width, inches."""

DPI = 300
"""Of a PNG."""

PAPER = Sizes(
    title=9.0,
    label=8.0,
    tick=7.0,
    row=7.5,
    number=7.0,
    line=1.4,
    marker=3.5,
    cross=4.0,
    pads=(0.03, 0.03),
    ticks=5,
)
"""Sizes in a column of a paper."""

LEGEND = 7.5
"""Size of the names in a legend, points."""

LINE = 1.2
"""Width of a curve, points."""

_POINTS = 72.0
_SMALLEST = 0.3
"""Smallest side of a panel, inches."""

_SLACK = 0.01  # inches by which something may stick out: half of a thin line


@dataclass(frozen=True)
class Page:
    """The size of a figure and what is written above it.

    Attributes:
        width: inches.
        height: inches; None for what the content needs.
        title: above the panels; may be empty.

    Raises:
        UserError: the size makes no sense.
    """

    width: float = 3.25
    height: float | None = None
    title: str = ""

    def __post_init__(self) -> None:
        if not NARROWEST <= self.width <= WIDEST:
            raise UserError(f"width {self.width:g}: give {NARROWEST:g} to {WIDEST:g} inches")
        if self.height is not None and not 0 < self.height <= WIDEST:
            raise UserError(f"height {self.height:g}: give at most {WIDEST:g} inches, or leave it out")

    def figure(self) -> Figure:
        """An empty figure, of a height that `fit` corrects."""
        return new_figure(self.width, self.height or self.width, self.title, PAPER)

    def fit(self, figure: Figure, panel: float) -> None:
        """Give a figure its height, and break its lines of text so that nothing is cut off.

        Args:
            figure: with all of its content.
            panel: height of each panel in inches, where the figure's is not given.

        Raises:
            UserError: there is no room for the content; the line says what helps.
        """
        if figure.get_suptitle():
            _wrap(figure, figure.texts[0], self.width - 0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the layout, where there is no room: see below
            for _ in range(3):  # broken lines take room, in which others may have to be broken
                figure.draw_without_rendering()
                for axes in figure.axes:
                    _wrap_labels(figure, axes)
                figure.draw_without_rendering()
                if self.height is None:
                    rows = len({axes.get_subplotspec().rowspan.start for axes in figure.axes})  # pyright: ignore[reportOptionalMemberAccess]
                    height = figure.get_figheight() + rows * (panel - _least(figure, "height"))
                    figure.set_size_inches(self.width, height)
            figure.draw_without_rendering()
        self._check(figure)

    def _check(self, figure: Figure) -> None:
        """Check that panels have a size and nothing lies outside of the figure."""
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()
        cut = {
            "height": box.y0 < -_SLACK or box.y1 > height + _SLACK or _least(figure, "height") < _SMALLEST,
            "width": box.x0 < -_SLACK or box.x1 > width + _SLACK or _least(figure, "width") < _SMALLEST,
        }
        if cut["height"] and (self.height is not None or not cut["width"]):
            raise UserError(f"height {height:g}: there is no room for the panels, give a larger --height or none")
        if cut["width"]:
            raise UserError(f"width {self.width:g}: there is no room for names and numbers, give a larger --width")


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw in our own style, with TrueType fonts in PDF, text in SVG, and the same bytes every time."""
    import matplotlib

    with own_style():
        matplotlib.rcParams.update({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "lr_env"})
        yield


def legend_below(figure: Figure, lines: Sequence[Any], width: float) -> None:
    """Name lines below the panels, in as many columns as there is room for.

    Raises:
        UserError: there is no room for one.
    """
    for columns in range(min(4, len(lines)), 0, -1):
        legend = figure.legend(
            handles=lines,
            loc="outside lower center",
            ncols=columns,
            fontsize=LEGEND,
            frameon=False,
            handlelength=2.4,
            columnspacing=1.2,
            labelspacing=0.3,
            borderpad=0.2,
            labelcolor=TEXT,
        )
        if inches(figure, legend).width <= width - 0.1:
            return
        legend.remove()
    raise UserError(f"width {width:g}: there is no room for the names of the planners, give a larger --width")


def most_ticks(width: float) -> int:
    """How many numbers of up to six digits have room beside each other in so many inches."""
    return max(1, int(width * _POINTS / (6 * PAPER.tick)))


def inches(figure: Figure, artist: Any) -> Any:
    """The box in which an artist lies, in inches."""
    renderer: Any = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    return artist.get_window_extent(renderer).transformed(figure.dpi_scale_trans.inverted())


def _least(figure: Figure, side: str) -> float:
    """The width or height of the smallest panel, inches."""
    return min(float(getattr(inches(figure, axes.patch), side)) for axes in figure.axes)


def _wrap_labels(figure: Figure, axes: Axes) -> None:
    """Break the labels of axes into lines that do not stick out; a long one below ends with its panel."""
    panel = inches(figure, axes.patch)
    middle, words = (panel.x0 + panel.x1) / 2, axes.xaxis.label
    room = 2 * min(middle, figure.get_figwidth() - middle)
    if inches(figure, words).width > room:
        axes.set_xlabel(words.get_text(), loc="right")
        room = panel.x1
    _wrap(figure, words, room - 0.04)
    _wrap(figure, axes.yaxis.label, panel.height + 0.1, down=True)


def _wrap(figure: Figure, text: Any, room: float, *, down: bool = False) -> None:
    """Break a text into lines of so many inches, if words allow for it."""
    words = " ".join(text.get_text().split())
    if not words:
        return
    for columns in range(len(words), 5, -1):
        text.set_text(textwrap.fill(words, columns, break_long_words=False, break_on_hyphens=False))
        extent = inches(figure, text)
        if (extent.height if down else extent.width) <= max(room, 0.0):
            return
    text.set_text(textwrap.fill(words, max(map(len, words.split())), break_long_words=False, break_on_hyphens=False))


def panel_height(width: float) -> float:
    """Height in inches that suits a panel of a width."""
    return float(np.clip(0.5 * width, 1.0, 2.4))

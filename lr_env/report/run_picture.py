"""The picture of a run that is still going on: its learning rate and its losses so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.report.plotting import (
    COLOURS,
    DASHES,
    TEXT,
    Figure,
    FigureCanvasAgg,
    log_scale,
    own_style,
    plain,
    step_ticks,
)

WIDTH, HEIGHT = 800, 400
"""Size of a frame in pixels."""

_DPI = 100
_BACKGROUNDS = 16
"""Backgrounds that are kept, of 1.3 MB each: for runs side by side, whose limits may differ."""
_DECADES = 4
"""Decades of learning rates that are shown below the largest; a smaller rate is on the lower border."""


@dataclass(frozen=True, eq=False)
class ShownRun:
    """A run as far as it has come.

    Attributes:
        points: step, learning rate, training loss and validation loss at the start and after each segment, losses in
            nats per example, (points, 4).
        title: above the panels.
        last_step: optimizer steps of a whole run.
    """

    points: NDArray[np.float64]
    title: str
    last_step: int


class RunPicture:
    """A figure with the rates and losses of one run, which is drawn again and again with other curves.

    Its layout is fixed and its lines are reused, so that a frame takes few milliseconds.
    """

    @own_style()
    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)
        self._title = self.figure.text(0.02, 0.945, "", fontsize=12, color=TEXT, fontweight="bold", parse_math=False)
        left, right = self.figure.subplots(1, 2)
        self.figure.subplots_adjust(left=0.09, right=0.97, bottom=0.13, top=0.8, wspace=0.24)
        self._axes = (left, right)
        for axes in self._axes:
            plain(axes)
            log_scale(axes, "y")
            step_ticks(axes)
            axes.set_xlabel("optimizer step", fontsize=10, color=TEXT)
        left.set_ylabel("learning rate", fontsize=10, color=TEXT)
        right.set_ylabel("loss [nats/example]", fontsize=10, color=TEXT)
        self._lr, self._val, self._train = (
            axes.plot([], [], label=" ", color=COLOURS[number], linestyle=DASHES[number], linewidth=2.0)[0]
            for number, axes in ((2, left), (0, right), (1, right))
        )
        self._lr.set(linestyle="-", drawstyle="steps-pre")
        # The last point is marked: the first frame of a run has no line yet.
        self._ends = [
            axes.plot([], [], "o", color=line.get_color(), markersize=5, clip_on=False, zorder=5)[0]
            for axes, line in ((left, self._lr), (right, self._val), (right, self._train))
        ]
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "frameon": False, "fontsize": 9.5}
        self._legends = [
            axes.legend(ncols=2, handlelength=1.8, columnspacing=1.2, borderpad=0.2, **place) for axes in self._axes
        ]
        self._changing = (self._lr, self._val, self._train, *self._ends, *self._legends, self._title)
        self._backgrounds: dict[tuple[float, ...], Any] = {}

    def put(self, run: ShownRun) -> None:
        """Put a run into the picture."""
        step, lr, train, val = run.points.T
        self._title.set_text(run.title)
        lr = np.append(lr[1:2], lr[1:]) if len(lr) > 1 else lr  # nothing was trained at the first one
        low, high = _limits(lr, 10.0**-_DECADES)
        curves = ((self._lr, np.maximum(lr, low)), (self._val, val), (self._train, train))
        for (line, values), end in zip(curves, self._ends, strict=True):
            line.set_data(step, values)
            end.set_data(step[-1:], values[-1:])
        left, right = self._axes
        left.set_ylim(low, high)
        right.set_ylim(*_limits(np.append(train, val), 0.0))
        for axes in self._axes:
            axes.set_xlim(0, run.last_step)
        shown = ((f"{lr[-1]:.4g}",), (f"validation: {val[-1]:.4f}", f"training: {train[-1]:.4f}"))
        for legend, texts in zip(self._legends, shown, strict=True):
            for text, words in zip(legend.get_texts(), texts, strict=True):
                text.set_text(words)

    @own_style()
    def pixels(self) -> NDArray[np.uint8]:
        """Draw the picture, (HEIGHT, WIDTH, 3).

        Axes take most of the time. They are drawn once for the limits that they have, and what changes is drawn over
        them.
        """
        limits = tuple(number for axes in self._axes for number in (*axes.get_xlim(), *axes.get_ylim()))
        for artist in self._changing:
            artist.set_animated(True)  # which leaves it out of the background
        if limits not in self._backgrounds:
            if len(self._backgrounds) == _BACKGROUNDS:
                self._backgrounds.clear()
            self._canvas.draw()
            self._backgrounds[limits] = self._canvas.copy_from_bbox(self.figure.bbox)
        self._canvas.restore_region(self._backgrounds[limits])
        for artist in self._changing:
            self.figure.draw_artist(artist)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


_PARTS = tuple(np.log10([1, 2, 5, 10]).tolist())


def _limits(values: NDArray[np.float64], smallest: float) -> tuple[float, float]:
    """Limits of a log axis on numbers of the form 1, 2 or 5 times a power of ten, so that they seldom change.

    Args:
        values: what is shown.
        smallest: share of the largest value below which nothing is shown.
    """
    positive = values[values > 0]
    if not len(positive):
        return 0.1, 1.0
    top = float(positive.max())
    low, high = _snapped(max(float(positive.min()), top * smallest), np.floor), _snapped(top, np.ceil)
    return (low, high) if low < high else (low / 2, high * 2)


def _snapped(value: float, way: Any) -> float:
    """The nearest of 1, 2, 5 times a power of ten below a number (`np.floor`) or above it (`np.ceil`)."""
    power = np.floor(np.log10(value))
    part = np.log10(value) - power
    number = way(np.interp(part, _PARTS, range(len(_PARTS))) + (1e-9 if way is np.floor else -1e-9))
    return float(10 ** (power + _PARTS[int(number)]))

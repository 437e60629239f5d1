"""A chart as data: panels of series of numbers, which the HTML page draws so that a reader can look into it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Scale = Literal["linear", "log", "names"]
"""Of an axis; "names" has a place for each name, in the order in which they come."""

Kind = Literal["line", "steps", "points"]
"""Of a series: a line from point to point, a line that keeps the next value from point to point, or points alone."""

Tone = Literal["", "better", "worse", "tie", "strong", "quiet"]
"""A colour with a meaning, in place of a series' own."""


Values = Any
"""Numbers, as an array or a list, or a list of names."""


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: what it shows, with the unit.
        scale: its scale; a reader can switch between "log" and "linear".
        limits: its ends at first; None where they follow from the data.
        names: of an axis of names, in order.
    """

    label: str
    scale: Scale = "linear"
    limits: tuple[float, float] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers that are drawn in one colour. What is not finite is left out.

    Attributes:
        name: what they are; a reader sees it at the points.
        x: places, (points,): numbers, or names on an axis of names.
        y: values, (points,); or (curves, points), several curves at the same places.
        kind: how they are drawn.
        low, high: ends of a band around a line, or of bars of points, (points,).
        bars: the direction of the bars; `low` and `high` are x where it is "x".
        style: number that says colour, dashes and marker; the first 28 all differ.
        tone: a colour with a meaning.
        group: name of the button that turns them on and off; no button if empty.
        behind: whether they are details, which a reader has to ask for.
        marker: "", or one of "star", "cross", "diamond", "open".
        texts: what a reader sees at each point, or at each curve.
        running: whether they belong to runs that are not finished; drawn with dots.
    """

    name: str
    x: Values
    y: Values
    kind: Kind = "line"
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    bars: Literal["x", "y"] = "y"
    style: int = 0
    tone: Tone = ""
    group: str = ""
    behind: bool = False
    marker: str = ""
    texts: Sequence[str] = ()
    running: bool = False


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes.

    Attributes:
        title: a line above it.
        x, y: the axes; names on the y axis go from the top down.
        series: what is drawn, the last on top.
        lines: name -> x of a vertical line; a blank name is not written.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    lines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Chart:
    """Panels beside or below each other.

    Attributes:
        panels: from the first to the last.
        highlighted: groups that are in colour at first; None for all.
        groups: the order of the buttons; those that are not named follow.
        details: name of the switch for the series that are `behind`.
    """

    panels: Sequence[Panel]
    highlighted: Sequence[str] | None = None
    groups: Sequence[str] = ()
    details: str = "each seed"


def pack_charts(charts: Mapping[str, Chart]) -> bytes:
    """Charts by name as bytes: a JSON text with its length, and behind it all numbers as 32-bit floats.

    In the JSON an array of numbers is `{"at": index of its first number, "shape": ...}`. Equal arrays are there once.
    """
    numbers = _Numbers()
    described = {name: _chart(chart, numbers) for name, chart in charts.items()}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + numbers.data()


class _Numbers:
    """Arrays of 32-bit floats, one behind the other."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, values: ArrayLike) -> dict[str, Any]:
        """Where an array lies; it is added if it is not there. What is not finite becomes NaN."""
        array = np.asarray(values, dtype="<f4")
        data = np.where(np.isfinite(array), array, np.float32("nan")).astype("<f4").tobytes()
        if data not in self._places:
            self._places[data] = self._length
            self._parts.append(data)
            self._length += array.size
        return {"at": self._places[data], "shape": list(array.shape)}

    def data(self) -> bytes:
        """All of them."""
        return b"".join(self._parts)


def _chart(chart: Chart, numbers: _Numbers) -> dict[str, Any]:
    groups = dict.fromkeys([*chart.groups, *(series.group for panel in chart.panels for series in panel.series)])
    return {
        "panels": [_panel(panel, numbers) for panel in chart.panels],
        "groups": [group for group in groups if group],
        "highlighted": None if chart.highlighted is None else list(chart.highlighted),
        "details": chart.details,
    }


def _panel(panel: Panel, numbers: _Numbers) -> dict[str, Any]:
    return {
        "title": panel.title,
        **{
            name: {
                "label": axis.label,
                "scale": axis.scale,
                "limits": axis.limits and list(axis.limits),
                "names": list(axis.names),
            }
            for name, axis in (("x", panel.x), ("y", panel.y))
        },
        "series": [_series(series, numbers) for series in panel.series],
        "lines": dict(panel.lines),
    }


def _series(series: Series, numbers: _Numbers) -> dict[str, Any]:
    plain = ("name", "kind", "bars", "style", "tone", "group", "behind", "marker", "running")
    described: dict[str, Any] = {name: value for name in plain if (value := getattr(series, name)) or name == "style"}
    for name in ("x", "y", "low", "high"):
        values = getattr(series, name)
        if values is not None:
            described[name] = list(values) if _names(values) else numbers.add(values)
    if series.texts:
        described["texts"] = list(series.texts)
    return described


def _names(values: Any) -> bool:
    return len(values) > 0 and isinstance(values[0], str)

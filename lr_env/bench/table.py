"""The table that `lr_env.bench` prints: figures, held against bars."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

COMPARED = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}

Bar = tuple[str, float]
"""A key of `COMPARED`, and the value that a figure is held against."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        measure: what was measured.
        values: one a round.
        unit: "x", "%", "s", "ms" or "GiB".
        absolute: what is behind it, in words.
        bar: what is promised, if anything.
    """

    measure: str
    values: Sequence[float]
    unit: str
    absolute: str = ""
    bar: Bar | None = None

    @property
    def value(self) -> float:
        """The median, which is held against the bar."""
        return float(np.median(self.values))

    @property
    def verdict(self) -> str:
        """Whether the bar is met."""
        if self.bar is None:
            return "no bar"
        return "met" if COMPARED[self.bar[0]](self.value, self.bar[1]) else "NOT MET"

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        unit = self.unit if self.unit == "x" else f" {self.unit}"
        places = {"x": 2, "GiB": 2}.get(self.unit, 1)
        spread = f"{min(self.values):.{places}f} to {max(self.values):.{places}f}, {len(self.values)} rounds"
        figure = f"{self.value:.{places}f}{unit}" + (f" ({spread})" if len(self.values) > 1 else "")
        bar = f"{self.bar[0]} {self.bar[1]:g}{unit}" if self.bar else ""
        return self.measure, figure, self.absolute, bar, self.verdict


@dataclass
class Part:
    """What one part of the bench found.

    Attributes:
        load_before: load average before it.
        when: day and time, UTC.
        commit: of the code, where it is known.
        figures: lines of the table.
        skipped: what was not measured, and why, in sentences.
        notes: how it was measured, in sentences.
        growth: lines of the table of growth; see `families.growth`.
    """

    load_before: float
    when: str = ""
    commit: str = ""
    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    growth: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, with what follows from the figures."""
        figures = [{**asdict(f), "median": f.value, "verdict": f.verdict} for f in self.figures]
        return {**vars(self), "figures": figures}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        figures = [
            Figure(f["measure"], f["values"], f["unit"], f["absolute"], f["bar"] and (f["bar"][0], f["bar"][1]))
            for f in content["figures"]
        ]
        return cls(**{**content, "figures": figures})


def report(parts: Mapping[str, Part], about: Mapping[str, Any], quick: bool) -> str:
    """The table in Markdown, aligned so that it reads as well in a terminal.

    Args:
        parts: what was measured, by the part's name.
        about: the machine; see `measures.machine`.
        quick: whether the rounds were few and short.
    """
    figures = [figure for part in parts.values() for figure in part.figures]
    growth = [row for part in parts.values() for row in part.growth]
    lines = [("measure", "median (min to max)", "absolute", "bar", "verdict"), *(f.cells() for f in figures)]
    missed = sum(figure.verdict == "NOT MET" for figure in figures)
    barred = sum(figure.bar is not None for figure in figures)
    kept = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    taken = "; ".join(
        f"{name}: {part.when}, code {part.commit or 'unknown'}, load average before {part.load_before:g}"
        for name, part in parts.items()
    )
    paragraphs = [
        f"# Measured on {about['device']}, {about['cores']} cores",
        f"{barred - missed} of {barred} bars met, {missed} NOT MET.",
        "A quick look: few and short rounds, not figures to rely on." if quick else "",
        _grid(lines) if figures else "",
        *dict.fromkeys(line for part in parts.values() for line in part.skipped),
        f"Threads: {about['threads']}; {about['system']}; {kept}.",
        f"When each part was measured: {taken}.",
        "Machines are noisy: neighbours, clocks and caches move these figures from one start to the next. Both sides "
        "of a ratio ran in turns; the median of the rounds' ratios is held against the bar.",
        *dict.fromkeys(line for part in parts.values() for line in part.notes),
        f"## Growth\n\n{_grid([GROWTH_COLUMNS, *map(_growth_cells, growth)])}" if growth else "",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


GROWTH_COLUMNS = ("task", "children", "backend", "child steps/s", "memory besides the data [GiB]", "estimated [GiB]")


def _growth_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    gib = "not measured" if math.isnan(row["gib"]) else f"{row['gib']:.3f}"
    rate, estimate = f"{row['steps_per_second']:,.0f}", f"{row['estimated_gib']:.3f}"
    return row["task"], str(row["children"]), row["backend"], rate, gib, estimate


def _grid(lines: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown, of which the first line is the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    grid = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    grid.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(grid)

"""The table that `lr_env.bench` prints and keeps."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def report(
    figures: Sequence[Figure], skipped: Sequence[str], notes: Sequence[str], about: Mapping[str, Any], quick: bool
) -> str:
    """The table in Markdown, aligned so that it reads as well in a terminal.

    Args:
        figures: the lines.
        skipped: what was not measured, and why, in sentences.
        notes: how it was measured, in sentences.
        about: the machine; see `measures.machine`.
        quick: whether the rounds were few and short.
    """
    lines = [("measure", "median (min to max)", "absolute", "bar", "verdict"), *(f.cells() for f in figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    grid = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    grid.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    missed = sum(figure.verdict == "NOT MET" for figure in figures)
    barred = sum(figure.bar is not None for figure in figures)
    kept = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        f"# Measured on {about['device']}, {about['cores']} cores",
        f"{barred - missed} of {barred} bars met, {missed} NOT MET.",
        "A quick look: few and short rounds, not figures to rely on." if quick else "",
        "\n".join(grid),
        *skipped,
        f"Threads: {about['threads']}; {about['system']}; load average before: {about['load_before']}; {kept}.",
        "Machines are noisy: neighbours, clocks and caches move these figures from one start to the next. Both sides "
        "of a ratio ran in turns; the median of the rounds' ratios is held against the bar.",
        *notes,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""The table that `lr_env.bench` prints: figures, compared with bars."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from lr_env.report.document import Block, Document, Heading, Text, plain_table
from lr_env.report.markdown import markdown_text

COMPARED = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}

Bar = tuple[str, float]
"""A key of `COMPARED`, and the value that a figure is compared with."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        measure: what was measured.
        values: one a round.
        unit: "x", "%", "s", "ms", "GiB" or "k" (thousands).
        absolute: the numbers behind it, in words.
        bar: the value that is promised, if any.
    """

    measure: str
    values: Sequence[float]
    unit: str
    absolute: str = ""
    bar: Bar | None = None

    @property
    def value(self) -> float:
        """The median, which is compared with the bar."""
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
    """The result of one part of the bench.

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
        """The part for JSON, with medians and verdicts."""
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


def document(parts: Mapping[str, Part], about: Mapping[str, Any], quick: bool) -> Document:
    """The tables and how they were measured.

    Args:
        parts: what was measured, by the part's name.
        about: the machine; see `measures.machine`.
        quick: whether the rounds were few and short.
    """
    figures = [figure for part in parts.values() for figure in part.figures]
    growth = [row for part in parts.values() for row in part.growth]
    missed = sum(figure.verdict == "NOT MET" for figure in figures)
    barred = sum(figure.bar is not None for figure in figures)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    taken = "; ".join(
        f"{name}: {part.when}, code {part.commit or 'unknown'}, load average before {part.load_before:g}"
        for name, part in parts.items()
    )
    texts = [
        *dict.fromkeys(line for part in parts.values() for line in part.skipped),
        f"Threads: {about['threads']}; {about['system']}; {versions}.",
        f"When each part was measured: {taken}.",
        "Machines are noisy: neighbours, clocks and caches move these figures from one start to the next. Both sides "
        "of a ratio ran in turns; the median of the rounds' ratios is held against the bar.",
        *dict.fromkeys(line for part in parts.values() for line in part.notes),
    ]
    blocks: list[Block] = [Text(f"{barred - missed} of {barred} bars met, {missed} NOT MET.")]
    if quick:
        blocks.append(Text("A quick look: few and short rounds, not figures to rely on."))
    if figures:
        blocks.append(plain_table(COLUMNS, [figure.cells() for figure in figures]))
    blocks += map(Text, texts)
    if growth:
        blocks += [Heading("Growth"), plain_table(GROWTH_COLUMNS, list(map(_growth_cells, growth)))]
    return Document(f"Measured on {about['device']}, {about['cores']} cores", tuple(blocks))


def report(parts: Mapping[str, Part], about: Mapping[str, Any], quick: bool) -> str:
    """The document as Markdown, aligned so that it reads as well in a terminal; see `document`."""
    return markdown_text(document(parts, about, quick), aligned=True)


COLUMNS = ("measure", "median (min to max)", "absolute", "bar", "verdict")
GROWTH_COLUMNS = ("task", "children", "backend", "child steps/s", "memory besides the data [GiB]", "estimated [GiB]")


def _growth_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    gib = "not measured" if math.isnan(row["gib"]) else f"{row['gib']:.3f}"
    rate, estimate = f"{row['steps_per_second']:,.0f}", f"{row['estimated_gib']:.3f}"
    return row["task"], str(row["children"]), row["backend"], rate, gib, estimate

"""The columns of a report's table: as many in the terminal as fit, all of them in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

STYLES = {"better": "green", "worse": "red", "tie": "bold yellow"}
LEFT = ("planner", "setting")
"""Columns of words, which begin at their left."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of the printed tables.

    Attributes:
        name: its head.
        meaning: one line.
        cells: one a row.
        rank: the terminal shows a column where lower ranks leave room for it; 0: always, None: never.
        short: cells for the terminal, where they differ.
    """

    name: str
    meaning: str
    cells: Sequence[str]
    rank: int | None = None
    short: Sequence[str] = ()


def print_columns(columns: Sequence[Column], console: Console) -> list[str]:
    """Print a table of as many columns as the console is wide enough for.

    Returns:
        The names of the columns that were left out.
    """
    shown = [c for c in columns if c.rank == 0]
    for column in sorted((c for c in columns if c.rank), key=lambda c: c.rank or 0):
        wider = [c for c in columns if c in shown or c is column]
        if _natural_width(_terminal_table(wider), console) <= console.width:
            shown = wider
    console.print(_terminal_table(shown))
    return [c.name for c in columns if c not in shown]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def columns_grid(columns: Sequence[Column]) -> str:
    """All columns as a table in Markdown."""
    return grid([c.name for c in columns], list(zip(*(c.cells for c in columns), strict=True)))


def meanings(columns: Sequence[Column]) -> str:
    """What each column means, as a list in Markdown."""
    return "\n".join(f"- **{c.name}**: {c.meaning}." for c in columns)


def _terminal_table(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        left = column.name in LEFT
        table.add_column(Text(column.name), justify="left" if left else "right", no_wrap=True)
    for cells in zip(*(c.short or c.cells for c in columns), strict=True):
        table.add_row(*map(_styled, cells))
    return table


def _natural_width(table: Table, console: Console) -> int:
    """Columns of text that a table takes where there is room for all of it."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _styled(cell: str) -> Text:
    """A cell with its verdict, the last word, in colour."""
    verdict = cell.rpartition(" ")[2]
    text = Text(cell, style="dim" if cell == "(reference)" else "")
    if verdict in STYLES:
        text.stylize(STYLES[verdict], len(cell) - len(verdict))
        text.pad_right(len("better") - len(verdict))
    return text

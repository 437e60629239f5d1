"""The columns of a report's table: as many in the terminal as fit, all of them in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lr_env.terminal import shown

_ASCII = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""As `box.SIMPLE_HEAD`, where its line cannot be shown."""

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
        head: its head in the terminal, where that differs; may have two lines.
    """

    name: str
    meaning: str
    cells: Sequence[str]
    rank: int | None = None
    short: Sequence[str] = ()
    head: str = ""


def print_columns(columns: Sequence[Column], console: Console) -> list[str]:
    """Print a table of as many columns as the console is wide enough for.

    Where it is too narrow even for those that are always shown, these and the next are printed below each other, row
    by row: nothing is cut.

    Returns:
        The names of the columns that were left out.
    """
    chosen = [c for c in columns if c.rank == 0]
    fits = _fits(chosen, console)
    for column in sorted((c for c in columns if c.rank), key=lambda c: c.rank or 0):
        wider = [c for c in columns if c in chosen or c is column]
        if fits and _fits(wider, console):
            chosen = wider
    if fits:
        console.print(_terminal_table(chosen, console))
    else:
        chosen = [c for c in columns if c.rank is not None and c.rank <= 1]
        console.print(_stacked(chosen, console), highlight=False, soft_wrap=True)
    return [c.name for c in columns if c not in chosen]


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


def _terminal_table(columns: Sequence[Column], console: Console) -> Table:
    ascii_only = console.options.ascii_only
    table = Table(box=_ASCII if ascii_only else box.SIMPLE_HEAD, safe_box=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        left = column.name in LEFT
        head = shown(column.head or column.name, console.encoding)
        table.add_column(Text(head), justify="left" if left else "right", no_wrap=True)
    for cells in zip(*(c.short or c.cells for c in columns), strict=True):
        table.add_row(*(_styled(cell, console, pad=True) for cell in cells))
    return table


def _stacked(columns: Sequence[Column], console: Console) -> Text:
    """The first cell of each row in a line of its own, and below it the others with their heads."""
    first, *others = columns
    lines = []
    for row, name in enumerate(first.short or first.cells):
        lines.append(Text(shown(name, console.encoding), style="bold"))
        for column in others:
            cell = _styled((column.short or column.cells)[row], console)
            lines.append(Text(f"  {shown(column.name, console.encoding)}: ").append_text(cell))
    return Text("\n").join(lines)


def _fits(columns: Sequence[Column], console: Console) -> bool:
    """Whether a console is wide enough for all of a table."""
    table = _terminal_table(columns, console)
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width


def _styled(cell: str, console: Console, pad: bool = False) -> Text:
    """A cell with its verdict, the last word, in colour; with `pad` verdicts are as long as the longest."""
    cell = shown(cell, console.encoding)
    verdict = cell.rpartition(" ")[2]
    text = Text(cell, style="dim" if cell == "(reference)" else "")
    if verdict in STYLES:
        text.stylize(STYLES[verdict], len(cell) - len(verdict))
        if pad:
            text.pad_right(len("better") - len(verdict))
    return text

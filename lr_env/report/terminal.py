"""Documents in the terminal: as many columns of each table as its width has room for, and no word cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text as RichText

from lr_env.report.document import Code, Column, Document, Figure, Heading, Table, Text
from lr_env.terminal import paragraph, shown

_ASCII = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""As `box.SIMPLE_HEAD`, where its line cannot be shown."""

STYLES = {"better": "green", "worse": "red", "equivalent": "bold", "unclear": "bold yellow"}
"""Verdict -> its style."""


def print_document(document: Document, console: Console, folder: Path = Path()) -> None:
    """Print the blocks of a document that are not only for files; its title is left to the files.

    Args:
        document: the report.
        console: where to.
        folder: the folder of the report, in which its figures are.
    """
    for block in document.blocks:
        if block.place not in ("everywhere", "terminal"):
            continue
        match block:
            case Table():
                print_table(block, console)
            case Text():
                for line in block.points or (block.text,):
                    paragraph(console, _unmarked(line), "dim" if block.quiet else "")
            case Figure():
                _print_line(f"Figure: {folder / block.file}", console)
            case Heading():
                _print_line(_unmarked(block.text), console)
            case Code():
                _print_line(block.code, console)


def print_table(table: Table[Any], console: Console) -> None:
    """Print a table of as many columns as the console is wide enough for, and a note on them.

    Where it is too narrow even for the columns of rank 0, these and those of rank 1 are printed below each other, row
    by row: nothing is cut.
    """
    columns = [column for column in table.shown if column.rank == 0]
    if _fits(table, columns, console):
        for column in sorted((c for c in table.shown if c.rank), key=lambda c: c.rank or 0):
            wider = [c for c in table.shown if c in columns or c is column]
            columns = wider if _fits(table, wider, console) else columns
        console.print(_rich_table(table, columns, console))
    else:
        columns = [column for column in table.shown if column.rank is not None and column.rank <= 1]
        console.print(_stacked(table, columns, console), highlight=False, soft_wrap=True)
    left_out = [column.name for column in table.shown if column not in columns and not column.unlisted]
    notes = [table.note, *(table.notes.get(column.name, "") for column in columns)]
    notes.append(f"only in the files: {', '.join(left_out)}" if left_out else "")
    if any(notes):
        paragraph(console, "; ".join(filter(None, notes)), "dim")


def _fits(table: Table[Any], columns: Sequence[Column[Any]], console: Console) -> bool:
    """Whether a console is wide enough for some columns of a table."""
    rich_table = _rich_table(table, columns, console)
    return Measurement.get(console, console.options.update(max_width=10_000), rich_table).maximum <= console.width


def _rich_table(table: Table[Any], columns: Sequence[Column[Any]], console: Console) -> RichTable:
    style = _ASCII if console.options.ascii_only else box.SIMPLE_HEAD
    rich_table = RichTable(box=style, safe_box=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        head = RichText(shown(column.head or column.name, console.encoding))
        rich_table.add_column(head, justify="left" if column.words else "right", no_wrap=True)
    for row in table.rows:
        rich_table.add_row(*(_styled(column.short_cell(row), console, pad=True) for column in columns))
    return rich_table


def _stacked(table: Table[Any], columns: Sequence[Column[Any]], console: Console) -> RichText:
    """The first cell of each row in a line of its own, and below it the others with their heads."""
    first, *others = columns
    lines = []
    for row in table.rows:
        lines.append(RichText(shown(first.short_cell(row), console.encoding), style="bold"))
        for column in others:
            head = RichText(f"  {shown(column.name, console.encoding)}: ")
            lines.append(head.append_text(_styled(column.short_cell(row), console)))
    return RichText("\n").join(lines)


def _styled(cell: str, console: Console, pad: bool = False) -> RichText:
    """A cell with its verdict, the last word, in colour; with `pad` verdicts are as long as the longest."""
    cell = shown(cell, console.encoding)
    verdict = cell.rpartition(" ")[2]
    text = RichText(cell, style="dim" if cell == "(reference)" else "")
    if verdict in STYLES:
        text.stylize(STYLES[verdict], len(cell) - len(verdict))
        if pad:
            text.pad_right(len("unclear") - len(verdict))
    return text


def _unmarked(text: str) -> str:
    return text.replace("**", "").replace("`", "")


def _print_line(text: str, console: Console) -> None:
    console.print(shown(text, console.encoding), highlight=False, markup=False, soft_wrap=True)

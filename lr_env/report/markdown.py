"""Documents as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lr_env.files import write_text
from lr_env.report.document import Block, Code, Document, Figure, Heading, Table, Text


def write_markdown(document: Document, file: Path) -> None:
    """Write a document as Markdown; the file is replaced as a whole or not at all."""
    write_text(file, markdown_text(document))


def markdown_text(document: Document, *, aligned: bool = False) -> str:
    """A document as Markdown, without the blocks that are only for terminals.

    Args:
        document: the report.
        aligned: pad the cells of tables, so that they read as well as plain text.
    """
    blocks = (_block_text(block, aligned) for block in document.blocks if block.place not in ("terminal", "page"))
    return "\n\n".join([f"# {document.title}", *blocks]) + "\n"


def table_text(table: Table[Any], *, aligned: bool = False) -> str:
    """All columns of a table that have texts, as Markdown; see `markdown_text`."""
    columns = [[column.name, *map(column.cell, table.rows)] for column in table.shown]
    columns = [[cell.replace("|", "\\|") for cell in cells] for cells in columns]
    if aligned:
        columns = [[cell.ljust(max(map(len, cells))) for cell in cells] for cells in columns]
        rules = ["-" * len(cells[0]) for cells in columns]
    else:
        rules = ["---" if column.words else "---:" for column in table.shown]
    head, *rows = zip(*columns, strict=True)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))


def _block_text(block: Block, aligned: bool) -> str:
    match block:
        case Heading():
            return f"## {block.text}"
        case Text():
            return block.text or "\n".join(f"- {point}" for point in block.points)
        case Table():
            return table_text(block, aligned=aligned)
        case Figure():
            return f"![{block.caption}]({block.file})"
        case Code():
            return f"```{block.language}\n{block.code}\n```"

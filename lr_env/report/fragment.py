"""Blocks of a report as HTML: for the page, and for notebooks as a piece that needs nothing else.

All texts are escaped: names of planners, settings and tasks come from users.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from lr_env.report.blocks import Block, Code, Column, Figure, Heading, Table, Text

LONG = 48
"""Characters of a cell from which on it may have several lines."""

FIRST = 2
"""Columns up to this rank, which a terminal shows before others, come before others here."""

WIDE = 10
"""Columns from which on a table is printed across the page."""

_LEADING = re.compile(r"([-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)(?= ±| \[| better| worse| equivalent| not|\+|$)")
"""A number with which the text of a cell begins."""

_VERDICTS = ("better", "worse")

_STYLE = """
.lr-env-report table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.lr-env-report .scroll { overflow-x: auto; }
.lr-env-report th, .lr-env-report td { padding: 0.15em 0.6em; text-align: left; white-space: nowrap; }
.lr-env-report td.long { white-space: normal; min-width: 20em; }
.lr-env-report .number { text-align: right; }
.lr-env-report .better { font-weight: 600; color: #0072b2; }
.lr-env-report .worse { font-weight: 600; color: #c85200; }
.lr-env-report img { max-width: 100%; background: #ffffff; }
"""


def fragment(title: str, blocks: Sequence[Block], notice: str = "") -> str:
    """A report for a notebook: what comes before the first heading, and the rest folded. Images are drawn into it."""
    shown = [block for block in blocks if block.place not in ("terminal", "markdown")]
    first = next((at for at, block in enumerate(shown) if isinstance(block, Heading)), len(shown))
    result, details = ("".join(map(block_html, part)) for part in (shown[:first], shown[first:]))
    folded = f"<details><summary>Details</summary>{details}</details>" if details else ""
    warning = f"<p><strong>{marked(notice)}</strong></p>" if notice else ""
    return f'<div class="lr-env-report"><style>{_STYLE}</style><h3>{escape(title)}</h3>{warning}{result}{folded}</div>'


def block_html(block: Block) -> str:
    """A block without a place in a page: no links and no charts."""
    match block:
        case Heading():
            return f"<h4>{marked(block.text)}</h4>"
        case Text():
            return text_html(block)
        case Code():
            return f"<pre><code>{escape(block.code)}</code></pre>"
        case Table():
            return table_html(block)
        case Figure():
            return f"<figure>{image_html(block)}</figure>"


def text_html(text: Text, kind: str = "") -> str:
    """A paragraph or a list; `kind` is the class of the paragraph."""
    if text.points:
        return f"<ul>{''.join(f'<li>{marked(point)}</li>' for point in text.points)}</ul>"
    kinds = " ".join(filter(None, [kind, "quiet" if text.quiet else ""]))
    return f"<p{_class(kinds)}>{marked(text.text)}</p>"


def marked(text: str) -> str:
    """A text with its `code` and **bold** as HTML, and all else escaped.

    >>> marked("**cosine** < `a<b`")
    '<strong>cosine</strong> &lt; <code>a&lt;b</code>'
    """
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def table_html(table: Table[Any], name: str = "", address: Callable[[str], str] | None = None) -> str:
    """A table in a box that scrolls, what matters most on the left.

    A cell has the value with every digit: to sort by, and to see in its title.

    Args:
        table: the table.
        name: its id in the page.
        address: gives the address of a page of the document; None where there is none to link to.
    """
    columns = sorted(table.shown, key=lambda column: column.rank is None or column.rank > FIRST)
    heads = "".join(_head(column, table.meanings.get(column.name, "")) for column in columns)
    rows = "".join(
        "<tr>"
        + "".join(
            _cell(column, row, first=at == 0, address=address(table.link(row)) if address and table.link else "")
            for at, column in enumerate(columns)
        )
        + "</tr>"
        for row in table.rows
    )
    label = escape(f"Table of {len(table.rows)} rows by {columns[0].name}", quote=True)
    note = f'<p class="note">{marked(table.note)}</p>' if table.note else ""
    box = "scroll wide" if len(columns) > WIDE else "scroll"
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="{box}" role="region" aria-label="{label}" tabindex="0"><table{identity}>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _head(column: Column[Any], meaning: str) -> str:
    title = f' title="{escape(meaning, quote=True)}"' if meaning else ""
    return f'<th scope="col"{_class("" if column.words else "number")}{title}>{escape(column.name)}</th>'


def _cell(column: Column[Any], row: Any, *, first: bool, address: str) -> str:
    text, numbers = column.cell(row), column.numbers(row)
    if not numbers and not column.words and (leading := _LEADING.match(text)):
        numbers = (float(leading[1].replace(",", "")),)
    kind = "" if column.words else "number"
    attributes = _class(f"{kind} long" if len(text) > LONG else kind)
    if numbers and not column.words:
        value, *ends = (repr(number).replace("inf", "Infinity") for number in numbers)  # as JavaScript reads it
        exact = f"{value}; 95 % interval {ends[0]} to {ends[1]}" if ends else value
        attributes += f' data-value="{value}"' + (f' title="{exact}"' if exact != text else "")
    content = _with_verdict(text)
    if first:
        content = f'<a href="{escape(address, quote=True)}">{content}</a>' if address else content
        return f'<th scope="row"{attributes}>{content}</th>'
    return f"<td{attributes}>{content}</td>"


def _with_verdict(text: str) -> str:
    """A cell with its verdict, the last word, marked."""
    before, space, last = text.rpartition(" ")
    if last in _VERDICTS:
        return f'{escape(before)}{space}<span class="{last}">{last}</span>'
    return marked(text)


def image_html(figure: Figure, folder: Path | None = None) -> str:
    """The image of a figure as part of the page, out of its folder or drawn anew; its caption where there is none."""
    data = b""
    if folder is not None and (file := folder / figure.file).is_file():
        data = file.read_bytes()
    elif figure.draw is not None:
        with tempfile.TemporaryDirectory() as place, suppress(Exception):  # numbers must not be lost with their picture
            figure.draw(file := Path(place) / "figure.png")
            data = file.read_bytes()
    caption = escape(figure.caption, quote=True)
    if not data:
        return f"<figcaption>{caption}: {escape(figure.file)}</figcaption>"
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption>'


def _class(names: str) -> str:
    return f' class="{names.strip()}"' if names.strip() else ""

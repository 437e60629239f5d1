"""A report as data: a title and blocks, which each renderer shows in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from lr_env.report.blocks import Block as Block
from lr_env.report.blocks import Code as Code
from lr_env.report.blocks import Column as Column
from lr_env.report.blocks import Figure as Figure
from lr_env.report.blocks import Heading as Heading
from lr_env.report.blocks import Place as Place
from lr_env.report.blocks import Table as Table
from lr_env.report.blocks import Text as Text
from lr_env.report.fragment import fragment


@dataclass(frozen=True)
class Page:
    """A part of the HTML page on one thing, such as a planner, which is opened by a link.

    Attributes:
        name: of the thing; a `Table` links to it.
        blocks: makes its content, without its heading.
    """

    name: str
    blocks: Callable[[], Sequence[Block]]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: its title.
        blocks: its content, in order.
        pages: further parts, which only the HTML page has.
        notice: a sentence on what is missing in it, such as runs that are not finished; the HTML page has it on top.
    """

    title: str
    blocks: tuple[Block, ...]
    pages: tuple[Page, ...] = ()
    notice: str = ""

    def _repr_html_(self) -> str:
        """The report for a notebook: its tables, texts and images."""
        return fragment(self.title, self.blocks, self.notice)


class Reported:
    """A result that has a report, which a notebook shows."""

    def document(self) -> Document:
        """The report."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.document()._repr_html_()


def in_files(*blocks: Block) -> tuple[Block, ...]:
    """The same blocks, left out by terminals."""
    return tuple(replace(block, place="files") for block in blocks)


def plain_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1, note: str = ""
) -> Table[Sequence[str]]:
    """A table of texts that a terminal shows as a whole.

    Args:
        head: names of the columns; a line break in one counts in the terminal only.
        rows: a text for each column.
        words: so many columns, from the first on, hold words, the others numbers.
        note: see `Table`.
    """
    columns: list[Column[Sequence[str]]] = [
        Column(name.replace("\n", " "), itemgetter(at), rank=0, head=name, words=at < words)
        for at, name in enumerate(head)
    ]
    return Table(rows, columns, note=note)

"""A report as data: a title and blocks, which each renderer shows in its own way.

In the texts of blocks, `code` and **bold** mean what they mean in Markdown; nothing else is markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lr_env.files import finite
from lr_env.stats.intervals import Estimate

Place = Literal["everywhere", "terminal", "files"]
"""Where a block is shown: a terminal gets the result, files get its details too."""

Value = str | int | float
"""What a cell of a CSV file holds."""


@dataclass(frozen=True)
class Heading:
    """The heading of a section, below the document's title."""

    text: str
    place: Place = "files"


@dataclass(frozen=True)
class Text:
    """A paragraph, or a list of points.

    Attributes:
        text: the paragraph; empty for a list.
        points: the list.
        quiet: whether a terminal shows it dimmed, as it does with explanations.
    """

    text: str = ""
    points: tuple[str, ...] = ()
    quiet: bool = False
    place: Place = "everywhere"


@dataclass(frozen=True)
class Figure:
    """An image in the folder of the report.

    Attributes:
        file: its name.
        caption: what it shows.
    """

    file: str
    caption: str
    place: Place = "everywhere"


@dataclass(frozen=True)
class Code:
    """A command or a program, shown as it is."""

    code: str
    language: str = "sh"
    place: Place = "files"


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table: the same values as text and for CSV.

    Attributes:
        name: its head.
        meaning: one line for the legend, without a full stop.
        cells: texts, one a row; None where only the CSV file has the values.
        rank: a terminal shows a column where lower ranks leave room for it; 0: always, None: never.
        short: texts for the terminal, where they differ.
        head: its head in the terminal, where that differs; may have two lines.
        csv: name of a column in the CSV file -> its values, with every digit.
        note: explanation that a terminal adds below the table where it shows the column.
        words: whether the cells are words, which begin at the left.
        unlisted: whether a terminal that leaves it out does not say so, because it tells the same in another way.
    """

    name: str
    meaning: str = ""
    cells: Sequence[str] | None = None
    rank: int | None = None
    short: Sequence[str] = ()
    head: str = ""
    csv: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    note: str = ""
    words: bool = False
    unlisted: bool = False

    @property
    def terminal_cells(self) -> Sequence[str]:
        """Texts for the terminal, one a row."""
        return self.short or self.cells or ()


@dataclass(frozen=True, eq=False)
class Table:
    """A table; one list of columns serves terminal, Markdown and CSV.

    Attributes:
        columns: in their order.
        note: explanation that a terminal shows below it.
    """

    columns: Sequence[Column]
    note: str = ""
    place: Place = "everywhere"

    @property
    def shown(self) -> list[Column]:
        """The columns that have texts."""
        return [column for column in self.columns if column.cells is not None]

    @property
    def records(self) -> list[dict[str, Value]]:
        """The rows of the CSV file: name of a column -> value."""
        columns = {name: values for column in self.columns for name, values in column.csv.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_json(self) -> list[dict[str, str | float | None]]:
        """The same rows for JSON, which has neither infinity nor NaN: null."""
        return [{k: finite(v) if isinstance(v, float) else v for k, v in row.items()} for row in self.records]

    def legend(self) -> Text:
        """What each column means."""
        return Text(points=tuple(f"**{column.name}**: {column.meaning}." for column in self.shown))


Block = Heading | Text | Table | Figure | Code


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: its title.
        blocks: its content, in order.
    """

    title: str
    blocks: tuple[Block, ...]


def in_files(*blocks: Block) -> tuple[Block, ...]:
    """The same blocks, left out by terminals."""
    return tuple(replace(block, place="files") for block in blocks)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1, note: str = "") -> Table:
    """A table of texts that a terminal shows as a whole.

    Args:
        head: names of the columns; a line break in one counts in the terminal only.
        rows: a text for each column.
        words: so many columns, from the first on, hold words, the others numbers.
        note: see `Table`.
    """
    columns = [
        Column(name.replace("\n", " "), cells=[row[at] for row in rows], rank=0, head=name, words=at < words)
        for at, name in enumerate(head)
    ]
    return Table(columns, note)


def estimate_csv(name: str, estimates: Sequence[Estimate | None]) -> dict[str, list[Value]]:
    """Estimates as three columns of a CSV file: values and ends of intervals; empty where there is no estimate."""
    return {
        name: ["" if e is None else e.value for e in estimates],
        f"{name}_low": ["" if e is None else e.low for e in estimates],
        f"{name}_high": ["" if e is None else e.high for e in estimates],
    }

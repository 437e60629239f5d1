"""The blocks of a report: headings, texts, tables, figures and code.

In the texts of blocks, `code` and **bold** mean what they mean in Markdown; nothing else is markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from lr_env.files import json_number
from lr_env.report.chart import Chart

Place = Literal["everywhere", "terminal", "files", "markdown", "page"]
"""Where a block is shown: a terminal gets the result; files, which are Markdown and the HTML page, its details too;
"markdown" and "page" is one of them alone."""

REFERENCE = "(reference)"
"""Text of a cell in a column of differences for the row that they are differences to."""

Row = TypeVar("Row")


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
    """A picture: an image in the folder of the report, and in the HTML page a chart, if there is one.

    Attributes:
        file: name of the image.
        caption: what it shows.
        draw: writes the image to a path, as PNG; None where something else writes it.
        chart: makes the same picture as data; None where the page shows the image.
    """

    file: str
    caption: str
    draw: Callable[[Path], None] | None = None
    chart: Callable[[], Chart] | None = None
    place: Place = "everywhere"


@dataclass(frozen=True)
class Code:
    """A command or a program, shown as it is."""

    code: str
    language: str = "sh"
    place: Place = "files"


@dataclass(frozen=True, eq=False)
class Column(Generic[Row]):
    """A column of a table: how its values follow from a row, and how they are shown as text and in CSV.

    Attributes:
        name: its head.
        value: the value of a row; None where there is none.
        text: a value as text; None where only the CSV file has the column.
        rank: a terminal shows a column where lower ranks leave room for it; 0: always, None: never.
        short: text of a row for the terminal, where that differs.
        csv: its head in the CSV file, which has every digit; not there if empty.
        absent: text in place of a value that is None.
        interval: whether the values are estimates, or differences with a verdict, of which the CSV file has the ends of
            their intervals too.
        head: its head in the terminal, where that differs; may have two lines.
        words: whether the texts are words, which begin at the left.
        unlisted: whether a terminal that leaves it out does not say so, because it tells the same in another way.
    """

    name: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str] | None = str
    rank: int | None = None
    short: Callable[[Row], str] | None = None
    csv: str = ""
    absent: str = ""
    interval: bool = False
    head: str = ""
    words: bool = False
    unlisted: bool = False

    def cell(self, row: Row) -> str:
        """The text of a row."""
        value = self.value(row)
        return self.absent if value is None or self.text is None else self.text(value)

    def short_cell(self, row: Row) -> str:
        """The text of a row for the terminal."""
        return self.cell(row) if self.short is None else self.short(row)

    def numbers(self, row: Row) -> tuple[float, ...]:
        """The value of a row with every digit: a number, or an estimate with the ends of its interval; else nothing."""
        value = self.value(row)
        estimate = getattr(value, "difference", value)
        if self.interval and estimate is not None:
            return estimate.value, estimate.low, estimate.high
        if isinstance(value, bool) or not isinstance(value, int | float):
            return (0.0,) if value is None and self.absent == REFERENCE else ()
        return (value if isinstance(value, int) else float(value),)

    def csv_cells(self, row: Row) -> dict[str, str | float]:
        """Head in the CSV file -> value of a row; empty where there is none."""
        value = self.value(row)
        if not self.interval:
            return {self.csv: "" if value is None else value} if self.csv else {}
        estimate = getattr(value, "difference", value)  # of a `Versus`, whose module loads scipy, or an `Estimate`
        ends = ("", "", "") if estimate is None else (estimate.value, estimate.low, estimate.high)
        return dict(zip((self.csv, f"{self.csv}_low", f"{self.csv}_high"), ends, strict=True))


@dataclass(frozen=True, eq=False)
class Table(Generic[Row]):
    """A table; one list of columns serves terminal, Markdown and CSV.

    Attributes:
        rows: of any kind that the columns know.
        columns: in their order.
        meanings: name of a column -> one line for the legend, without a full stop.
        note: explanation that a terminal shows below it.
        notes: name of a column -> explanation that a terminal adds where it shows the column.
        link: name of the document's page on a row; None where there is none.
    """

    rows: Sequence[Row]
    columns: Sequence[Column[Row]]
    meanings: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    link: Callable[[Row], str] | None = None
    place: Place = "everywhere"

    @property
    def shown(self) -> list[Column[Row]]:
        """The columns that have texts."""
        return [column for column in self.columns if column.text is not None]

    @property
    def records(self) -> list[dict[str, str | float]]:
        """The rows of the CSV file: head -> value."""
        return [{k: v for column in self.columns for k, v in column.csv_cells(row).items()} for row in self.rows]

    def to_json(self) -> list[dict[str, str | float | None]]:
        """The same rows for JSON, which has neither infinity nor NaN: null."""
        return [{k: json_number(v) if isinstance(v, float) else v for k, v in row.items()} for row in self.records]

    def column_legend(self) -> Text:
        """What each column means."""
        return Text(points=tuple(f"**{column.name}**: {self.meanings[column.name]}." for column in self.shown))


Block = Heading | Text | Table[Any] | Figure | Code

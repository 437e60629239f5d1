"""Files of reports: CSV, JSON, and figures, of which one that cannot be drawn is a warning and costs nothing else."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr_env.errors import UserError
from lr_env.files import atomic_write, write_text
from lr_env.report.blocks import Table


class NotDrawn(UserWarning):
    """A figure that could not be drawn."""


def draw_into(path: Path, draw: Callable[[Path], None]) -> bool:
    """Draw a figure into a file, which is replaced as a whole or not at all.

    Args:
        path: the file.
        draw: writes a PNG to a path.

    Returns:
        Whether it was drawn. Where drawing fails, for whatever reason, it warns with `NotDrawn`.
    """
    try:
        with atomic_write(path) as temporary:
            draw(temporary)
    except Exception as error:  # of matplotlib, fonts or the disk: results must not be lost with their picture
        reason = (str(error).strip().splitlines() or [""])[0]
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warnings.warn(NotDrawn(f"{str(path)!r} was not drawn ({kind}{reason})"), stacklevel=2)
        return False
    return True


def write_csv(table: Table[Any], file: Path) -> None:
    """Write the values of a table as CSV, floats with every digit."""
    records, text = table.records, io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: repr(v) if isinstance(v, float) else v for k, v in record.items()} for record in records)
    write_text(file, text.getvalue())


def write_content(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write NAME.json, with what is JSON-able, into an existing folder."""
    write_text(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")


def write_json_and_figure(folder: Path, name: str, content: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Write NAME.json and then NAME.png into an existing folder, each as a whole.

    Args:
        folder: the folder.
        name: name of both files, without a suffix.
        content: JSON-able; see `lr_env.files.json_number`.
        draw: see `draw_into`.
    """
    write_content(folder, name, content)
    draw_into(folder / f"{name}.png", draw)


@contextmanager
def collect_not_drawn(messages: list[str]) -> Iterator[None]:
    """Collect messages on figures that could not be drawn, in place of warnings."""
    show = warnings.showwarning

    def collect(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NotDrawn):
            messages.append(str(message))
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", NotDrawn)
        warnings.showwarning = collect
        yield

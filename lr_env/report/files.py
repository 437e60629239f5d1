"""Figures beside results: what cannot be drawn is said, and costs nothing else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr_env.errors import UserError
from lr_env.files import replacing, write_text


class NotDrawn(UserWarning):
    """A figure that could not be drawn."""


def draw_into(path: Path, draw: Callable[[Path], None]) -> bool:
    """Draw a figure into a file, which is replaced as a whole or not at all.

    Args:
        path: the file.
        draw: writes a PNG to a path.

    Returns:
        Whether it was drawn. If it was not, for whatever reason, a warning `NotDrawn` says so.
    """
    try:
        with replacing(path) as temporary:
            draw(temporary)
    except Exception as error:  # of matplotlib, its fonts or the disk: results are worth more than their picture
        why = (str(error).strip().splitlines() or [""])[0]
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        warnings.warn(NotDrawn(f"{str(path)!r} was not drawn ({kind}{why})"), stacklevel=2)
        return False
    return True


def write_json_and_figure(folder: Path, name: str, content: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Write NAME.json and then NAME.png into a folder that is there, each as a whole.

    Args:
        folder: where.
        name: of both files, without a suffix.
        content: JSON-able; see `lr_env.files.finite`.
        draw: see `draw_into`.
    """
    write_text(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
    draw_into(folder / f"{name}.png", draw)


@contextmanager
def told(lost: list[str]) -> Iterator[None]:
    """Gather what figures could not be drawn, in place of warnings."""
    usual = warnings.showwarning

    def gather(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, NotDrawn):
            lost.append(str(message))
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", NotDrawn)
        warnings.showwarning = gather
        yield

"""Files that are replaced as a whole or not at all, and reports made of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place once it is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_and_figure(folder: Path, name: str, content: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Write NAME.json and NAME.png into a folder that is there, each as a whole.

    Args:
        folder: where.
        name: of both files, without a suffix.
        content: JSON-able; see `finite`.
        draw: writes a PNG to a path.
    """
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / f"{name}.png") as path:
        draw(path)


def finite(value: float) -> float | None:
    """The value for JSON, which has neither infinity nor NaN: None."""
    return float(value) if math.isfinite(value) else None

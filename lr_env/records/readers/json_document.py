"""Read JSON files that hold a run as a list of rows, or as lists of numbers by name, as Keras' History has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.json_lines import keys_of
from lr_env.records.readers.lines import encoding_of, head_lines
from lr_env.records.readers.names import is_training_log
from lr_env.records.readers.rows import GroupedRows

_ROWS = re.compile(r"\[\s*\{")
_COLUMN = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[')

_LARGEST = 2**28
"""Bytes of the largest file that is read."""

_DEEPEST = 3
"""Levels at which the rows may lie."""


class JSONDocument:
    """Reads [{"step": 1, "loss": 0.5}, ...], {"loss": [0.5, ...], "lr": [...]}, and both inside of an object."""

    name = "json"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a file begins as JSON with names of training; see `Reader`."""
        text = "\n".join(head_lines(head)).lstrip()
        if path.suffix != ".json" or text[:1] not in ("{", "["):
            return False
        return is_training_log(keys_of(text) if _ROWS.search(text) else _COLUMN.findall(text))

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs in a file; see `Reader`."""
        if path.stat().st_size > _LARGEST:
            raise UnreadableError("it is JSON of more than 256 MiB: write JSON lines, or CSV")
        data = path.read_bytes()
        if not data.strip():
            raise UnreadableError("it is empty")
        try:
            document = json.loads(data.decode(encoding_of(data), errors="replace").removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"it is no whole JSON ({str(error)[:80]})") from None
        rows = GroupedRows()
        config = _collect(document, rows)
        if not len(rows):
            raise UnreadableError("it has neither a list of rows nor lists of numbers")
        yield from rows.runs(self.name, path, config)


def _collect(document: Any, rows: GroupedRows, depth: int = 0) -> dict[str, Any]:
    """Add the rows of a document, and return the plain values beside them."""
    if isinstance(document, list):
        for row in document:
            if isinstance(row, Mapping):
                rows.add(row)
        return {}
    if not isinstance(document, Mapping) or depth > _DEEPEST:
        return {}
    columns = {
        str(name): value
        for name, value in document.items()
        if isinstance(value, list) and value and not any(isinstance(item, list | Mapping) for item in value)
    }
    length = max(map(len, columns.values()), default=0)
    columns = {name: value for name, value in columns.items() if len(value) == length}
    for row in zip(*columns.values(), strict=True):
        rows.add(dict(zip(columns, row, strict=True)))
    config = {}
    for name, value in document.items():
        if isinstance(value, list | Mapping) and name not in columns and not len(rows):
            config |= _collect(value, rows, depth + 1)
        elif isinstance(value, str | int | float):
            config[str(name)] = value
    return config

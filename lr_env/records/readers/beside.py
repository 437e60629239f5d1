"""Hyperparameters that a tracker writes into a file of its own, beside the numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lr_env.records.readers.lines import Lines
from lr_env.records.readers.rows import to_number

_ENTRY = re.compile(r"([A-Za-z_][\w./-]*):\s+(\S.*?)\s*")
_MOST_ENTRIES = 2000


def yaml_beside(path: Path, name: str) -> dict[str, Any]:
    """The plain entries "name: value" at the top level of a YAML file beside a log; empty where it cannot be read."""
    entries: dict[str, Any] = {}
    try:
        for block in Lines(path.with_name(name)).blocks():
            for line in block:
                if (match := _ENTRY.fullmatch(line)) and len(entries) < _MOST_ENTRIES and match[2][0] not in "[{&*!|>#":
                    entries[match[1]] = plain_value(match[2])
    except OSError:
        return {}
    return entries


def plain_value(text: str) -> str | float | int | bool | None:
    """A plain value of YAML.

    >>> [plain_value(text) for text in ("16", "1e-3", "'a b'", "true", "null", "yolov8n.pt")]
    [16, 0.001, 'a b', True, None, 'yolov8n.pt']
    """
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("null", "~"):
        return None
    if re.fullmatch(r"[-+]?\d{1,15}", text):
        return int(text)
    number = to_number(text)
    return text[:1000] if number is None else number

"""Saved parts of a bench: a part can be measured anew, and a bench that is cut off loses one part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lr_env.bench.families import draw_growth
from lr_env.bench.table import Part, report
from lr_env.errors import UserError
from lr_env.files import atomic_write, read_json, write_json


class SavedParts:
    """<machine>.json, and <machine>.md and a figure made of it.

    Args:
        folder: where they are, or are to be; None to save nothing.
        machine: the machine; see `measures.machine`. Parts that were measured on another one, with other versions or
            another number of threads, are dropped.
        order: names of the parts, in the order of the table.
        quick: whether the rounds are few and short; these have other files.

    Raises:
        UserError: the JSON file that is there cannot be read.
    """

    def __init__(self, folder: Path | None, machine: Mapping[str, Any], order: tuple[str, ...], quick: bool) -> None:
        self.machine = dict(machine)
        self.order = order
        self.quick = quick
        self.parts: dict[str, Part] = {}
        self._path: Path | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\((r|tm)\)", "", f"{machine['device']} {machine['cores']} cores".lower())
            name = re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ("-quick" if quick else "")
            self._path = folder / f"{name}.json"
            self._read(self._path)

    def add(self, name: str, part: Part) -> None:
        """Save a part, in place of its earlier results."""
        parts = {**self.parts, name: part}
        self.parts = {name: parts[name] for name in self.order if name in parts}
        if self._path is None:
            return
        content = {
            "machine": self.machine,
            "quick": self.quick,
            "parts": {name: part.to_json() for name, part in self.parts.items()},
        }
        write_json(self._path, content)
        text = report(self.parts, self.machine, self.quick)
        grown = [row for part in self.parts.values() for row in part.growth]
        if grown:
            figure = self._path.with_name(f"{self._path.stem}-growth.png")
            with atomic_write(figure) as path:
                draw_growth(grown, path, self.machine["device"])
            text += f"\n![Growth]({figure.name})\n"
        with atomic_write(self._path.with_suffix(".md")) as path:
            path.write_text(text, encoding="utf-8")

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            content = read_json(path)
            if content["machine"] == self.machine:
                parts = content["parts"].items()
                self.parts = {name: Part.from_json(part) for name, part in parts if name in self.order}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not what a bench keeps ({error!r}): move it away, and start again") from error

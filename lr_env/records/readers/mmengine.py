"""Read the scalars.json of MMEngine and the .log.json of MMCV: JSON lines whose validation rows have a clock of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.json_lines import JSONRows, keys_of, parse_line
from lr_env.records.readers.lines import head_lines
from lr_env.records.readers.rows import Rows, flattened

_CLOCKS = ("step", "iter", "epoch")


class MMEngine:
    """Reads rows of training, which count iterations, and rows of validation, of which many count epochs.

    A row of validation belongs to the last row of training before it: its own clock is left out, unless it is ahead of
    that, as where MMEngine counts iterations in both.
    """

    name = "mmengine"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether the first rows are MMEngine's or MMCV's; see `Reader`."""
        lines = [line for line in head_lines(head)[:20] if line.strip()]
        if not lines or (len(lines) > 1 and parse_line(lines[0]) is None):
            return False
        names = [keys_of(line) for line in lines if line.startswith("{")]
        return any(
            "lr" in row and "time" in row and ({"data_time", "step"} <= row or {"mode", "iter", "epoch"} <= row)
            for row in names
        )

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the run in a file; see `Reader`."""
        lines, rows = JSONRows(path), Rows()
        last: dict[str, float] = {}
        for row in lines:
            if _is_validation(row):
                items = [
                    (_validation_name(name), value)
                    for name, value in flattened(row)
                    if name not in _CLOCKS or (name == "step" and _ahead(value, last.get("step")))
                ]
            else:
                items = list(flattened(row))
                last |= {name: value for name, value in items if name in _CLOCKS and type(value) in (int, float)}
            rows.add(items)
        if not len(rows):
            raise UnreadableError("no line of it is a whole JSON object" if lines.unreadable else "it is empty")
        yield from rows.runs(self.name, path, notes=lines.notes())


def _is_validation(row: dict[str, Any]) -> bool:
    if "mode" in row:
        return row["mode"] != "train"
    return not {"lr", "base_lr", "grad_norm"} & row.keys()


def _validation_name(name: str) -> str:
    """Name a number of a row of validation so that it is not taken for one of training: MMCV calls both "loss"."""
    return f"val/{name}" if name.startswith(("loss", "decode.loss", "acc")) else name


def _ahead(step: Any, last: float | None) -> bool:
    return type(step) in (int, float) and (last is None or step > last)

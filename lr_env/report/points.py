"""Curves of runs as one long table: a row for each run and step, written to Parquet, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lr_env.files import atomic_write

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps, and the values at them."""


@dataclass(frozen=True, eq=False)
class Points:
    """The curves of a run.

    Attributes:
        facts: what is the same in all of its rows, e.g. {"run": "cosine 3"}.
        curves: name of a signal -> steps and values.
    """

    facts: Mapping[str, Any]
    curves: Mapping[str, Curve]

    def columns(self, signals: Sequence[str]) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """The steps at which anything was measured, and the signals at them, with NaN where one was not."""
        steps = np.unique(np.concatenate([at for at, _ in self.curves.values()] or [np.zeros(0)]))
        columns = []
        for signal in signals:
            column = np.full(len(steps), np.nan)
            if signal in self.curves:
                at, values = self.curves[signal]
                column[np.searchsorted(steps, at)] = values
            columns.append(column)
        return steps, columns


def write_points(path: Path, runs: Sequence[Points]) -> int:
    """Write the curves of runs to a file, whose suffix says the format: .parquet, .csv or .jsonl.

    Args:
        path: the file, which is replaced as a whole or not at all.
        runs: with the same facts each.

    Returns:
        How many rows were written.
    """
    facts = list(runs[0].facts)
    signals = list(dict.fromkeys(signal for run in runs for signal in run.curves))
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json_lines}[path.suffix.lower()]
    with atomic_write(path) as temporary:
        return write(temporary, runs, facts, signals)


def _rows(runs: Sequence[Points], signals: Sequence[str]) -> Iterator[tuple[Points, float | int, list[float | None]]]:
    """Each run, step and the values there; None where a signal was not measured."""
    for run in runs:
        steps, columns = run.columns(signals)
        for step, *values in zip(steps.tolist(), *(column.tolist() for column in columns), strict=True):
            whole = int(step) if step == int(step) else step
            yield run, whole, [value if value == value else None for value in values]


def _write_csv(path: Path, runs: Sequence[Points], facts: Sequence[str], signals: Sequence[str]) -> int:
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*facts, "step", *signals])
        for run, step, values in _rows(runs, signals):
            writer.writerow([*(run.facts[name] for name in facts), step, *values])
            count += 1
    return count


def _write_json_lines(path: Path, runs: Sequence[Points], facts: Sequence[str], signals: Sequence[str]) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for run, step, values in _rows(runs, signals):
            measured = {name: value for name, value in zip(signals, values, strict=True) if value is not None}
            file.write(json.dumps({**{name: run.facts[name] for name in facts}, "step": step, **measured}) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, runs: Sequence[Points], facts: Sequence[str], signals: Sequence[str]) -> int:
    schema = pa.schema(
        [
            *(pa.field(name, pa.array([runs[0].facts[name]]).type) for name in facts),
            pa.field("step", pa.float64()),
            *(pa.field(signal, pa.float64()) for signal in signals),
        ]
    )
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for run in runs:
            steps, columns = run.columns(signals)
            plain = [pa.array([run.facts[name]] * len(steps), schema.field(name).type) for name in facts]
            numbers = [pa.array(column, pa.float64(), from_pandas=True) for column in columns]
            writer.write_table(pa.Table.from_arrays([*plain, pa.array(steps, pa.float64()), *numbers], schema=schema))
            count += len(steps)
    return count

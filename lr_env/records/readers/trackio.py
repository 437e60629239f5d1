"""Reads Trackio's projects: a SQLite database each, and the Parquet files that it exports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.formats import sqlite
from lr_env.records.readers.formats.points import Points, flat, number, parse_json
from lr_env.records.readers.formats.refusals import refusing
from lr_env.words import counted

_TABLES = {"metrics": {"run_name", "step", "metrics", "timestamp"}}
_PARQUET = b"PAR1"
_ABOUT = ("id", "run_id", "timestamp", "run_name", "step", "log_id", "space_id")
"""Columns of an exported file that are no metrics."""

_NEEDED = {"run_name", "timestamp", "step"}
_ROWS = 65_536
_LARGEST = 2**32
"""Bytes of the largest part of an exported file, as its footer says."""


class Trackio:
    """Reads a project's database, or the file of its metrics that was exported where there is no database.

    The clock is Trackio's own step, which counts calls of `log` unless these say otherwise.
    """

    name = "trackio"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether it is a database with Trackio's tables, or an exported file."""
        if head.startswith(_PARQUET):
            columns = set(_parquet_columns(path))
            return columns >= _NEEDED and not columns & {"messages", "spans"}
        return sqlite.has_tables(path, head, _TABLES)

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs of a project."""
        with refusing(path):
            with open(path, "rb") as file:
                exported = file.read(4) == _PARQUET
            yield from self._of_export(path) if exported else self._of_database(path)

    def _of_database(self, path: Path) -> Iterator[LoggedRun]:
        runs = _Runs()
        with sqlite.opened(path) as database:
            if not database.columns("metrics"):
                raise UnreadableError("a SQLite database without Trackio's tables")
            columns = ("run_id", "run_name", "timestamp", "step", "metrics")
            for run_id, run_name, timestamp, step, metrics in database.rows("metrics", columns):
                try:
                    row = parse_json(metrics)
                except ValueError:
                    row = None
                runs.take(run_id, run_name, timestamp, step, row)
            for run_id, run_name, config in database.rows("configs", ("run_id", "run_name", "config")):
                try:
                    runs.configure(run_id, run_name, parse_json(config))
                except ValueError:
                    runs.damaged += 1
            notes = database.notes
        yield from self._all(path, runs, notes)

    def _of_export(self, path: Path) -> Iterator[LoggedRun]:
        if path.with_suffix(".db").exists():
            raise UnreadableError(f"an export: the same runs are in {path.with_suffix('.db').name}")
        runs = _Runs()
        for row in _parquet_rows(path):
            about = [row.pop(name, None) for name in _ABOUT]
            metrics = row.pop("metrics", None) if isinstance(row.get("metrics"), str | bytes) else None
            if metrics is not None:
                try:
                    row = parse_json(metrics)
                except ValueError:
                    row = None
            runs.take(about[1], about[3], about[2], about[4], row)
        configs = path.with_name(f"{path.stem}_configs.parquet")
        if not configs.exists():
            configs = path.parent / "aux" / "configs.parquet"
        if configs.exists():
            try:
                for row in _parquet_rows(configs):
                    about = {name: row.pop(name, None) for name in ("id", "run_id", "run_name", "created_at")}
                    runs.configure(about["run_id"], about["run_name"], row)
            except UnreadableError:
                runs.damaged += 1
        yield from self._all(path, runs, [])

    def _all(self, path: Path, runs: _Runs, notes: list[str]) -> Iterator[LoggedRun]:
        """Give the runs that were collected."""
        if runs.damaged:
            notes = [*notes, f"{counted(runs.damaged, 'row')} could not be read"]
        if not runs.points:
            raise UnreadableError("; ".join(["a project of Trackio without runs", *notes]))
        for run, points in runs.points.items():
            yield LoggedRun(
                self.name,
                path,
                # Before Trackio 0.24 a run has no id but its name, which is one within the project.
                run[0] or f"{path}/{run[1]}",
                points.series(),
                clock="trackio step",
                config=runs.config.get(run, {}),
                began=runs.began[run],
                notes=tuple(notes),
            )


class _Runs:
    """The runs of a project, by id and name."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, str], Points] = {}
        self.config: dict[tuple[str, str], dict[str, Any]] = {}
        self.began: dict[tuple[str, str], float] = {}
        self.damaged = 0

    def take(self, run_id: Any, run_name: Any, timestamp: Any, step: Any, row: Any) -> None:
        """Take a row of metrics."""
        at = number(step)
        if not isinstance(run_name, str) or at is None or not isinstance(row, dict):
            self.damaged += 1
            return
        run = _key(run_id, run_name)
        points = self.points.get(run)
        if points is None:
            points = self.points[run] = Points()
            self.began[run] = _seconds(timestamp)
        for name, value in row.items():
            if type(value) is float:  # as most are
                clock, values = points.column(name)
                clock.append(at)
                values.append(value)
            else:
                for inner, converted in _numbers(name, value):
                    points.add(inner, at, converted)

    def configure(self, run_id: Any, run_name: Any, config: Any) -> None:
        """Take the config of a run; what Trackio adds of itself begins with an underscore."""
        if isinstance(run_name, str) and isinstance(config, dict):
            plain = {name: value for name, value in flat(config).items() if not name.startswith("_")}
            self.config[_key(run_id, run_name)] = plain


def _numbers(name: str, value: Any) -> Iterable[tuple[str, float]]:
    """Give the numbers that were logged under a name; those of an image or the like are none."""
    values = flat({name: value}) if isinstance(value, dict) and "_type" not in value else {name: value}
    for inner, each in values.items():
        converted = number(each)
        if converted is not None:
            yield inner, converted


def _key(run_id: Any, run_name: str) -> tuple[str, str]:
    return (run_id, run_name) if isinstance(run_id, str) else ("", run_name)


def _seconds(timestamp: Any) -> float:
    """Return a time as seconds since 1970; NaN where it has no zone, so that it might be any."""
    try:
        time = datetime.fromisoformat(timestamp)
        return time.timestamp() if time.tzinfo else time.replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _parquet_columns(path: Path) -> list[str]:
    """Return the columns of a Parquet file; none if it is damaged."""
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except _damage():
        return []


def _damage() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises at a damaged file."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a Parquet file, without the columns that are empty in them.

    Raises:
        UnreadableError: it is damaged.
    """
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            # What a footer says of single columns is not looked at: pyarrow 26 ends the process where that is damaged.
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
            if max(sizes, default=0) > _LARGEST:
                raise UnreadableError("a damaged Parquet file: it says that it is larger than any log")
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
    except UnreadableError:
        raise
    except _damage() as error:
        raise UnreadableError(f"a damaged Parquet file ({str(error)[:200]})") from error

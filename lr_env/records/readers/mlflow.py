"""Reads MLflow's stores: the SQLite database, and the folder of a run in the file store."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.formats import sqlite
from lr_env.records.readers.formats.points import Points, number, typed
from lr_env.records.readers.formats.refusals import refusing
from lr_env.words import counted

_META = "meta.yaml"
_TABLES = {"metrics": {"run_uuid", "key", "value", "step"}, "runs": {"run_uuid", "lifecycle_stage"}}

_NOTES = {"RUNNING": "still running, or ended without a word", "FAILED": "failed", "KILLED": "killed"}
_STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}

_LARGEST = 1.7976931348623157e308
"""What a database has in place of infinity."""


class MLflow:
    """Reads a SQLite database of runs, or the folder `mlruns/EXPERIMENT/RUN` of one. Deleted runs are left out."""

    name = "mlflow"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether it is a database with MLflow's tables, or the folder of a run."""
        if head or not path.is_dir():
            return sqlite.has_tables(path, head, _TABLES)
        meta = _meta(path)
        return bool(meta) and "model_id" not in meta and (path / "metrics").is_dir()

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the run of a folder, or the runs of a database."""
        with refusing(path):
            if path.is_dir():
                yield self._of_folder(path)
            else:
                yield from self._of_database(path)

    def _of_folder(self, folder: Path) -> LoggedRun:
        """Return the run of a folder of the file store."""
        meta = _meta(folder)
        if not meta or not (folder / "metrics").is_dir():
            raise UnreadableError("not the folder of a run: it needs meta.yaml and metrics/")
        if ".trash" in folder.parts or "deleted" in (
            meta.get("lifecycle_stage"),
            _meta(folder.parent).get("lifecycle_stage"),
        ):
            raise UnreadableError("deleted in MLflow")
        points, damaged, cut = Points(), 0, 0
        for file in _files(folder / "metrics"):
            bad, unfinished = _add_lines(points, _name(file, folder / "metrics"), file)
            damaged += bad
            cut += unfinished
        config = {_name(file, folder / "params"): typed(_content(file)) for file in _files(folder / "params")}
        notes = [_NOTES.get(_STATUS.get(meta.get("status", ""), meta.get("status", "")), "")]
        if cut:
            notes.append(f"the last line of {counted(cut, 'metric')} is cut off")
        if damaged:
            notes.append(f"{counted(damaged, 'line')} could not be read")
        return LoggedRun(
            self.name,
            folder,
            meta.get("run_id") or meta.get("run_uuid") or folder.name,
            points.series(),
            clock="step",
            config=config,
            began=_seconds(meta.get("start_time")),
            notes=tuple(note for note in notes if note),
        )

    def _of_database(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs of a database, in the order in which they began."""
        with sqlite.opened(path) as database:
            if not database.columns("metrics") or not database.columns("runs"):
                raise UnreadableError("a SQLite database without MLflow's tables")
            runs: dict[Any, dict[str, Any]] = {}
            deleted = {
                experiment
                for experiment, stage in database.rows("experiments", ("experiment_id", "lifecycle_stage"))
                if stage == "deleted"
            }
            columns = ("run_uuid", "start_time", "status", "lifecycle_stage", "experiment_id")
            left_out = 0
            for run, start, status, stage, experiment in database.rows("runs", columns):
                if stage == "deleted" or experiment in deleted:
                    left_out += 1
                elif isinstance(run, str):
                    runs[run] = {"start": start, "status": status, "points": Points(), "config": {}}
            for run, key, value in database.rows("params", ("run_uuid", "key", "value")):
                if run in runs and isinstance(value, str):
                    runs[run]["config"][str(key)] = typed(value)
            damaged = _add_rows(runs, database)
            notes = [*database.notes, *([f"{counted(damaged, 'row')} could not be read"] if damaged else [])]
        if not runs:
            why = f"{counted(left_out, 'run')}, all deleted" if left_out else "no runs"
            raise UnreadableError(f"a database of MLflow with {why}{''.join(f', {note}' for note in notes)}")
        for run, its in runs.items():
            status = _NOTES.get(str(its["status"]), "")
            yield LoggedRun(
                self.name,
                path,
                run,
                its["points"].series(),
                clock="step",
                config=its["config"],
                began=_seconds(its["start"]),
                notes=(*([status] if status else []), *notes),
            )


def _add_rows(runs: dict[Any, dict[str, Any]], database: sqlite.Database) -> int:
    """Add all metrics of a database to their runs; return how many could not be read."""
    damaged = 0
    columns: dict[tuple[Any, Any], Any] = {}
    for run, key, value, step, is_nan in database.rows("metrics", ("run_uuid", "key", "value", "step", "is_nan")):
        column = columns.get((run, key))
        if column is None:
            if run not in runs:
                continue
            column = columns[run, key] = runs[run]["points"].column(str(key))
        value = math.nan if is_nan else number(value)
        at = number(step)
        if value is None or at is None:
            damaged += 1
            continue
        if abs(value) == _LARGEST:
            value = math.copysign(math.inf, value)
        column[0].append(at)
        column[1].append(value)
    return damaged


def _add_lines(points: Points, name: str, file: Path) -> tuple[int, bool]:
    """Add the lines "timestamp value step" of a metric; return how many are bad, and whether the last is cut off."""
    clock, values = points.column(name)
    damaged, whole = 0, True
    with open(file, "rb") as lines:
        while line := lines.readline(1 << 16):
            whole = line.endswith(b"\n")
            words = line.split()
            if not words or not whole:  # the end of a line that is being written may be missing
                continue
            try:
                at = int(words[2]) if len(words) > 2 else 0
                value = float(words[1])
                clock.append(at)
            except (ValueError, IndexError, OverflowError):
                damaged += 1
                continue
            values.append(value)
    return damaged, not whole


def _files(folder: Path) -> Iterator[Path]:
    """Give all files in a folder and those below it, by name."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _name(file: Path, folder: Path) -> str:
    """Return the name of a metric or parameter: a slash in it is a folder."""
    return file.relative_to(folder).as_posix().encode("utf-8", "replace").decode()


def _content(file: Path) -> str:
    """Return the text of a small file."""
    with open(file, "rb") as opened:
        return opened.read(1 << 16).decode("utf-8", "replace").strip()


def _meta(folder: Path) -> dict[str, str]:
    """Return the values at the top of a folder's meta.yaml; empty if there is none."""
    try:
        text = _content(folder / _META)
    except OSError:
        return {}
    result = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == key:
            result[key] = value.strip().strip("'\"")
    return result


def _seconds(milliseconds: Any) -> float:
    """Return a time as seconds; NaN if there is none."""
    try:
        return float(milliseconds) / 1000
    except (TypeError, ValueError):
        return math.nan

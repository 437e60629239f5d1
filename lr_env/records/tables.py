"""Write runs to a Parquet file, read them back, and write the manifest of a report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lr_env.errors import UserError
from lr_env.files import OPEN_SEAL, DamagedError, holds_seal, is_sealed, read_json, sha256_of, write_json, write_sealed
from lr_env.records.record import FLATNESS_SCORES, PRUNED, SPLIT_SCORES, RunRecord, run_key, settings_key
from lr_env.signals import ALWAYS
from lr_env.tasks import Task
from lr_env.words import first_line

MANIFEST = "manifest.json"

_BESIDE = ("runs.parquet", "summary.csv")
"""Files that are read together with a manifest."""

_TOLD = "lr_env"
"""Key of the task in the metadata of a Parquet file."""

_CURVE = "curve_"

PROVENANCE: Mapping[str, pa.DataType] = {
    "commit": pa.string(),
    "device": pa.string(),
    "threads": pa.int64(),
    PRUNED: pa.int64(),
}
"""Columns that tell where a run was finished, and, in files with such runs, whether it was pruned. Files without seals,
which are older, do not have them."""


def runs_table(records: Sequence[RunRecord]) -> pa.Table:
    """Make a table with one row a run; scores and curves that were not measured, and unknown provenance, are null."""

    def place(run: RunRecord) -> int:
        return 0 if run.phase.startswith("tune") else 1 if run.phase == "final" else 2

    runs = sorted(records, key=lambda run: (place(run), *run_key(run), run.phase))
    columns: dict[str, pa.Array] = {
        "phase": pa.array([r.phase for r in runs], pa.string()),
        "planner": pa.array([r.planner for r in runs], pa.string()),
        "settings": pa.array([settings_key(r.settings) for r in runs], pa.string()),
        "seed": pa.array([int(r.seed) for r in runs], pa.int64()),
        "status": pa.array([r.status for r in runs], pa.string()),
        "diverged": pa.array([bool(r.diverged) for r in runs], pa.bool_()),
        "steps": pa.array([int(r.steps) for r in runs], pa.int64()),
        "extra_steps": pa.array([int(r.extra_steps) for r in runs], pa.int64()),
    }
    further = [name for name in FLATNESS_SCORES if any(name in r.scores for r in runs)]
    for name in (*SPLIT_SCORES, *further):
        columns[name] = pa.array([r.scores.get(name) for r in runs], pa.float64(), from_pandas=True)  # NaN is null
    columns["planning_seconds"] = pa.array([float(r.planning_seconds) for r in runs], pa.float64())
    for name, kind in PROVENANCE.items():
        if name == PRUNED and not any(run.pruned for run in runs):
            continue
        columns[name] = pa.array([r.provenance.get(name) for r in runs], kind)
    recorded = (name for run in runs for name in run.curves)
    for name in dict.fromkeys((*ALWAYS, *recorded)):
        curves = [np.asarray(r.curves[name], np.float64).tolist() if name in r.curves else None for r in runs]
        columns[f"{_CURVE}{name}"] = pa.array(curves, pa.list_(pa.float64()))
    return pa.table(columns)


def write_runs(records: Sequence[RunRecord], file: Path, task: Mapping[str, Any]) -> None:
    """Write `runs_table` as sealed Parquet, with the task as `Task.settings` tells it; empty where it is not known."""
    out = io.BytesIO()
    pq.write_table(runs_table(records).replace_schema_metadata({_TOLD: json.dumps(_what(task))}), out)
    write_sealed(file, with_seal(out.getvalue()))


def with_seal(parquet: bytes) -> bytes:
    """Add a place for a seal to the content of a Parquet file: before its footer, where readers do not look."""
    footer = len(parquet) - 8 - int.from_bytes(parquet[-8:-4], "little")
    return parquet[:footer] + OPEN_SEAL.encode() + parquet[footer:]


def check_task(path: Path, task: Task) -> None:
    """Check that the runs in a file are of a task, if the file tells its task.

    Raises:
        UserError: they are of another task, budget or optimizer.
    """
    saved = task_of_runs(path)
    with _refusing(path):
        for name, value in _what(task.settings()).items():
            if saved.get(name, value) != value:
                raise UserError(f"the runs in {str(path)!r} are of {name} {saved[name]}, not {value}: give that one")


def task_of_runs(path: Path) -> dict[str, Any]:
    """Name, optimizer and budget of the task of the runs in a file; empty where it does not tell.

    Raises:
        UserError: the file is not there or is damaged.
    """
    with _refusing(path):
        metadata = (pq.read_schema(_content(path)).metadata or {}).get(_TOLD.encode())
        saved = json.loads(metadata) if metadata else {}
        if not isinstance(saved, dict):
            raise ValueError("what it tells of its task is no object")
        return saved


def read_runs(path: Path, curves: Sequence[str] | None = None) -> list[RunRecord]:
    """Read the runs of a table that `runs_table` made.

    Args:
        path: a Parquet file.
        curves: names of the signals to read, which the file must have; by default all that it has.

    Raises:
        UserError: the file is not there, is damaged or lacks a column.
    """
    plain = ("phase", "planner", "settings", "seed", "status", "diverged", "steps", "extra_steps", "planning_seconds")
    with _refusing(path):
        content = _content(path)
        columns = pq.read_schema(content).names
        if curves is None:
            curves = [name.removeprefix(_CURVE) for name in columns if name.startswith(_CURVE)]
        scores = [name for name in (*SPLIT_SCORES, *FLATNESS_SCORES) if name in columns]
        provenance = [name for name in PROVENANCE if name in columns]
        needed = [*plain, *(f"{_CURVE}{name}" for name in curves)]
        if missing := [name for name in needed if columns.count(name) != 1]:
            raise ValueError(f"it has no column {missing[0]}")
        rows = pq.read_table(content, columns=[*needed, *scores, *provenance]).to_pylist()
        records = [
            RunRecord(
                **{name: row[name] for name in plain if name != "settings"},
                settings=json.loads(row["settings"]),
                scores={name: row[name] for name in scores if row[name] is not None},
                curves={name: _curve(row[f"{_CURVE}{name}"]) for name in curves if row[f"{_CURVE}{name}"] is not None},
                provenance={name: row[name] for name in provenance if row[name] is not None},
            )
            for row in rows
        ]
        for record in records:
            record.check()
        return records


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json, sealed and with hashes of the files that are read together with it: once these are there."""
    hashes = {name: sha256_of(folder / name) for name in _BESIDE if (folder / name).is_file()}
    write_json(folder / MANIFEST, {**manifest, "files": hashes})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what `write_manifest` wrote, without the hashes, or an older manifest, which has none.

    Raises:
        ValueError: it is damaged, or a file beside it is not the one that was written with it.
        OSError: a file cannot be read.
    """
    manifest = read_json(folder / MANIFEST)
    for name, sha256 in manifest.pop("files", {}).items():
        if sha256_of(folder / name) != sha256:
            raise DamagedError(f"{name} is not what was written")
    return manifest


def seal_older(folder: Path) -> None:
    """Seal the files of an older comparison or fit, which have no seals; their content stays as it is.

    Of a comparison only the manifest is sealed, which holds the hashes of the other files.
    """
    runs = folder / "runs.parquet"
    if (folder / MANIFEST).is_file():
        write_manifest(folder, read_manifest(folder))
    elif not is_sealed(runs):
        write_sealed(runs, with_seal(runs.read_bytes()))


def _content(path: Path) -> pa.BufferReader:
    """Read a Parquet file and check its seal.

    Raises:
        ValueError: it is not what was written.
    """
    data = path.read_bytes()
    if not holds_seal(data):
        if not PROVENANCE.keys().isdisjoint(pq.read_schema(pa.BufferReader(data)).names):
            raise DamagedError("its seal is damaged")
        beside = path.with_name(MANIFEST)
        hashes = read_json(beside).get("files", {}) if beside.is_file() else {}
        if hashes.get(path.name, sha256_of(path)) != sha256_of(path):
            raise DamagedError(f"it is not what was written with {MANIFEST}")
    return pa.BufferReader(data)


def _curve(values: Any) -> np.ndarray:
    """Convert the values of a curve to an array.

    Raises:
        ValueError: they are not numbers.
    """
    if not isinstance(values, list) or not all(type(value) in (float, int) for value in values):
        raise ValueError("a curve holds something else than numbers")
    return np.array(values, dtype=np.float64)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """A context that turns errors in a file of runs into a line that names the fix."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            f"there is no file {str(path)!r}: give runs.parquet of a comparison or a fit, or make that again"
        ) from None
    except (pa.ArrowException, OSError, TypeError, ValueError, LookupError, MemoryError, RecursionError) as error:
        why = first_line(error)
        raise UserError(
            f"{str(path)!r} is damaged or no table of runs ({why}): make the comparison or the fit again"
        ) from None


def _what(task: Mapping[str, Any]) -> dict[str, Any]:
    """Name, optimizer and budget of a task, from its settings; empty where these are."""
    return {"task": task["name"], "optimizer": task["optimizer"]["class"], "budget": task["budget"]} if task else {}

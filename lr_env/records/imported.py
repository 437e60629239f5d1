"""Imported runs in the tables of a record store; see `Store`, which gives the connection and the transactions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.records.readers.base import Floats, ImportedRun, Series
from lr_env.records.seals import seal_of_curves, seal_of_text

_LARGEST_STEP = 2**53
"""Steps are kept as floats, which hold whole numbers up to this."""


def names(db: sqlite3.Connection) -> list[str]:
    """The names of all imports, in alphabetical order."""
    return [name for (name,) in db.execute("SELECT name FROM imports ORDER BY name")]


def exists(db: sqlite3.Connection, name: str) -> bool:
    """Whether there is an import of that name."""
    return db.execute("SELECT 1 FROM imports WHERE name = ?", (name,)).fetchone() is not None


def write(db: sqlite3.Connection, name: str, runs: Sequence[ImportedRun], spec: Mapping[str, Any]) -> None:
    """Write runs behind those that the import has, and seal it.

    Args:
        db: in a transaction.
        name: of the import, which is begun where there is none.
        runs: with run_ids that the import does not have yet.
        spec: what the import was made with, JSON-able; it replaces what there is.

    Raises:
        UserError: a run is not as `ImportedRun` says.
    """
    for run in runs:
        check(run)
    spec_json = json.dumps(dict(spec), sort_keys=True)
    db.execute(
        "INSERT INTO imports VALUES (?, ?, '') ON CONFLICT (name) DO UPDATE SET spec = ?", (name, *[spec_json] * 2)
    )
    (place,) = db.execute("SELECT COUNT(*) FROM imported_runs WHERE import = ?", (name,)).fetchone()
    for run in runs:
        config = json.dumps(dict(run.config), sort_keys=True)
        row = run.run_id, run.source, config, run.steps, int(run.diverged)
        cursor = db.execute(
            "INSERT INTO imported_runs (import, place, run_id, source, config, steps, diverged, seal) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (name, place, *row, _seal(row, run.curves)),
        )
        db.executemany(
            "INSERT INTO imported_curves VALUES (?, ?, ?, ?)",
            [(cursor.lastrowid, signal, _blob(curve.at), _blob(curve.values)) for signal, curve in run.curves.items()],
        )
        place += 1
    db.execute("UPDATE imports SET seal = ? WHERE name = ?", (_seal_of_import(db, name, spec_json), name))


def sort(db: sqlite3.Connection, name: str, run_ids: Sequence[str]) -> None:
    """Put the runs of an import in the order of their run_ids, of which it has all and no others; in a transaction."""
    rows = [(place, name, run_id) for place, run_id in enumerate(run_ids)]
    db.executemany("UPDATE imported_runs SET place = ? WHERE import = ? AND run_id = ?", rows)
    (spec_json,) = db.execute("SELECT spec FROM imports WHERE name = ?", (name,)).fetchone()
    db.execute("UPDATE imports SET seal = ? WHERE name = ?", (_seal_of_import(db, name, spec_json), name))


def read(db: sqlite3.Connection, name: str) -> list[ImportedRun]:
    """The runs of an import, in the order in which they were written.

    Raises:
        ValueError: they are not what was written.
    """
    spec_json, seal = db.execute("SELECT spec, seal FROM imports WHERE name = ?", (name,)).fetchone()
    if _seal_of_import(db, name, spec_json) != seal:
        raise ValueError("its list of runs is not what was written")
    runs = []
    query = (
        "SELECT id, run_id, source, config, steps, diverged, seal FROM imported_runs WHERE import = ? ORDER BY place"
    )
    for number, *row, seal in db.execute(query, (name,)).fetchall():
        curves = {
            signal: Series(_floats(at), _floats(values))
            for signal, at, values in db.execute(
                "SELECT signal, at, value FROM imported_curves WHERE run = ? ORDER BY signal <> 'lr', signal", (number,)
            )
        }
        if _seal(row, curves) != seal:
            raise ValueError(f"the run {str(row[0])[:40]!r} is not what was written")
        run_id, source, config, steps, diverged = row
        runs.append(ImportedRun(run_id, source, curves, json.loads(config), steps, bool(diverged)))
    return runs


def spec_of(db: sqlite3.Connection, name: str) -> dict[str, Any]:
    """What an import was made with.

    Raises:
        ValueError: it is not what was written.
    """
    spec_json, seal = db.execute("SELECT spec, seal FROM imports WHERE name = ?", (name,)).fetchone()
    if _seal_of_import(db, name, spec_json) != seal:
        raise ValueError("it is not what was written")
    return json.loads(spec_json)


def delete(db: sqlite3.Connection, name: str) -> None:
    """Delete an import and its runs."""
    db.execute("DELETE FROM imported_curves WHERE run IN (SELECT id FROM imported_runs WHERE import = ?)", (name,))
    db.execute("DELETE FROM imported_runs WHERE import = ?", (name,))
    db.execute("DELETE FROM imports WHERE name = ?", (name,))


def check(run: ImportedRun) -> None:
    """See that a run is as `ImportedRun` says.

    Raises:
        UserError: naming what is wrong.
    """
    wrong = ""
    if "lr" not in run.curves:
        wrong = "has no curve 'lr'"
    elif not 0 < run.steps < _LARGEST_STEP:
        wrong = f"has {run.steps} steps"
    for signal, curve in run.curves.items():
        if len(curve.at) != len(curve.values) or not len(curve.at):
            wrong = f"has {len(curve.at)} steps and {len(curve.values)} values of {signal!r}"
        elif not (np.isfinite(curve.at).all() and np.isfinite(curve.values).all()):
            wrong = f"has values of {signal!r} that are not finite"
        elif not (np.diff(curve.at) > 0).all() or curve.at[0] < 0 or curve.at[-1] > run.steps:
            wrong = f"has steps of {signal!r} that do not rise from 0 up to {run.steps}"
    if wrong:
        raise UserError(f"the run {run.run_id!r} {wrong}: it cannot be stored, see lr_env.records.readers.base")


def _blob(values: Floats) -> bytes:
    return np.ascontiguousarray(values, dtype="<f8").tobytes()


def _floats(blob: Any) -> Floats:
    """The numbers of a blob.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(blob, bytes):
        raise ValueError("a curve holds something else than numbers")
    return np.frombuffer(blob, dtype="<f8").astype(np.float64)


def _seal(row: Iterable[Any], curves: Mapping[str, Series]) -> str:
    """SHA-256 of a run."""
    at_and_values = (
        {signal: one.at for signal, one in curves.items()},
        {signal: one.values for signal, one in curves.items()},
    )
    return seal_of_text(json.dumps([*row, seal_of_curves(at_and_values)]))


def _seal_of_import(db: sqlite3.Connection, name: str, spec: Any) -> str:
    """SHA-256 of an import: what it was made with, and the seals of its runs."""
    seals = db.execute("SELECT place, seal FROM imported_runs WHERE import = ? ORDER BY place", (name,)).fetchall()
    return seal_of_text(json.dumps([spec, seals]))

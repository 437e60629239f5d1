"""Make, update and check the tables of a record store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lr_env.errors import UserError
from lr_env.records.record import SPLIT_SCORES
from lr_env.signals import ALWAYS

VERSION = 4
"""Of the tables. Version 1 had no seals, version 2 no `further_signals`, version 3 no imported runs."""

_TABLES = f"""
CREATE TABLE experiments (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL      -- JSON: everything that its results depend on
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    experiment TEXT NOT NULL REFERENCES experiments(name),
    phase TEXT NOT NULL,    -- 'tune' or 'final'
    planner TEXT NOT NULL,
    settings TEXT NOT NULL, -- JSON, keys sorted
    seed INTEGER NOT NULL,
    status TEXT NOT NULL,   -- 'running' or 'finished'
    diverged INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    extra_steps INTEGER NOT NULL DEFAULT 0,
    planning_seconds REAL NOT NULL DEFAULT 0,
    {", ".join(f"{name} REAL" for name in SPLIT_SCORES)},
    UNIQUE (experiment, phase, planner, settings, seed)
);
CREATE TABLE segments (     -- the signals of every run, a column each
    run INTEGER NOT NULL REFERENCES runs(id),
    segment INTEGER NOT NULL,
    {", ".join(f"{name} REAL" for name in ALWAYS)},
    PRIMARY KEY (run, segment)
) WITHOUT ROWID;
"""

# What only some runs have, by name: another score or signal needs no new version.
_BY_NAME = """
CREATE TABLE IF NOT EXISTS scores (
    run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS further_signals (
    run INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    name TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (run, segment, name),
    FOREIGN KEY (run, segment) REFERENCES segments(run, segment) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS provenance (
    run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run_seals (
    run INTEGER PRIMARY KEY REFERENCES runs(id) ON DELETE CASCADE,
    record TEXT NOT NULL,   -- SHA-256 of what the other tables but those of signals have of a finished run
    curves TEXT NOT NULL    -- SHA-256 of its signals
);
CREATE TABLE IF NOT EXISTS experiment_seals (
    experiment TEXT PRIMARY KEY REFERENCES experiments(name) ON DELETE CASCADE,
    spec TEXT NOT NULL      -- SHA-256
);
"""

# Runs that other software trained and logged: they have no task, planner or seed.
_IMPORTED = """
CREATE TABLE IF NOT EXISTS imports (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,     -- JSON: what the runs were imported from, and how
    seal TEXT NOT NULL      -- SHA-256 of the spec, and of the seals of its runs
);
CREATE TABLE IF NOT EXISTS imported_runs (
    id INTEGER PRIMARY KEY,
    import TEXT NOT NULL REFERENCES imports(name),
    place INTEGER NOT NULL, -- among the runs of the import
    run_id TEXT NOT NULL,
    source TEXT NOT NULL,
    config TEXT NOT NULL,   -- JSON
    steps INTEGER NOT NULL,
    diverged INTEGER NOT NULL,
    seal TEXT NOT NULL,     -- SHA-256 of the run and its curves
    UNIQUE (import, run_id)
);
CREATE TABLE IF NOT EXISTS imported_curves (
    run INTEGER NOT NULL REFERENCES imported_runs(id),
    signal TEXT NOT NULL,
    at BLOB NOT NULL,       -- optimizer steps, 8-byte floats, little-endian
    value BLOB NOT NULL,    -- as many
    PRIMARY KEY (run, signal)
) WITHOUT ROWID;
"""

_CHECKED_BYTES = 2**30
"""Stores up to this size are checked as a whole when they are opened, at some 8 ms a MB."""


def prepare(db: sqlite3.Connection, path: Path) -> bool:
    """Make the tables in a transaction, or check that they are those of a record store and add newer ones.

    Returns:
        Whether the runs in the store have no seals yet.

    Raises:
        UserError: the file was made by a newer version, or is a database of something else.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
        _execute(db, _TABLES)
    elif version > VERSION:
        raise UserError(
            f"the record store {str(path)!r} is of version {version}, this lr_env knows up to {VERSION}: update "
            "lr_env, or choose another with --store"
        )
    elif version < 1 or not {"experiments", "runs", "segments"} <= tables:
        raise UserError(f"{str(path)!r} is a database, but not a record store: choose another file with --store")
    _execute(db, _BY_NAME)
    _execute(db, _IMPORTED)
    if version != VERSION:
        db.execute(f"PRAGMA user_version = {VERSION}")
    return version == 1


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Check that the tables are those of this version, where they cannot be changed.

    Raises:
        UserError: they are not.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"experiments", "runs", "segments"} <= tables:
        raise UserError(f"{str(path)!r} is a database, but not a record store: choose another file with --store")
    if version != VERSION:
        fix = "update lr_env" if version > VERSION else "lr-env runs brings it up to date"
        raise UserError(f"the record store {str(path)!r} is of version {version}, not {VERSION}: {fix}")


def check_whole(db: sqlite3.Connection, path: Path) -> None:
    """Check that the pages of a store are consistent.

    Raises:
        sqlite3.DatabaseError: they are not.
    """
    if path.is_file() and path.stat().st_size <= _CHECKED_BYTES:
        (result,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError("malformed")


def signal_columns(db: sqlite3.Connection) -> list[str]:
    """Names of the signals that have columns of `segments`: those of every run, and others in some older stores."""
    return [row[1] for row in db.execute("PRAGMA table_info(segments)") if row[1] not in ("run", "segment")]


def quoted(name: str) -> str:
    """Quote the name of a column for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _execute(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)

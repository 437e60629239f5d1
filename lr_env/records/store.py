"""The record store: runs and their segments in SQLite, written as the runs go."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.records.record import FLATNESS_SCORES, SIGNALS, SPLIT_SCORES, RunRecord

SCHEMA_VERSION = 1

_SCHEMA = f"""
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
CREATE TABLE segments (
    run INTEGER NOT NULL REFERENCES runs(id),
    segment INTEGER NOT NULL,
    {", ".join(f"{name} REAL" for name in SIGNALS)},
    PRIMARY KEY (run, segment)
) WITHOUT ROWID;
"""

# Scores that only some runs have, by name: another one needs no new version. Made in stores of before on opening.
_FURTHER_SCORES = """
CREATE TABLE IF NOT EXISTS scores (
    run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID
"""

RunKey = tuple[str, str, str, int]
"""(phase, planner, settings as JSON, seed): names a run within an experiment."""


def settings_json(settings: Mapping[str, Any]) -> str:
    """A planner's settings as the store writes them: equal settings give equal text."""
    return json.dumps(dict(settings), sort_keys=True)


@contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into lines that name the fix."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a mistake of ours, not of the file's
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            why, fix = "cannot be written", "choose a folder you may write to with --store"
        elif "full" in text:
            why, fix = "cannot grow: the disk is full", "free some space and run the same command again"
        elif "locked" in text:
            why, fix = "is locked by another process", "wait for it, or choose another with --store"
        elif "not a database" in text or "malformed" in text:
            why, fix = "is damaged or not a record store", "move it away, or choose another with --store"
        elif "disk I/O" in text:
            why, fix = "could not be read or written (disk I/O error)", "check the disk and its free space"
        else:
            why, fix = f"cannot be used ({text})", "move it away, or choose another with --store"
        raise UserError(f"the record store {str(path)!r} {why}: {fix}") from error


class Store:
    """A record store file; made where there is none. Several processes may use one at a time.

    Raises:
        UserError: the file cannot be opened or written, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {str(self.path.parent)!r} ({error.strerror}): "
                "choose one you may write to with --store"
            ) from error
        with _told_plainly(self.path):
            # Long waits: another process may be writing its segments.
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()
            self._use_wal()

    def _prepare(self) -> None:
        with self.transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if version == 0 and not tables:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version > SCHEMA_VERSION:
                raise UserError(
                    f"the record store {str(self.path)!r} is of version {version}, this lr_env knows up to "
                    f"{SCHEMA_VERSION}: update lr_env, or choose another with --store"
                )
            elif version != SCHEMA_VERSION or not {"experiments", "runs", "segments"} <= tables:
                raise UserError(
                    f"{str(self.path)!r} is a database, but not a record store: choose another file with --store"
                )
            self._db.execute(_FURTHER_SCORES)

    def _use_wal(self) -> None:
        """Change the journal's mode; SQLite does not wait for other processes here, so that we do."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen, or none."""
        with _told_plainly(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def experiment(self, name: str) -> dict[str, Any] | None:
        """What was noted when an experiment was begun; None if there is none of that name."""
        with _told_plainly(self.path):
            row = self._db.execute("SELECT spec FROM experiments WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def begin_experiment(self, name: str, spec: Mapping[str, Any]) -> None:
        """Note an experiment before its runs."""
        with self.transaction():
            self._db.execute("INSERT INTO experiments VALUES (?, ?)", (name, json.dumps(dict(spec), sort_keys=True)))

    def change_experiment(self, name: str, spec: Mapping[str, Any]) -> None:
        """Note something else of an experiment that was begun."""
        with self.transaction():
            spec_json = json.dumps(dict(spec), sort_keys=True)
            self._db.execute("UPDATE experiments SET spec = ? WHERE name = ?", (spec_json, name))

    def delete_experiment(self, name: str) -> None:
        """Forget an experiment and its runs."""
        with self.transaction():
            self._db.execute("DELETE FROM segments WHERE run IN (SELECT id FROM runs WHERE experiment = ?)", (name,))
            self._db.execute("DELETE FROM runs WHERE experiment = ?", (name,))
            self._db.execute("DELETE FROM experiments WHERE name = ?", (name,))

    def begin_runs(self, experiment: str, keys: Iterable[RunKey]) -> list[int]:
        """Make runs, or find them where they were begun before; returns their ids."""
        ids = []
        with self.transaction():
            for key in keys:
                self._db.execute(
                    "INSERT OR IGNORE INTO runs (experiment, phase, planner, settings, seed, status) "
                    "VALUES (?, ?, ?, ?, ?, 'running')",
                    (experiment, *key),
                )
                ids += self._db.execute(
                    "SELECT id FROM runs "
                    "WHERE experiment = ? AND phase = ? AND planner = ? AND settings = ? AND seed = ?",
                    (experiment, *key),
                ).fetchone()
        return ids

    def rewind(self, runs: Sequence[int], segments: int) -> None:
        """Forget what was written after the first `segments` segments of runs: it will be trained again."""
        with self.transaction():
            self._db.executemany(
                "DELETE FROM segments WHERE run = ? AND segment >= ?", [(run, segments) for run in runs]
            )

    def count_segments(self, runs: Sequence[int], segments: int) -> int:
        """How many of the first `segments` segments of runs are written, all runs together."""
        with _told_plainly(self.path):
            return sum(
                self._db.execute(
                    "SELECT COUNT(*) FROM segments WHERE run = ? AND segment < ?", (run, segments)
                ).fetchone()[0]
                for run in runs
            )

    def write_segment(self, segment: int, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Write one segment of several runs: (run, signals)."""
        marks = ", ".join("?" * len(SIGNALS))
        with self.transaction():
            self._db.executemany(
                f"INSERT OR REPLACE INTO segments (run, segment, {', '.join(SIGNALS)}) VALUES (?, ?, {marks})",
                [(run, segment, *(signals.get(name) for name in SIGNALS)) for run, signals in rows],
            )

    def finish_runs(self, rows: Iterable[tuple[int, RunRecord]]) -> None:
        """Write how runs ended."""
        rows = list(rows)
        scores = ", ".join(f"{name} = ?" for name in SPLIT_SCORES)
        further = [(run, name, r.scores[name]) for run, r in rows for name in FLATNESS_SCORES if name in r.scores]
        with self.transaction():
            self._db.executemany(
                "UPDATE runs SET status = 'finished', diverged = ?, steps = ?, extra_steps = ?, planning_seconds = ?, "
                f"{scores} WHERE id = ?",
                [
                    (
                        record.diverged,
                        record.steps,
                        record.extra_steps,
                        record.planning_seconds,
                        *(record.scores.get(name) for name in SPLIT_SCORES),
                        run,
                    )
                    for run, record in rows
                ],
            )
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", further)

    def finished(self, experiment: str) -> set[RunKey]:
        """The runs of an experiment that are finished."""
        with _told_plainly(self.path):
            return set(
                self._db.execute(
                    "SELECT phase, planner, settings, seed FROM runs WHERE experiment = ? AND status = 'finished'",
                    (experiment,),
                )
            )

    def runs(self, experiment: str, phase: str | None = None, *, curves: bool = False) -> list[RunRecord]:
        """The runs of an experiment, in the order of phase, planner, settings and seed."""
        columns = "id, phase, planner, settings, seed, status, diverged, steps, extra_steps, planning_seconds"
        which = "experiment = ? AND (phase = ? OR ? IS NULL)"
        wanted = experiment, phase, phase
        with _told_plainly(self.path):
            found = self._db.execute(
                f"SELECT {columns}, {', '.join(SPLIT_SCORES)} FROM runs WHERE {which} "
                "ORDER BY phase, planner, settings, seed",
                wanted,
            ).fetchall()
            further: dict[int, dict[str, float | None]] = {}
            for run, name, value in self._db.execute(
                f"SELECT run, name, value FROM scores JOIN runs ON run = id WHERE {which}", wanted
            ):
                further.setdefault(run, {})[name] = value

            def taken(row: Sequence[Any]) -> Iterator[tuple[str, float | None]]:
                return itertools.chain(zip(SPLIT_SCORES, row[10:], strict=True), further.get(row[0], {}).items())

            return [
                RunRecord(
                    phase=row[1],
                    planner=row[2],
                    settings=json.loads(row[3]),
                    seed=row[4],
                    status=row[5],
                    diverged=bool(row[6]),
                    steps=row[7],
                    extra_steps=row[8],
                    planning_seconds=row[9],
                    scores={name: value for name, value in taken(row) if value is not None},
                    curves=self._curves(row[0]) if curves else {},
                )
                for row in found
            ]

    def _curves(self, run: int) -> dict[str, np.ndarray]:
        rows = self._db.execute(
            f"SELECT {', '.join(SIGNALS)} FROM segments WHERE run = ? ORDER BY segment", (run,)
        ).fetchall()
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(SIGNALS))
        return {name: table[:, column] for column, name in enumerate(SIGNALS)}

"""The record store: runs and their segments in SQLite, written while the runs are trained."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from lr_env.errors import UserError
from lr_env.records import imported, schema
from lr_env.records.readers.base import ImportedRun
from lr_env.records.record import FINISHED, SPLIT_SCORES, RunKey, RunRecord, run_key, settings_key
from lr_env.records.refusals import check_place, told_plainly
from lr_env.records.seals import seal_of_curves, seal_of_record, seal_of_text

SCHEMA_VERSION = schema.VERSION

_KEY = ("phase", "planner", "settings", "seed")
_COLUMNS = (*_KEY, "status", "diverged", "steps", "extra_steps", "planning_seconds")

StoredKey = tuple[str, *RunKey]
"""The key of a run within an experiment: its phase and its `run_key`."""


class Store:
    """A record store file, which is made if it does not exist. Several processes may use it at the same time.

    Raises:
        UserError: the file cannot be opened or written, is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        check_place(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {str(self.path.parent)!r} ({error.strerror}): "
                "choose one you may write to with --store"
            ) from error
        with told_plainly(self.path):
            # Long waits: another process may be writing its segments.
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def reading(cls, path: Path | str) -> Self:
        """Open a store that is there to read alone: nothing in it changes, and no process that writes has to wait.

        Raises:
            UserError: there is no such file, it cannot be read, or it was made by another version.
        """
        store = cls.__new__(cls)
        store.path = Path(path)
        if not store.path.exists():
            raise UserError(f"there is no record store {str(path)!r}: give one with --store")
        check_place(store.path)
        with told_plainly(store.path):
            place = f"{store.path.absolute().as_uri()}?mode=ro"
            # Threads of a server take turns.
            store._db = sqlite3.connect(place, timeout=60, isolation_level=None, uri=True, check_same_thread=False)
            try:
                schema.check_version(store._db, store.path)
            except BaseException:
                store._db.close()
                raise
        return store

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """All that is read inside is of one moment, whatever other processes write meanwhile."""
        with told_plainly(self.path):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @property
    def version(self) -> int:
        """A number that changes when another process has changed the file."""
        with told_plainly(self.path):
            return self._db.execute("PRAGMA data_version").fetchone()[0]

    def _open(self) -> None:
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        schema.check_whole(self._db, self.path)
        with self.transaction():
            if schema.prepare(self._db, self.path):
                self._seal_all()
        self._use_wal()

    def _use_wal(self) -> None:
        """Change the journal's mode; SQLite does not wait for other processes here, so this does."""
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
        with told_plainly(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # where the disk is full SQLite has rolled back already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def experiment(self, name: str) -> dict[str, Any] | None:
        """The spec of an experiment; None if there is none of that name.

        Raises:
            UserError: it is not what was written.
        """
        with told_plainly(self.path):
            row = self._db.execute(
                "SELECT experiments.spec, experiment_seals.spec FROM experiments "
                "LEFT JOIN experiment_seals ON experiment = name WHERE name = ?",
                (name,),
            ).fetchone()
        if row is None:
            return None
        with self._refusing(name):
            spec, seal = row
            if not isinstance(spec, str) or seal_of_text(spec) != seal:
                raise ValueError("its spec is not what was written")
            experiment = json.loads(spec)
            if not isinstance(experiment, dict):
                raise ValueError("its spec is no object")
        return experiment

    def experiments(self) -> list[str]:
        """The names of all experiments, in alphabetical order."""
        with told_plainly(self.path):
            return [name for (name,) in self._db.execute("SELECT name FROM experiments ORDER BY name")]

    def begin_experiment(self, name: str, spec: Mapping[str, Any]) -> None:
        """Write the spec of an experiment, before its runs.

        Raises:
            UserError: imported runs have that name.
        """
        with self.transaction():
            if imported.exists(self._db, name):
                raise UserError(
                    f"{name!r} is the name of imported runs in the record store {str(self.path)!r}: choose another "
                    "--name"
                )
            if self._db.execute("SELECT 1 FROM runs WHERE experiment = ?", (name,)).fetchone():
                raise self._damaged(name, "it has runs, but no spec")
            self._db.execute("INSERT INTO experiments VALUES (?, ?)", (name, json.dumps(dict(spec), sort_keys=True)))
            self._seal_experiment(name)

    def change_experiment(self, name: str, spec: Mapping[str, Any]) -> None:
        """Replace the spec of an experiment."""
        with self.transaction():
            spec_json = json.dumps(dict(spec), sort_keys=True)
            self._db.execute("UPDATE experiments SET spec = ? WHERE name = ?", (spec_json, name))
            self._seal_experiment(name)

    def delete_experiment(self, name: str) -> None:
        """Delete an experiment and its runs."""
        with self.transaction():
            self._db.execute("DELETE FROM segments WHERE run IN (SELECT id FROM runs WHERE experiment = ?)", (name,))
            self._db.execute("DELETE FROM runs WHERE experiment = ?", (name,))
            self._db.execute("DELETE FROM experiments WHERE name = ?", (name,))

    def imports(self) -> list[str]:
        """The names of all imports, in alphabetical order."""
        with told_plainly(self.path):
            return imported.names(self._db)

    def write_imported(
        self,
        name: str,
        runs: Sequence[ImportedRun],
        spec: Mapping[str, Any] | None = None,
        *,
        add: bool = False,
        fresh: bool = False,
    ) -> None:
        """Write imported runs, all or none.

        Args:
            name: of the import.
            runs: their run_ids differ from each other and, with `add`, from those that are there.
            spec: what they were imported from, and how; JSON-able.
            add: write them behind those that are there under that name.
            fresh: delete those that are there under that name.

        Raises:
            UserError: there are runs of that name, and neither is set; or a run is not as `ImportedRun` says.
        """
        with self.transaction():
            self._check_no_experiment(name)
            if fresh:
                imported.delete(self._db, name)
            if not add:
                self.check_new_import(name)
            imported.write(self._db, name, runs, spec or {})

    def check_new_import(self, name: str) -> None:
        """See that runs can be imported under a name.

        Raises:
            UserError: it is taken.
        """
        self._check_no_experiment(name)
        with told_plainly(self.path):
            if imported.exists(self._db, name):
                raise UserError(
                    f"there are imported runs {name!r} in the record store {str(self.path)!r}: add to them with --add, "
                    "replace them with --fresh, or choose another --name"
                )

    def _check_no_experiment(self, name: str) -> None:
        with told_plainly(self.path):
            if self._db.execute("SELECT 1 FROM experiments WHERE name = ?", (name,)).fetchone():
                raise UserError(
                    f"{name!r} is the name of an experiment in the record store {str(self.path)!r}: choose another "
                    "--name"
                )

    def imported(self, name: str) -> list[ImportedRun]:
        """The imported runs of that name, in the order in which they were written.

        Raises:
            UserError: there are none, or they are not what was written.
        """
        with told_plainly(self.path), self._refusing_import(name):
            return imported.read(self._db, name)

    def sort_imported(self, name: str, first: Sequence[str]) -> None:
        """Put some imported runs of that name, by their run_ids, before the others.

        Raises:
            UserError: there are none, or they are not what was written.
        """
        now = [run.run_id for run in self.imported(name)]  # which checks them, before they are sealed anew
        order = [*first, *(run_id for run_id in now if run_id not in set(first))]
        if now != order:
            with self.transaction():
                imported.sort(self._db, name, order)

    def import_spec(self, name: str) -> dict[str, Any]:
        """What the imported runs of that name were imported from, and how.

        Raises:
            UserError: there are none, or it is not what was written.
        """
        with told_plainly(self.path), self._refusing_import(name):
            return imported.spec_of(self._db, name)

    def delete_imported(self, name: str) -> None:
        """Delete the imported runs of that name, if there are any."""
        with self.transaction():
            imported.delete(self._db, name)

    def begin_runs(self, experiment: str, keys: Iterable[StoredKey]) -> list[int]:
        """Insert runs that are not there yet; returns the ids of all of them."""
        ids = []
        with self.transaction():
            for key in keys:
                self._db.execute(
                    "INSERT OR IGNORE INTO runs (experiment, phase, planner, settings, seed, status) "
                    "VALUES (?, ?, ?, ?, ?, 'running')",
                    (experiment, *key),
                )
                row = self._db.execute(
                    "SELECT id FROM runs "
                    "WHERE experiment = ? AND phase = ? AND planner = ? AND settings = ? AND seed = ?",
                    (experiment, *key),
                ).fetchone()
                if row is None:
                    raise self._damaged(experiment, "a run that was begun cannot be found")
                ids += row
        return ids

    def rename_settings(self, experiment: str, current: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Write settings of planners under the names that they have now; an earlier version may have had others.

        Args:
            experiment: its name.
            current: gives the settings of a planner, of its name and the settings as they are stored.

        Raises:
            UserError: a run is not what was written.
        """
        now = {
            (run.planner, settings_key(run.settings)): settings_key(settings)
            for run in self.runs(experiment)
            if (settings := current(run.planner, run.settings)) != run.settings
        }
        if not now:
            return
        self.runs(experiment, curves=True)  # which sees that all is as it was written, before it is sealed anew
        with self.transaction():
            query = "SELECT id, planner, settings, status FROM runs WHERE experiment = ?"
            for run, planner, settings, status in self._db.execute(query, (experiment,)).fetchall():
                if (planner, settings) in now:
                    self._db.execute("UPDATE runs SET settings = ? WHERE id = ?", (now[planner, settings], run))
                    if status == FINISHED:
                        self._seal_run(run)

    def rewind(self, runs: Sequence[int], segments: int) -> None:
        """Delete all but the first `segments` segments of runs: the others will be trained again."""
        with self.transaction():
            self._db.executemany(
                "DELETE FROM segments WHERE run = ? AND segment >= ?", [(run, segments) for run in runs]
            )

    def count_segments(self, runs: Sequence[int], segments: int) -> int:
        """Count how many of the first `segments` segments are there, in all runs together."""
        with told_plainly(self.path):
            return sum(
                self._db.execute(
                    "SELECT COUNT(*) FROM segments WHERE run = ? AND segment < ?", (run, segments)
                ).fetchone()[0]
                for run in runs
            )

    def seal_segments(self, experiment: str, runs: Sequence[int], segments: int) -> str:
        """Hash the first `segments` segments of some runs of an experiment; a run may have fewer.

        Raises:
            UserError: a segment is damaged.
        """
        with told_plainly(self.path), self._refusing(experiment):
            names = schema.signal_columns(self._db)
            return seal_of_curves(self._curves(run, names, segments) for run in runs)

    def write_segment(self, segment: int, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Write one segment of several runs: (run id, name of a signal -> value)."""
        with self.transaction():
            rows, names = list(rows), schema.signal_columns(self._db)
            columns, marks = ["run", "segment", *map(schema.quoted, names)], ["?"] * (2 + len(names))
            self._db.executemany(
                f"INSERT OR REPLACE INTO segments ({', '.join(columns)}) VALUES ({', '.join(marks)})",
                [(run, segment, *map(signals.get, names)) for run, signals in rows],
            )
            further = [(run, segment, *one) for run, signals in rows for one in signals.items() if one[0] not in names]
            self._db.executemany("INSERT INTO further_signals VALUES (?, ?, ?, ?)", further)

    def finish_runs(self, rows: Iterable[tuple[int, RunRecord]]) -> None:
        """Write the scores of runs that ended: (run id, record)."""
        rows = list(rows)
        scores = ", ".join(f"{name} = ?" for name in SPLIT_SCORES)
        further = [(run, *score) for run, r in rows for score in r.scores.items() if score[0] not in SPLIT_SCORES]
        provenance = [(run, *entry) for run, record in rows for entry in record.provenance.items()]
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
            self._db.executemany("INSERT OR REPLACE INTO provenance VALUES (?, ?, ?)", provenance)
            for run, _ in rows:
                self._seal_run(run)

    def finished(self, experiment: str) -> set[StoredKey]:
        """The keys of the finished runs of an experiment.

        Raises:
            UserError: see `runs`.
        """
        return {(run.phase, *run_key(run)) for run in self.runs(experiment) if run.status == FINISHED}

    def phases(self, experiment: str) -> list[str]:
        """The phases of the runs of an experiment, in the order of their names."""
        with told_plainly(self.path):
            rows = self._db.execute(
                "SELECT DISTINCT phase FROM runs WHERE experiment = ? ORDER BY phase", (experiment,)
            ).fetchall()
        return [phase for (phase,) in rows]

    def runs(self, experiment: str, phase: str | None = None, *, curves: bool = False) -> list[RunRecord]:
        """The runs of an experiment, in the order of phase, planner, settings and seed.

        Raises:
            UserError: a finished run is not what was written, or a value is invalid.
        """
        which, values = "runs.experiment = ? AND (phase = ? OR ? IS NULL)", (experiment, phase, phase)
        with told_plainly(self.path):
            rows = self._db.execute(
                f"SELECT id, {self._selected}, run_seals.record, run_seals.curves FROM runs "
                f"LEFT JOIN run_seals ON run = id WHERE {which} ORDER BY {', '.join(_KEY)}",
                values,
            ).fetchall()
            scores, provenance = (self._by_name(table, which, values) for table in ("scores", "provenance"))
            records, keys, names = [], set(), schema.signal_columns(self._db)
            with self._refusing(experiment):
                for run, *row, record_seal, curves_seal in rows:
                    by_name = scores.get(run, {}), provenance.get(run, {})
                    signals = self._curves(run, names) if curves else {}
                    record = _record(row, *by_name, signals)
                    whole = not curves or seal_of_curves([signals]) == curves_seal
                    if record.status == FINISHED and not (whole and seal_of_record(row, *by_name) == record_seal):
                        raise ValueError(f"the run of {record.planner!r} on seed {record.seed} is not what was written")
                    keys.add(tuple(row[1:5]))
                    records.append(record)
                if len(keys) < len(records):
                    raise ValueError("a run is there twice")
        return records

    @property
    def _selected(self) -> str:
        """The columns that are read of a run: its experiment, `_COLUMNS` and the scores."""
        return ", ".join(f"runs.{name}" for name in ("experiment", *_COLUMNS, *SPLIT_SCORES))

    def _by_name(self, table: str, which: str, parameters: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """Read a table of names and values for some runs, run id -> name -> value, without NULLs."""
        by_run: dict[int, dict[str, Any]] = {}
        query = f"SELECT run, name, value FROM {table} JOIN runs ON run = id WHERE {which} AND value IS NOT NULL"
        for run, name, value in self._db.execute(query, parameters):
            by_run.setdefault(run, {})[name] = value
        return by_run

    def _curves(self, run: int, names: Sequence[str], segments: int = 2**62) -> dict[str, np.ndarray]:
        """Signals of a run, or of its first segments; NaN where one was not measured. One that never was is left out.

        Args:
            run: its id.
            names: of the columns of `segments`.
            segments: how many to read at most.

        Raises:
            ValueError: a segment is missing, or holds something else than numbers.
        """
        columns = ", ".join(map(schema.quoted, names))
        rows = self._db.execute(
            f"SELECT segment, {columns} FROM segments WHERE run = ? AND segment < ? ORDER BY segment", (run, segments)
        ).fetchall()
        if [row[0] for row in rows] != list(range(len(rows))):
            raise ValueError("a segment of a run is missing")
        further = self._db.execute(
            "SELECT name, segment, value FROM further_signals WHERE run = ? AND segment < ?", (run, segments)
        ).fetchall()
        values = [value for row in (*rows, *(row[1:] for row in further)) for value in row]
        if not all(type(value) in (float, int, type(None)) for value in values):
            raise ValueError("a segment of a run holds something else than numbers")
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(names))
        curves = {name: table[:, column] for column, name in enumerate(names, 1)}
        for name, segment, value in further:
            if not 0 <= segment < len(rows):
                raise ValueError("a segment of a run is missing")
            curves.setdefault(name, np.full(len(rows), np.nan))[segment] = np.nan if value is None else value
        return {name: curve for name, curve in curves.items() if not len(rows) or not np.isnan(curve).all()}

    def _seal_run(self, run: int) -> None:
        """Write the hashes of a run that is in the tables."""
        which = "runs.id = ?"
        row = self._db.execute(f"SELECT {self._selected} FROM runs WHERE {which}", (run,)).fetchone()
        by_name = (self._by_name(table, which, (run,)).get(run, {}) for table in ("scores", "provenance"))
        seals = seal_of_record(row, *by_name), seal_of_curves([self._curves(run, schema.signal_columns(self._db))])
        self._db.execute("INSERT OR REPLACE INTO run_seals VALUES (?, ?, ?)", (run, *seals))

    def _seal_experiment(self, name: str) -> None:
        (spec,) = self._db.execute("SELECT spec FROM experiments WHERE name = ?", (name,)).fetchone()
        self._db.execute("INSERT OR REPLACE INTO experiment_seals VALUES (?, ?)", (name, seal_of_text(spec)))

    def _seal_all(self) -> None:
        """Seal all that an earlier version wrote."""
        for run, experiment in self._db.execute(
            "SELECT id, experiment FROM runs WHERE status = ?", (FINISHED,)
        ).fetchall():
            with self._refusing(experiment):
                self._seal_run(run)
        for (name,) in self._db.execute("SELECT name FROM experiments").fetchall():
            with self._refusing(name):
                self._seal_experiment(name)

    @contextmanager
    def _refusing_import(self, name: str) -> Iterator[None]:
        """A context that turns errors in the data of an import into a line that names the fix."""
        if not imported.exists(self._db, name):
            there = ", ".join(imported.names(self._db)) or "none"
            raise UserError(
                f"there are no imported runs {name!r} in the record store {str(self.path)!r} (there are: {there}): "
                "import some with lr-env import"
            )
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"the imported runs {name!r} in the record store {str(self.path)!r} are damaged ({error}): import them "
                "again with --fresh"
            ) from error

    @contextmanager
    def _refusing(self, experiment: str) -> Iterator[None]:
        """A context that turns errors in the data of an experiment into a line that names the fix."""
        try:
            yield
        except UserError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(experiment, str(error)) from error

    def _damaged(self, experiment: str, why: str) -> UserError:
        return UserError(
            f"experiment {experiment!r} in the record store {str(self.path)!r} is damaged ({why}): start it over with "
            "--fresh, or choose another --name or --store"
        )


def _record(
    row: Sequence[Any], scores: Mapping[str, Any], provenance: Mapping[str, Any], curves: Mapping[str, np.ndarray]
) -> RunRecord:
    """Make a record of a row of the tables.

    Raises:
        ValueError: a value is invalid.
    """
    phase, planner, settings, seed, status, diverged, steps, extra_steps, planning_seconds, *split_scores = row[1:]
    if diverged not in (0, 1):
        raise ValueError(f"diverged of a run is {str(diverged)[:40]!r}")
    split = {name: value for name, value in zip(SPLIT_SCORES, split_scores, strict=True) if value is not None}
    record = RunRecord(
        phase=phase,
        planner=planner,
        settings=json.loads(settings),
        seed=seed,
        status=status,
        diverged=bool(diverged),
        steps=steps,
        extra_steps=extra_steps,
        planning_seconds=planning_seconds,
        scores=split | dict(scores),
        curves=curves,
        provenance=dict(provenance),
    )
    record.check()
    return record

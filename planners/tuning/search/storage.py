"""The trials of a search in a file that Optuna and its tools read: a copy of what the record store has."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.words import first_line
from planners.tuning.tuners import import_optuna

_SQLITE = b"SQLite format 3\0"
_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_JOURNAL = b'{"op_code":'
"""Beginning of each line of Optuna's journal."""

_URL = re.compile(r"[A-Za-z0-9+]{2,}:/.*")
"""URLs of databases, which `Path` writes with one slash."""


def default_path(store: Path, name: str) -> Path:
    """Return the file of trials of a search, beside the record store."""
    return store.with_name(f"{store.name}.{name}.optuna.log")


class TrialStorage:
    """A file of Optuna's trials, SQLite or a journal.

    Each trial is written at once, when its run is finished. What a killed process did not write is written later.

    Args:
        path: of the file, which is made if it does not exist; other studies in it stay as they are.
        name: of the study.
        fresh: delete what the study has.

    Raises:
        UserError: the file is not of Optuna, or it cannot be read or written.
    """

    def __init__(self, path: Path, name: str, *, fresh: bool = False) -> None:
        self.path, self.name = path, name
        self._optuna = import_optuna("lr-env search")
        if _URL.fullmatch(str(path)):
            raise UserError(f"storage {str(path)!r} is a URL: give the name of a file, such as trials.db")
        if path.is_dir():
            raise UserError(f"storage {str(path)!r} is a folder: give the name of a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage = self._open()
            if fresh and name in [summary.study_name for summary in self._optuna.get_all_study_summaries(storage)]:
                self._optuna.delete_study(study_name=name, storage=storage)
            self._study = self._optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            self._check(self._study.get_trials(deepcopy=False))
        except UserError:
            raise
        except Exception as error:  # of files, JSON, SQLAlchemy and Optuna
            why = first_line(error)
            raise UserError(
                f"the trials in {str(path)!r} cannot be read or written ({why}): move the file away, it is written "
                "anew, or choose another with --storage"
            ) from error

    def write(self, trials: Sequence[Any], records: Sequence[RunRecord]) -> None:
        """Write the trials that the file does not have.

        Args:
            trials: all finished trials, in order.
            records: their runs, with curves.

        Raises:
            UserError: the file has other trials.
        """
        there = self._study.get_trials(deepcopy=False)
        for number, (trial, record) in enumerate(zip(trials, records, strict=True)):
            if number >= len(there):
                self._study.add_trial(self._copy(trial, record))
            elif (there[number].params, there[number].values) != (trial.params, trial.values):
                raise UserError(
                    f"trial {number} of {self.name!r} in {str(self.path)!r} is of another search: choose another file "
                    "with --storage, or move that away"
                )

    def _open(self) -> Any:
        """Return Optuna's storage. A file of other software stays as it is.

        Raises:
            UserError: the file is of other software.
        """
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        head = b""
        if self.path.exists():
            with open(self.path, "rb") as file:
                head = file.read(len(_SQLITE))
        if head == _SQLITE or (not head and self.path.suffix.lower() in _SUFFIXES):
            if head and not _is_optunas(self.path):
                raise self._of_other_software()
            return self._optuna.storages.RDBStorage(f"sqlite:///{self.path.absolute()}")
        if head:
            if not (head.startswith(_JOURNAL) or _JOURNAL.startswith(head)):
                raise self._of_other_software()
            _cut_off_unfinished_line(self.path)
        return JournalStorage(JournalFileBackend(str(self.path)))

    def _of_other_software(self) -> UserError:
        return UserError(f"storage {str(self.path)!r} is a file of other software, not of Optuna: give another name")

    def _copy(self, trial: Any, record: RunRecord) -> Any:
        """Return a finished trial with the curve of its validation loss, and where its run is."""
        steps, losses = record.curves["step"], record.curves["val_loss"]
        return self._optuna.trial.create_trial(
            state=trial.state,
            params=trial.params,
            distributions=trial.distributions,
            values=trial.values,
            intermediate_values={
                int(step): float(loss) for step, loss in zip(steps, losses, strict=True) if np.isfinite(loss)
            },
            user_attrs={"experiment": self.name, "seed": record.seed, "diverged": record.diverged},
        )

    def _check(self, trials: Sequence[Any]) -> None:
        """Check that all trials are finished.

        Raises:
            UserError: one is not: other software asked for it.
        """
        if any(not trial.state.is_finished() for trial in trials):
            raise UserError(
                f"{str(self.path)!r} has trials of {self.name!r} that other software asked for: choose another file "
                "with --storage, or move that away"
            )


def _is_optunas(path: Path) -> bool:
    """Whether a SQLite database is one of Optuna, or has no tables yet."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return not tables or {"studies", "trials"} <= tables


def _cut_off_unfinished_line(path: Path) -> None:
    """Cut off a last line without its end, which a killed process was writing: nothing could be read after it."""
    with open(path, "rb+") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)

"""Imported runs in the record store: they come back as they were written, or are refused; older stores take them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.readers.base import ImportedRun, Series
from lr_env.records.store import Store
from tests.damage import REFUSED, SAME, Kind, outcomes, plain
from tests.fixtures import make


def imported(run_id: str, points: int = 5, scale: float = 1.0) -> ImportedRun:
    at = np.arange(points) * 10.0
    curves = {"lr": Series(at, scale / (1 + at)), "val_loss": Series(at[::2], 1 + scale * at[::2])}
    return ImportedRun(
        run_id, f"logs/{run_id}", curves, {"seed": 3, "name": "ä", "none": None}, int(at[-1]), points == 5
    )


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "records.sqlite")) as store:
        yield store


def told(runs):
    """Runs as text that compares."""
    return [plain(run) for run in runs]


def test_runs_come_back_as_they_were_written(store):
    runs = [imported("b"), imported("a", 7, 0.3)]
    store.write_imported("mine", runs, {"sources": ["logs"]})
    assert told(store.imported("mine")) == told(runs)
    assert list(store.imported("mine")[0].curves) == ["lr", "val_loss"]
    assert store.import_spec("mine") == {"sources": ["logs"]}
    with closing(Store(store.path)) as again:
        assert told(again.imported("mine")) == told(runs)
    assert store.imports() == ["mine"]


def test_runs_are_added_or_replaced_where_that_is_asked_for(store):
    first, second = [imported("a")], [imported("b")]
    store.write_imported("mine", first)
    with pytest.raises(UserError, match=r"--add.*--fresh.*--name"):
        store.write_imported("mine", second)
    store.write_imported("mine", second, add=True)
    assert told(store.imported("mine")) == told(first + second)
    store.write_imported("mine", second, fresh=True)
    assert told(store.imported("mine")) == told(second)
    store.delete_imported("mine")
    assert store.imports() == []
    with pytest.raises(UserError, match="lr-env import"):
        store.imported("mine")


def test_all_runs_are_written_or_none(store):
    with pytest.raises(sqlite3.IntegrityError):
        store.write_imported("mine", [imported("a"), imported("a")])
    assert store.imports() == []


def test_experiments_and_imports_share_no_name(store):
    store.begin_experiment("e", {})
    store.write_imported("i", [imported("a")])
    with pytest.raises(UserError, match="name of an experiment"):
        store.write_imported("e", [imported("a")], fresh=True)
    with pytest.raises(UserError, match="name of imported runs"):
        store.begin_experiment("i", {})
    assert (store.experiments(), store.imports()) == (["e"], ["i"])


@pytest.mark.parametrize(
    ("curves", "why"),
    [
        ({"val_loss": Series(np.array([1.0]), np.array([1.0]))}, "no curve 'lr'"),
        ({"lr": Series(np.array([1.0, 1.0]), np.array([1.0, 1.0]))}, "do not rise"),
        ({"lr": Series(np.array([1.0, 99.0]), np.array([1.0, 1.0]))}, "up to 40"),
        ({"lr": Series(np.array([1.0]), np.array([np.nan]))}, "not finite"),
        ({"lr": Series(np.array([1.0]), np.array([1.0, 2.0]))}, "1 steps and 2 values"),
    ],
)
def test_runs_that_are_none_are_refused(store, curves, why):
    with pytest.raises(UserError, match=why):
        store.write_imported("mine", [replace(imported("a"), curves=curves)])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE imported_runs SET steps = steps + 1",
        "UPDATE imported_runs SET diverged = 1 - diverged",
        "UPDATE imports SET spec = '{}'",
        "DELETE FROM imported_runs WHERE place = 0",
        "DELETE FROM imported_curves WHERE signal = 'lr'",
        "UPDATE imported_curves SET value = at",
        "UPDATE imported_curves SET value = 'text'",
        "UPDATE imported_curves SET value = X'00'",
        "UPDATE imported_curves SET signal = 'loss' WHERE signal = 'lr'",
        "UPDATE imported_runs SET run_id = NULL || place",
    ],
)
def test_damaged_rows_are_refused(store, damage):
    store.write_imported("mine", [imported("a"), imported("b")], {"sources": []})
    try:
        store._db.execute("PRAGMA foreign_keys = OFF")
        store._db.execute(damage)
    except sqlite3.IntegrityError:
        return
    with pytest.raises(UserError, match=r"imported runs 'mine' .* damaged"):
        store.imported("mine")


def test_damaged_files_are_read_as_they_were_or_refused(tmp_path):
    def written(folder):
        with closing(Store(folder / "records.sqlite")) as store:
            store.write_imported("mine", [imported("a"), imported("b", 400, 0.1)])
            store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def read(folder):
        with closing(Store(folder / "records.sqlite")) as store:
            return told(store.imported("mine"))

    written(tmp_path)
    counts, wrong = outcomes(Kind(written, "records.sqlite", read), tmp_path, 60)
    assert wrong == []
    assert counts[REFUSED] > 10
    assert counts[SAME] + counts[REFUSED] == sum(counts.values())


@pytest.mark.parametrize("version", ["unsealed", "sealed", "signals"])
def test_older_stores_take_imported_runs(version, tmp_path):
    path = shutil.copy(Path(make.__file__).parent / version / "records.sqlite", tmp_path)
    with closing(Store(path)) as store:
        before = told(store.runs(make.FINISHED, curves=True))
        store.write_imported("mine", [imported("a")])
    with closing(Store(path)) as store:
        assert told(store.imported("mine")) == told([imported("a")])
        assert told(store.runs(make.FINISHED, curves=True)) == before

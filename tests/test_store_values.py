"""What a record store makes of values that make no sense, of signals that it does not know, and of places for it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_env.children import LOOP
from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.provenance import provenance
from lr_env.records import schema
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.store import Store
from lr_env.records.tables import read_runs, runs_table, write_runs
from lr_env.rollout import Rollout
from lr_env.signals import ALWAYS
from lr_env.studies.comparison.comparison import ComparisonPlan, tuning_steps
from lr_env.studies.comparison.summary import summarise
from lr_env.tasks import TASKS
from tests.fixtures import make
from tests.helpers import compared

FORMATS = [Path(make.__file__).parent / name for name in ("unsealed", "sealed")]
SPEC = "UPDATE experiments SET spec = "
DAMAGES = [
    *(SPEC + f"'{text}'" for text in ('{"a":', "[]", "{}", "null", "5", '"text"', '{"planners": 5}', "")),
    *(SPEC + f"json_remove(spec, '$.{key}')" for key in ("planners", "training", "versions", "task", "rates")),
    *(SPEC + f"json_set(spec, '$.{key}', {value})" for key in ("training", "added", "data") for value in ("5", "'x'")),
    SPEC + "json_set(spec, '$.training.lockstep', 3)",
    SPEC + "json_set(spec, '$.training.backend', 'none')",
    SPEC + "x'00ff'",
    *(
        f"UPDATE runs SET {change}"
        for change in (
            "final_val_loss = NULL",
            "final_val_loss = 'text'",
            "test_loss = NULL",
            "test_loss = x'00'",
            "steps = 'many'",
            "steps = -1",
            "extra_steps = 0.5",
            "planning_seconds = 'long'",
            "planning_seconds = -1",
            "diverged = 7",
            "diverged = 'no'",
            "status = 'done'",
            "seed = -seed - 1",
        )
    ),
    *(  # of one run of each experiment, for there may be but one of these
        f"UPDATE runs SET {change} WHERE id IN (SELECT MIN(id) FROM runs GROUP BY experiment)"
        for change in ("seed = 'first'", "settings = '{\"peak\":'", "settings = '[]'", "planner = x'ff00'")
    ),
    *(f"UPDATE segments SET {change}" for change in ("val_loss = 'text'", "lr = x'00'", "segment = segment + 10")),
    "DELETE FROM experiments",
    "DELETE FROM segments WHERE segment = 1",
]
HARMLESS = (
    "'$.training', 'x'",
    "lockstep",
    "'$.data'",
    "json_remove(spec, '$.training')",
    "json_remove(spec, '$.versions')",
)
"""In a store without seals these are measured anew, taken as unknown or believed."""


@pytest.fixture
def versions(monkeypatch):
    """Those of the fixtures."""
    with closing(sqlite3.connect(FORMATS[0] / "records.sqlite")) as db:
        (spec,) = db.execute("SELECT json_extract(spec, '$.versions') FROM experiments").fetchone()
    monkeypatch.setattr("lr_env.runs.spec.versions", lambda: json.loads(spec))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("fixture", FORMATS, ids=lambda path: path.name)
@pytest.mark.usefixtures("versions")
def test_values_that_make_no_sense_are_told_in_one_line(tmp_path, fixture, damage):
    file = tmp_path / "records.sqlite"
    shutil.copy(fixture / "records.sqlite", file)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(damage)
    messages = []
    for name in (make.FINISHED, make.STOPPED):
        try:
            with closing(Store(file)) as store:
                store.runs(name, curves=True)
                runs = compared(make.JOB, store, name, make.EXECUTION)
                summarise(runs.final, target_val_loss=None, tuning_steps=tuning_steps(runs.tuning, runs.chosen))
        except UserError as error:
            messages.append(str(error))
    if fixture.name == "sealed" or not any(part in damage for part in HARMLESS):
        assert messages
    assert not any("\n" in line for line in messages)
    assert all("--" in line or "run it again" in line for line in messages)


@pytest.mark.usefixtures("versions")
def test_an_experiment_with_bad_values_can_be_started_over_and_the_other_stays(tmp_path):
    file = tmp_path / "records.sqlite"
    shutil.copy(FORMATS[1] / "records.sqlite", file)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE runs SET test_loss = test_loss + 1 WHERE experiment = 'finished'")
        db.execute("UPDATE experiments SET spec = '[]' WHERE name = 'finished'")
    with closing(Store(file)) as store:
        with pytest.raises(UserError, match="start it over with --fresh"):
            compared(make.JOB, store, make.FINISHED, make.EXECUTION)
        assert len(compared(make.JOB, store, make.FINISHED, make.EXECUTION, fresh=True).final) == 4
        assert len(store.runs(make.STOPPED, "tune")) == 4


def small(path: Path) -> Store:
    """A store with a finished run of three segments."""
    store = Store(path)
    store.begin_experiment("e", {})
    ids = store.begin_runs("e", [("final", "cosine", settings_key({"peak": 0.1}), 3)])
    for segment in range(3):
        store.write_segment(segment, [(ids[0], dict.fromkeys(ALWAYS, segment + 0.5))])
    store.finish_runs([(ids[0], RunRecord("final", "cosine", {"peak": 0.1}, 3, scores={"test_loss": 0.5}))])
    return store


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET test_loss = 0.25",
        "UPDATE runs SET seed = 4",
        "UPDATE runs SET steps = 7",
        "UPDATE segments SET val_loss = 0.25 WHERE segment = 1",
        "UPDATE segments SET val_loss = NULL",
        "DELETE FROM segments WHERE segment = 2",
        "DELETE FROM segments",
        "DELETE FROM run_seals",
        "INSERT INTO scores VALUES (1, 'hessian_max', 5)",
        "INSERT INTO provenance VALUES (1, 'commit', 'abc')",
    ],
)
def test_a_run_that_is_not_what_was_written_is_refused(tmp_path, change):
    with closing(small(tmp_path / "s")) as store:
        store._db.execute(change)
        with pytest.raises(UserError, match=r"experiment 'e' .* is damaged \(.*--fresh"):
            store.runs("e", curves=True)


def test_an_experiment_that_is_not_what_was_written_is_refused(tmp_path):
    with closing(small(tmp_path / "s")) as store:
        store.change_experiment("e", {"lockstep": 4})
        assert store.experiment("e") == {"lockstep": 4}
        store._db.execute("UPDATE experiments SET spec = '{\"lockstep\": 5}'")
        with pytest.raises(UserError, match="its spec is not what was written"):
            store.experiment("e")
        store.delete_experiment("e")
        for table in ("runs", "segments", "scores", "provenance", "run_seals", "experiment_seals"):
            assert store._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
        store._db.execute("INSERT INTO experiments VALUES ('old', '{}')")
        with pytest.raises(UserError, match="its spec is not what was written"):
            store.experiment("old")


def test_signals_that_come_later_and_those_that_were_never_taken(tmp_path):
    """By name: a store of before takes a new one up, one of later is read, and what was not taken is absent."""
    file = tmp_path / "s"
    small(file).close()
    with closing(sqlite3.connect(file)) as db:
        assert schema.signal_columns(db) == list(ALWAYS)
    with closing(Store(file)) as store:
        ids = store.begin_runs("e", [("final", "linear", "{}", seed) for seed in (1, 2)])
        store.write_segment(0, [(ids[0], {"step": 1.0, "grad norm": 7.0}), (ids[1], {"step": 1.0, "lr": 0.5})])
        store.finish_runs([(run, RunRecord("final", "linear", {}, 1)) for run in ids])
    with closing(Store(file)) as store:
        curves = {(run.planner, run.seed): run.curves for run in store.runs("e", curves=True)}
    assert list(curves["cosine", 3]) == list(ALWAYS)
    assert {name: curve.tolist() for name, curve in curves["linear", 1].items()} == {"step": [1.0], "grad norm": [7.0]}
    assert list(curves["linear", 2]) == ["step", "lr"]


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("fixture", FORMATS, ids=lambda path: path.name)
def test_an_experiment_goes_on_with_a_signal_that_is_new(tmp_path, fixture, monkeypatch):
    for file in fixture.glob("records.sqlite*"):
        shutil.copy(file, tmp_path)
    advance = Rollout.advance
    monkeypatch.setattr(
        Rollout, "advance", lambda self: [(row, {**signals, "new": 1.0}) for row, signals in advance(self)]
    )
    with closing(Store(tmp_path / "records.sqlite")) as store:
        final = compared(make.JOB, store, make.STOPPED, make.EXECUTION).final
        assert {len(run.curves) for run in final} == {len(ALWAYS) + 1}
        assert all(np.isnan(run.curves["new"][0]) and run.curves["new"][-1] == 1 for run in final)
        assert all("new" not in run.curves for run in store.runs(make.FINISHED, curves=True))
    write_runs(final, tmp_path / "runs.parquet", {})
    again = read_runs(tmp_path / "runs.parquet")
    assert [run.curves["new"].tolist()[2:] for run in again] == [run.curves["new"].tolist()[2:] for run in final]


def test_a_table_of_runs_that_lacks_a_signal_or_has_others(tmp_path):
    curves = {name: np.arange(3.0) for name in ("step", "val_loss", "new")}
    runs = [RunRecord("final", "cosine", {}, seed, "finished", curves=curves) for seed in range(2)]
    file = tmp_path / "runs.parquet"
    table = runs_table(runs).drop_columns([f"curve_{name}" for name in ALWAYS if name not in curves])
    pq.write_table(table.drop_columns(["commit", "device", "threads", "test_accuracy"]), file)
    for run in read_runs(file):
        assert list(run.curves) == ["step", "val_loss", "new"]
    with pytest.raises(UserError, match="it has no column curve_lr"):
        read_runs(file, ["lr"])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("phase", [None]),
        ("planner", [5]),
        ("settings", ['{"a":']),
        ("settings", ["[]"]),
        ("settings", [None]),
        ("seed", [-1]),
        ("seed", [None]),
        ("seed", ["1"]),
        ("seed", [0.5]),
        ("status", ["done"]),
        ("diverged", [2]),
        ("steps", [-5]),
        ("extra_steps", [None]),
        ("planning_seconds", [float("nan")]),
        ("planning_seconds", [-1.0]),
        ("final_val_loss", ["low"]),
        ("test_loss", [float("nan")]),
        ("curve_val_loss", [[1.0, None]]),
        ("curve_val_loss", [["1.0"]]),
        ("curve_val_loss", [1.0]),
    ],
    ids=str,
)
def test_a_table_of_runs_with_values_that_make_no_sense(tmp_path, monkeypatch, capsys, column, values):
    run = RunRecord("final", "cosine", {}, 1, "finished", curves={"val_loss": np.arange(3.0)})
    table = runs_table([run]).drop_columns(["commit", "device", "threads"])  # as other software may write it
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(table, tmp_path / "runs.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lr-env", "fit", "DigitsMLP", "--records", "runs.parquet"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "damaged or no table of runs" in errors


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (":memory:", "would keep nothing"),
        ("file:records?mode=memory", "would keep nothing"),
        ("file:///tmp/records.sqlite", "would keep nothing"),
        ("", "is a folder"),
        (".", "is a folder"),
        ("/dev/null", "is no file"),
    ],
)
def test_places_that_keep_nothing(tmp_path, monkeypatch, capsys, place, says):
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", "DigitsMLP", "--planners", "constant", "--budget", "40", "--store", place]
    monkeypatch.setattr(sys, "argv", ["lr-env", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert says in errors
    assert list(tmp_path.iterdir()) == []


def test_every_row_says_where_it_was_made(tmp_path):
    task = replace(TASKS["DigitsMLP"], budget=20, segment=10)
    job = ComparisonPlan(task, ("constant",), (0.1,), tune_seeds=(100,), seeds=(0,))
    with closing(Store(tmp_path / "s")) as store:
        result = compared(job, store, "toy", LOOP)
    for run in (*result.tuning, *result.final):
        assert run.provenance == provenance("cpu")
    write_runs(result.final, tmp_path / "runs.parquet", {})
    (row,) = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    assert {name: row[name] for name in ("commit", "device", "threads")} == provenance("cpu")
    assert read_runs(tmp_path / "runs.parquet")[0].provenance == provenance("cpu")


def test_runs_whose_settings_had_other_names_are_gone_on_with(tmp_path, monkeypatch):
    """A store of before latent-ode's settings were renamed has its results, and nothing is trained again."""
    task = replace(TASKS["DigitsMLP"], budget=40, segment=10)
    plan = ComparisonPlan(task, ("latent-ode", "constant"), (0.1,), tune_seeds=(100,), seeds=(0,))
    plan = replace(plan, settings={"latent-ode": {"mismatch": "rescaled"}})
    store = Store(tmp_path / "records.sqlite")
    first = compared(plan, store, "toy", LOOP)

    def earlier(planner, settings):
        of = {"mismatch": "reuse", "confidence_sigmas": "sure", "averaging_temperature": "blend"}
        return {of.get(name, name): value for name, value in settings.items()}

    store.rename_settings("toy", earlier)
    spec = store.experiment("toy")
    store.change_experiment("toy", {**spec, "settings": {"latent-ode": {"reuse": "rescaled"}}})
    assert {"reuse", "sure", "blend"} <= set(store.runs("toy")[-1].settings)
    monkeypatch.setattr(Rollout, "advance", lambda self: pytest.fail("a finished run was trained again"))
    again = compared(plan, store, "toy", LOOP)
    assert [(run.settings, run.scores) for run in again.final] == [(run.settings, run.scores) for run in first.final]

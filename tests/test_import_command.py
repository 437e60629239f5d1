"""`lr-env import`, `runs` and `export`: what is printed, what is stored, and files that come back as they were."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lr_env.cli.main import main
from lr_env.records.store import Store
from tests.fixtures import make
from tests.log_samples import EPOCH, rows, val_loss, write_csv, write_lines, write_samples


@pytest.fixture
def lr_env(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder of its own, and returns its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lr-env", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, error = capsys.readouterr()
        return code, out, error

    return run


def test_logs_are_imported_and_listed(lr_env, tmp_path):
    (logs := tmp_path / "logs").mkdir()
    for seed in range(3):
        write_csv(logs / f"run_{seed}.csv", rows(seed))
    (logs / "none.csv").write_text("step,train_loss,val_loss\n1,2,3\n2,1,3\n")
    (logs / "other.txt").write_text("nothing")
    code, out, error = lr_env("import", "logs", "--name", "mine")
    assert (code, error) == (0, "")
    assert "3 runs imported as mine into results/records.sqlite; 1 left out; 1 other file passed over." in out
    assert "none.csv: it has no rate" in out
    assert "names: lr=lr, train_loss=train_loss, val_loss=val_loss" in out
    code, listed, _ = lr_env("runs")
    assert "mine  import" in listed
    code, listed, _ = lr_env("runs", "mine")
    assert all(f"run_{seed}.csv" in listed for seed in range(3))
    assert f"{val_loss(200):.4f}" in listed


def test_what_is_stored_is_added_to_or_replaced_where_that_is_asked_for(lr_env, tmp_path):
    for seed in range(2):
        write_csv(tmp_path / f"run_{seed}.csv", rows(seed))
    assert lr_env("import", "run_0.csv", "--name", "mine")[0] == 0
    code, _, error = lr_env("import", "run_1.csv", "--name", "mine")
    assert code == 2
    assert "--add" in error
    code, out, _ = lr_env("import", "run_0.csv", "run_1.csv", "--name", "mine", "--add")
    assert "it is stored already, as 'run_0.csv'" in out
    assert "1 run imported" in out
    listed = " ".join(lr_env("runs", "mine")[1].split())
    assert f"imported from {tmp_path / 'run_0.csv'}, {tmp_path / 'run_1.csv'}" in listed
    code, out, _ = lr_env("import", "run_1.csv", "--name", "mine", "--fresh")
    with closing(Store(tmp_path / "results" / "records.sqlite")) as store:
        assert [run.run_id for run in store.imported("mine")] == ["run_1.csv"]


def test_a_run_that_went_on_after_it_was_stored_is_told(lr_env, tmp_path):
    write_csv(tmp_path / "run.csv", rows()[:-4])
    assert lr_env("import", "run.csv", "--name", "mine")[0] == 0
    write_csv(tmp_path / "run.csv", rows())
    write_csv(tmp_path / "other.csv", rows(1))
    code, out, _ = lr_env("import", "run.csv", "other.csv", "--name", "mine", "--add")
    assert code == 0
    assert "steps are stored already, as 'run.csv': replace all runs with --fresh to have the rest" in out


def test_names_of_files_may_be_of_any_bytes(lr_env, tmp_path):
    (tmp_path / "logs").mkdir()
    for seed, name in enumerate((b"a\xff b.csv", b"two\nlines.csv", "l\u00e4uf [1].csv".encode())):
        write_csv(tmp_path / "logs" / os.fsdecode(name), rows(seed))
    code, out, _ = lr_env("import", "logs", "--name", "mine")
    assert (code, "3 runs imported" in out) == (0, True)
    assert lr_env("export", "mine", "--out", "out.csv")[0] == 0
    assert "3 runs imported" in lr_env("import", "out.csv", "--name", "again")[1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_export_is_imported_again_as_it_was(lr_env, tmp_path, suffix):
    (tmp_path / "logs").mkdir()
    list(write_samples(tmp_path / "samples"))
    write_csv(tmp_path / "logs" / "a, b.csv", rows())
    write_lines(tmp_path / "logs" / "c.jsonl", rows(1))
    assert lr_env("import", "logs", "samples/timm", "--name", "mine", "--steps-per-epoch", EPOCH)[0] == 0
    assert lr_env("export", "mine", "--out", f"out.{suffix}")[0] == 0
    assert lr_env("import", f"out.{suffix}", "--name", "again")[0] == 0
    with closing(Store(tmp_path / "results" / "records.sqlite")) as store:
        runs, again = store.imported("mine"), store.imported("again")
    assert [run.run_id.rpartition("/")[2] for run in runs] == [run.run_id.rpartition("/")[2] for run in again]
    for run, other in zip(runs, again, strict=True):
        assert run.curves.keys() == other.curves.keys()
        for signal, curve in run.curves.items():
            np.testing.assert_array_equal(curve.at, other.curves[signal].at)
            np.testing.assert_array_equal(curve.values, other.curves[signal].values)


def test_an_experiment_is_listed_exported_and_imported(lr_env, tmp_path):
    (tmp_path / "results").mkdir()
    shutil.copy(Path(make.__file__).parent / "signals" / "records.sqlite", tmp_path / "results")
    _, out, _ = lr_env("runs")
    assert "finished  experiment" in out
    assert "cosine" in lr_env("runs", make.FINISHED)[1]
    assert lr_env("export", make.FINISHED, "--out", "out.csv")[0] == 0
    assert lr_env("import", "out.csv", "--name", "again")[0] == 0
    with closing(Store(tmp_path / "results" / "records.sqlite")) as store:
        runs, again = store.runs(make.FINISHED, curves=True), store.imported("again")
        for run, other in zip(runs, again, strict=True):
            np.testing.assert_array_equal(run.curves["val_loss"], other.curves["val_loss"].values)
            np.testing.assert_array_equal(run.curves["step"], other.curves["val_loss"].at)
    code, _, error = lr_env("import", "out.csv", "--name", make.FINISHED, "--fresh")
    assert code == 2
    assert "name of an experiment" in error


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["import", "missing", "--name", "x"], "cannot read 'missing'"),
        (["import", "none.csv", "--name", "x"], "nothing was imported: it has no validation loss"),
        (["import", "empty", "--name", "x"], "nothing was imported: there are no logs"),
        (["import", "none.csv", "--name", "x", "--add", "--fresh"], "give one of them"),
        (["import", "none.csv", "--name", "x", "--names", "rate=lr"], "unknown signal 'rate'"),
        (["import", "none.csv", "--name", "x", "--format", "cvs"], "did you mean 'csv'"),
        (["import", "none.csv", "--name", "../x"], "begin with a letter"),
        (["runs"], "no record store"),
        (["export", "x", "--out", "y.csv"], "no record store"),
        (["export", "x", "--out", "y.xlsx"], ".parquet, .csv, .jsonl"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(lr_env, tmp_path, arguments, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.csv").write_text("step,lr,train_loss\n1,0.1,3\n2,0.1,3\n")
    code, _, error = lr_env(*arguments)
    assert code == 2
    assert why in error
    assert error.count("\n") == 1

"""`--log`: finished runs in the logs of trackers, which are read again, once each, and as they are stored."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from contextlib import closing
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import ClassVar

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.records.readers.importing import import_runs
from lr_env.records.readers.sources import reader_names
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.store import Store
from lr_env.records.writers import mlflow as mlflow_writer
from lr_env.records.writers import tensorboard as tensorboard_writer
from lr_env.records.writers.base import find_writer, writer_names
from lr_env.records.writers.experiments import tracked, write_experiments
from lr_env.runs.lab import Lab
from lr_env.studies.comparison.study import Comparison
from lr_env.studies.cumulative_rate.study import CumulativeRate
from lr_env.tasks import find_task

TASK = replace(find_task("DigitsMLP"), budget=30, segment=2, val_subset=50)
RATES = (0.01, 0.1, 1.5, 9.0)

RUNS = 2 * len(RATES) + 2 * 2

PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def needs(tracker):
    """Skip a test where the packages of a tracker are not installed."""
    for package in PACKAGES[tracker]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed: pip install 'lr-env[trackers]'")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison of which some runs diverged: its store, and what was opened."""
    store = Store(tmp_path_factory.mktemp("store") / "records.sqlite")
    lab = Lab(TASK, store, "x", LOOP)
    Comparison(planners=("constant", "wsd"), rates=RATES, tune_seeds=(1000,), seeds=(0, 1)).run(lab)
    with closing(store):
        yield store, lab.opened


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def read_again(folder):
    """What `lr-env import` makes of a folder: the runs by what tells them apart, and the report."""
    runs, report = import_runs([folder])
    facts = [
        (run.config["phase"], run.config["planner"], float(run.config["peak"]), int(run.config["seed"])) for run in runs
    ]
    return dict(zip(facts, runs, strict=True)), report


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_what_is_written_is_read_again(comparison, tmp_path, tracker):
    needs(tracker)
    if tracker not in reader_names():
        pytest.skip(f"there is no reader of {tracker!r}")
    store, opened = comparison
    write_experiments(find_writer(tracker), store, opened, "x", tmp_path)
    runs, report = read_again(tmp_path)
    records = store.runs("x", curves=True)
    assert len(records) == RUNS
    readable = [record for record in records if len(record.curves["step"]) - record.diverged >= 2]  # has two losses
    assert len(runs) == len(readable) == RUNS - len(report.left_out)
    assert any(record.diverged for record in readable)
    for record in readable:
        run = runs[record.phase, record.planner, record.settings["peak"], record.seed]
        assert (run.steps, run.diverged) == (record.steps, record.diverged)
        for signal in ("lr", "train_loss", "val_loss", "val_accuracy"):
            there = slice(-1) if record.diverged and signal.endswith("loss") else slice(None)
            np.testing.assert_array_equal(run.curves[signal].at, record.curves["step"][there])
            np.testing.assert_array_equal(run.curves[signal].values, record.curves[signal][there])
        assert float(run.config["budget"]) == 30
        if record.planner == "wsd":
            assert float(run.config["cooldown"]) == record.settings["cooldown"]


def test_tensorboard_itself_reads_the_same(comparison, tmp_path):
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    store, opened = comparison
    write_experiments(find_writer("tensorboard"), store, opened, "x", tmp_path)
    record = next(one for one in store.runs("x", "final", curves=True) if one.planner == "wsd")
    run = tracked(record, TASK)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard" / run.name), size_guidance={"tensors": 0})
    accumulator.Reload()
    events = accumulator.Tensors("val/loss")
    assert [event.step for event in events] == record.curves["step"].tolist()
    assert [float(make_ndarray(event.tensor_proto)) for event in events] == record.curves["val_loss"].tolist()
    (score,) = accumulator.Tensors("test/loss")
    assert (score.step, float(make_ndarray(score.tensor_proto))) == (30, record.scores["test_loss"])


def test_tensorboard_runs_are_written_once_and_whole(comparison, tmp_path, monkeypatch):
    needs("tensorboard")
    store, opened = comparison
    writer, write = find_writer("tensorboard"), tensorboard_writer._write_events
    count = 0

    def killed(run, folder):
        nonlocal count
        count += 1
        if count == 4:
            folder.mkdir()
            (folder / "events.out.tfevents.1").write_bytes(b"half")
            raise KeyboardInterrupt
        write(run, folder)

    monkeypatch.setattr(tensorboard_writer, "_write_events", killed)
    with pytest.raises(KeyboardInterrupt):
        write_experiments(writer, store, opened, "x", tmp_path)
    before = {path: at for path, at in files_in(tmp_path).items() if "unfinished" not in str(path)}
    assert len(before) == 3
    write_experiments(writer, store, opened, "x", tmp_path)
    after = files_in(tmp_path)
    assert len(after) == len({path.parent for path in after}) == RUNS
    assert {path: after[path] for path in before} == before
    (tmp_path / "tensorboard" / "mine").mkdir()
    (tmp_path / "tensorboard" / "gone-0123456789ab").mkdir()  # of an earlier start, before --fresh
    write_experiments(writer, store, opened, "x", tmp_path)
    assert files_in(tmp_path) == after
    assert (tmp_path / "tensorboard" / "mine").is_dir()
    assert not (tmp_path / "tensorboard" / "gone-0123456789ab").exists()


def test_mlflow_runs_are_written_once_and_whole(comparison, tmp_path, monkeypatch):
    needs("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

    store, opened = comparison
    writer, count, add = find_writer("mlflow"), 0, MlflowClient.log_batch

    def killed(*given, **named):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return add(*given, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        write_experiments(writer, store, opened, "x", tmp_path)
    for _ in range(2):
        write_experiments(writer, store, opened, "x", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own packages
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / mlflow_writer.FILE}")
        runs = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * RUNS
    records = {(r.phase, r.planner, repr(r.settings["peak"]), str(r.seed)): r for r in store.runs("x", curves=True)}
    for run in runs:
        params = run.data.params
        record = records.pop((params["phase"], params["planner"], params["peak"], params["seed"]))
        if not record.diverged:
            assert run.data.metrics["final/val_loss"] == record.scores["final_val_loss"]
            assert run.data.metrics["val/loss"] == record.curves["val_loss"][-1]
    assert not records
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with pytest.raises(
        UserError, match=r"MLflow refuses to store the runs at 'nowhere://at-all'.*trains nothing again"
    ):
        write_experiments(writer, store, opened, "x", tmp_path)


def test_parts_of_a_study_are_in_folders_of_their_own(tmp_path):
    needs("tensorboard")
    with closing(Store(tmp_path / "records.sqlite")) as store:
        lab = Lab(TASK, store, "x", LOOP)
        CumulativeRate(("constant", "linear"), rates=(0.01, 0.03, 0.1), tune_seeds=tuple(range(1000, 1005))).run(lab)
        assert set(lab.opened) == set(store.experiments())
        assert len(lab.opened) > 2
        write_experiments(find_writer("tensorboard"), store, lab.opened, "x", tmp_path)
        for name in lab.opened:
            part = tmp_path / "tensorboard" / name.removeprefix("x-")
            assert len(list(part.iterdir())) == len(store.runs(name))


class Remembering:
    """A writer of another package."""

    name = "remembering"
    runs: ClassVar[list] = []

    def check(self):
        pass

    def write(self, experiment, part, runs, folder):
        self.runs.extend(runs)
        return "here"


CALL = ["compare", "DigitsMLP", "--budget", "40", "--planners", "constant", "--rates", "0.1", "--tune-seeds", "1"]
CALL += ["--seeds", "2", "--backend", "loop", "--store", "r.sqlite", "--results", "."]


def test_writers_of_other_packages_are_found_by_name(tmp_path, monkeypatch, capsys):
    from lr_env import entry_points

    declared = entry_points.entry_points
    entry = EntryPoint("remembering", f"{__name__}:Remembering", "lr_env.writers")
    monkeypatch.setattr(entry_points, "entry_points", lambda group: [*declared(group=group), entry])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lr-env", *CALL, "--log", "remembering"])
    Remembering.runs.clear()
    main()
    assert "Log: here" in capsys.readouterr().out
    assert [run.title for run in Remembering.runs] == [
        "final-constant-seed0",
        "final-constant-seed1",
        "tune-constant-seed1000000",
    ]


def test_the_training_of_a_controller(tmp_path, monkeypatch, capsys, global_generators_kept):
    from lr_env import entry_points

    declared = entry_points.entry_points
    entry = EntryPoint("remembering", f"{__name__}:Remembering", "lr_env.writers")
    monkeypatch.setattr(entry_points, "entry_points", lambda group: [*declared(group=group), entry])
    monkeypatch.chdir(tmp_path)
    call = ["train-ppo", "DigitsMLP", "--budget", "40", "--segment", "10", "--decisions", "24", "--children", "2"]
    monkeypatch.setattr(sys, "argv", ["lr-env", *call, "--backend", "loop", "--log", "remembering"])
    Remembering.runs.clear()
    main()
    main()  # it is finished, and written again alike
    one, same = Remembering.runs
    assert one.name == same.name
    history = json.loads((tmp_path / "results/ppo/DigitsMLP/training.json").read_text())["history"]
    steps, losses = one.curves["val/loss"]
    assert list(zip(steps, losses, strict=True)) == [(entry["decisions"], entry["val_loss"]) for entry in history]
    assert one.curves["train/loss"][0].tolist() == [16, 24]
    assert one.params["task"] == "DigitsMLP"
    assert one.params["start_rates"] == "[0.01, 0.001, 0.0001]"


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_a_missing_package_is_one_line_before_anything_is_trained(tmp_path, monkeypatch, capsys, tracker):
    find = importlib.util.find_spec
    module = {"tensorboard": tensorboard_writer, "mlflow": mlflow_writer}[tracker]
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == tracker else find(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lr-env", *CALL, "--log", tracker])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--log {tracker} needs the package {tracker}: pip install" in error
    with closing(Store("r.sqlite")) as store:
        assert not store.experiments()


def test_unknown_trackers(comparison, tmp_path):
    assert {"tensorboard", "mlflow"} <= set(writer_names())
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        find_writer("tensorbord")


def test_settings_of_any_kind_are_params():
    record = RunRecord(
        "final",
        "own",
        {"peak": 0.1, "seed": 3, "milestones": [0.5, 0.7], "file": None, "on": True},
        7,
        "finished",
        steps=10,
        curves={"step": np.array([10.0]), "lr": np.array([0.1]), "other": np.array([1.0])},
        scores={"hessian_max": 2.0},
    )
    run = tracked(record, TASK)
    assert run.params["own.seed"] == 3
    assert run.params["seed"] == 7
    assert (run.params["milestones"], run.params["file"], run.params["on"]) == ("[0.5, 0.7]", "null", True)
    assert run.scores == {"final/hessian_max": 2.0}
    assert list(run.curves) == ["lr"]
    assert settings_key({"a": 1}) == '{"a": 1}'  # of which the params of lists are a part
    assert tracked(replace(record, scores={"hessian_max": 3.0}), TASK).digest != run.digest

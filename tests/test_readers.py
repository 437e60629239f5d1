"""Readers of text formats: made logs, of which all is known, and real ones, of which numbers are counted otherwise."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from lr_env.records.readers.importing import import_runs
from lr_env.records.readers.sources import all_readers, find_logs
from tests.log_samples import EPOCH, SAMPLES, STEPS, loss, rate, val_loss, write_samples
from tests.mutated_logs import outcomes, samples

LOGS = Path(os.environ.get("LR_ENV_LOGS", Path(__file__).parents[2] / "shared" / "logs"))
"""Real logs of other people's trainings; see the README there."""

needs_logs = pytest.mark.skipif(not LOGS.is_dir(), reason=f"no real logs in {LOGS}: name their folder with LR_ENV_LOGS")


def one(path, **how):
    """The only run in a file, and the report."""
    runs, report = import_runs([path], **how)
    assert len(runs) == 1, report.left_out
    return runs[0], report


def reasons(path, **how):
    """Why nothing is imported from a file."""
    runs, report = import_runs([path], **how)
    assert runs == []
    return {left.reason for left in report.left_out}


@pytest.mark.parametrize("name", SAMPLES)
def test_made_logs_are_read_as_what_they_are_made_of(name, tmp_path):
    path = dict(write_samples(tmp_path))[name]
    (log,) = find_logs([path], all_readers(), {})
    assert log.reader.name == name
    run, _ = one(path, steps_per_epoch=EPOCH)
    assert run.steps == STEPS
    for signal, expected in {"lr": rate, "train_loss": loss, "val_loss": val_loss}.items():
        curve = run.curves[signal]
        assert curve.at[-1] == STEPS
        np.testing.assert_allclose(curve.values, [expected(step) for step in curve.at], rtol=1e-5)
    assert run.curves["val_loss"].at.tolist() == list(range(EPOCH, STEPS + 1, EPOCH))


def test_mutated_logs_are_read_or_refused(tmp_path):
    """`python -m tests.mutated_logs --count 1000` tries more of them."""
    import resource

    kinds = samples(tmp_path)
    assert set(SAMPLES) <= set(kinds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, sample in kinds.items():
        counts, wrong = outcomes(sample, 42)
        assert wrong == [], name
        assert counts["read"] > 0, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_hyperparameters_beside_a_table_are_config(tmp_path):
    path = dict(write_samples(tmp_path))["lightning"]
    path.with_name("hparams.yaml").write_text("batch_size: 64\nname: 'a b'\nlr: 1e-3\nnested:\n  deep: 1\nlist: [1]\n")
    run, _ = one(path)
    assert run.config == {"batch_size": 64, "name": "a b", "lr": 0.001}


@needs_logs
def test_hugging_face():
    path = LOGS / "hf_trainer_state_llamafactory.json"
    assert "no validation loss" in reasons(path).pop()
    history = json.loads(path.read_text())["log_history"]
    run, _ = one(path, val_loss_from_train=True)
    rates = {row["step"]: row["learning_rate"] for row in history if "learning_rate" in row}
    assert (len(rates), run.steps) == (866, 8660)
    assert dict(zip(run.curves["lr"].at, run.curves["lr"].values, strict=True)) == rates
    losses = {row["step"]: row["loss"] for row in history if "loss" in row}
    assert dict(zip(run.curves["train_loss"].at, run.curves["train_loss"].values, strict=True)) == losses
    assert run.config["max_steps"] == 8660


@needs_logs
def test_copies_in_checkpoints_and_in_another_format_are_one_run():
    names = (
        "hf_trainer_state_llamafactory.json",
        "hf_trainer_state_checkpoint4000.json",
        "llamafactory_trainer_log.jsonl",
    )
    for order in (names, names[::-1]):
        runs, report = import_runs([LOGS / name for name in order], val_loss_from_train=True)
        assert len(runs) == 1
        assert (len(runs[0].curves["lr"].at), runs[0].steps) == (866, 8660)
        assert len(report.copies) == 2
    alone, _ = one(LOGS / names[1], val_loss_from_train=True)
    assert (len(alone.curves["lr"].at), alone.steps) == (400, 4000)


@needs_logs
def test_several_evaluation_sets():
    path = LOGS / "hf_trainer_state_multi_eval.json"
    history = json.loads(path.read_text())["log_history"]
    run, report = one(path)
    for name, how in (("eval_g0_loss", {}), ("eval_g3_loss", {"names": {"val_loss": "eval_g3_loss"}})):
        run, report = one(path, **how)
        assert report.names[run.run_id]["val_loss"] == name
        assert run.curves["val_loss"].values.tolist() == [row[name] for row in history if name in row]
        assert run.curves["val_loss"].at[0] == 0
        assert len(run.curves["val_loss"].at) == 31
    assert len(run.curves["lr"].at) == 30


@needs_logs
def test_a_table_by_epochs_asks_for_the_steps_of_one():
    path = LOGS / "custom_csv_lr.csv"
    assert "--steps-per-epoch" in reasons(path).pop()
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    run, _ = one(path, steps_per_epoch=25)
    assert run.curves["val_loss"].values.tolist() == [float(row["val_loss"]) for row in table]
    assert run.curves["lr"].at.tolist() == [25 * (1 + int(row["epoch"])) for row in table]
    assert run.config["asset"] == "BTC"


@needs_logs
@pytest.mark.parametrize(("name", "count"), [("detectron2_metrics.json", 200), ("detectron2_metrics_apache.json", 15)])
def test_detectron2(name, count):
    rows = [json.loads(line) for line in (LOGS / name).read_text().splitlines()]
    assert "no validation loss" in reasons(LOGS / name).pop()
    run, _ = one(LOGS / name, val_loss_from_train=True)
    losses = {row["iteration"]: row["total_loss"] for row in rows}  # of a repeated step the last one
    assert dict(zip(run.curves["train_loss"].at, run.curves["train_loss"].values, strict=True)) == losses
    assert len(losses) == count


@needs_logs
def test_mmengine():
    """Six trainings were written into one file; in each the rate of the first group is a tenth of the commanded one."""
    path = LOGS / "mmengine_scalars_base_lr.json"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if "lr" in row]
    runs, report = import_runs([path], val_loss_from_train=True)
    starts = [at for at, row in enumerate(rows) if at == 0 or row["step"] < rows[at - 1]["step"]]
    assert len(runs) == len(starts) == 6
    for run, start, end in zip(runs, starts, [*starts[1:], len(rows)], strict=True):
        assert run.curves["train_loss"].at.tolist() == [row["step"] for row in rows[start:end]]
        assert run.curves["train_loss"].values.tolist() == [row["loss"] for row in rows[start:end]]
        assert run.curves["lr"].values.tolist() == [row["base_lr"] for row in rows[start:end]]
        assert any("'lr' is that of the first parameter group" in note for note in report.notes[run.run_id])
    asked, _ = import_runs([path], names={"lr": "lr"}, val_loss_from_train=True)
    assert asked[0].curves["lr"].values.tolist() == [row["lr"] for row in rows[:2]]


@needs_logs
def test_llm_c():
    text = (LOGS / "llm.c_main.log").read_text()
    run, _ = one(LOGS / "llm.c_main.log")
    trained = re.findall(r"^s:(\d+) trl:([\d.]+) lr:([\d.]+)", text, re.MULTILINE)
    tested = re.findall(r"^s:(\d+) tel:([\d.]+)", text, re.MULTILINE)
    assert (len(trained), len(tested)) == (19_552, 80)
    for signal, expected in {
        "lr": [(step, value) for step, _, value in trained],
        "train_loss": [(step, value) for step, value, _ in trained],
        "val_loss": tested,
    }.items():
        assert run.curves[signal].at.tolist() == [float(step) for step, _ in expected]
        assert run.curves[signal].values.tolist() == [float(value) for _, value in expected]
    assert run.steps == 19_552


@needs_logs
def test_a_pointer_of_git_lfs_is_named_as_that():
    assert "pointer of Git LFS" in reasons(LOGS / "made_lfs_pointer").pop()


@needs_logs
def test_the_folder_as_a_whole():
    runs, report = import_runs([LOGS], steps_per_epoch=10, val_loss_from_train=True)
    assert {"llm.c_main.log", "custom_csv_lr.csv", "hf_trainer_state_multi_eval.json"} <= {run.run_id for run in runs}
    again, same = import_runs([LOGS], steps_per_epoch=10, val_loss_from_train=True)
    assert [run.run_id for run in again] == [run.run_id for run in runs]
    assert same.left_out == report.left_out
    assert all(math.isfinite(curve.values.sum()) for run in runs for curve in run.curves.values())

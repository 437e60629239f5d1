"""From logs to runs over optimizer steps: names, clocks, attempts, copies, and what is left out."""

from __future__ import annotations

import builtins
import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.readers.assembly import Options, assemble
from lr_env.records.readers.base import LoggedRun, Series
from lr_env.records.readers.importing import import_runs
from lr_env.records.readers.names import choose, parse_names
from tests.log_samples import EPOCH, huggingface, loss, rate, rows, val_loss, write_csv, write_lines


@pytest.fixture
def log(tmp_path):
    """Writes text into a file."""

    def write(text, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def one(path, **how):
    runs, report = import_runs([path], **how)
    assert len(runs) == 1, report.left_out
    return runs[0], report


def reason(path, **how):
    """Why the only run in a file is left out."""
    runs, report = import_runs([path], **how)
    assert runs == []
    (left,) = report.left_out
    return left.reason


def curve(run, signal):
    return list(zip(run.curves[signal].at.tolist(), run.curves[signal].values.tolist(), strict=True))


HEADER = "step,lr,train_loss,val_loss\n"
PLAIN = [(1.0, 2.5), (2.0, 1.5)]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5\n",
        HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5",
        "\ufeff" + HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5\n",
        (HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5\n").replace("\n", "\r\n"),
        (HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5\n").encode("utf-16"),
        "step;lr;train_loss;val_loss\n1;0,1;2,0;2,5\n2;0,01;1;1,5\n",
        "step\tlr\ttrain_loss\tval_loss\n1\t0.1\t2\t2.5\n2\t0.01\t1\t1.5\n",
        '"a, b",step,lr,train_loss,val_loss\n"x, y",1,0.1,2,2.5\n"x ""y""",2,0.01,1,1.5\n',
        "# result by hand\n\n" + HEADER + "1,0.1,2,2.5\n\n2,0.01,1,1.5\n",
        ",step,lr,train_loss,val_loss\n0,1,0.1,2,2.5\n1,2,0.01,1,1.5\n",
        " step , lr ,train_loss,  val_loss\n 1 , 0.1 ,2,2.5\n2,0.01,1,  1.5\n",
        "step,lr,train_loss,val_loss,größe,loss\n1,0.1,2,2.5,9,8\n2,0.01,1,1.5,9,8\n",
        HEADER + "1,0.1,-,2.5\n2,0.01,1,1.5\n2,0.01,none,\n2,0.01,1,N/A\n",
        HEADER + "1,0.1,2,2.5\nwhat is this\n2,0.01,1,1.5\n",
        HEADER + "1,0.1,2,2.5\n" + HEADER + "2,0.01,1,1.5\n",
        HEADER + "1,0.1,2,2.5\nstep,lr,train_loss,val_loss,more\n2,0.01,1,1.5,7\n",
        HEADER + "1,0.1,2,2.5,\n2,0.01,1,1.5,\n",
        HEADER + '1,0.1,2,2.5\n"9,9,9,9\n2,0.01,1,1.5\n',
    ],
)
def test_tables_of_all_kinds(log, text):
    run, _ = one(log(text))
    assert curve(run, "val_loss") == PLAIN
    assert curve(run, "lr") == [(1.0, 0.1), (2.0, 0.01)]
    assert run.curves["train_loss"].values[-1] == 1


@pytest.mark.parametrize(
    ("last", "expected"),
    [("3,0.001,0.5,0.12", False), ("3,0.001,0.5", False), ("3,0.001,0.5,0.1234", True), ("3,0.001,0.5,", False)],
)
def test_the_last_line_of_a_growing_file_counts_as_far_as_it_is_whole(log, last, expected):
    run, report = one(log(HEADER + "1,0.1,2,2.5123\n2,0.01,1,1.5123\n" + last))
    assert (3.0 in run.curves["val_loss"].at) == expected
    assert bool(report.notes["log.csv"]) == (not expected)


def test_lines_of_json_with_all_that_json_has(log):
    text = '{"step": 1, "train": {"loss": 2, "acc": 0.5}, "lr": "0.1", "val_loss": 2.5, "huge": %s, "text": "ä"}\n'
    text += (
        '{"step": 2, "train": {"loss": NaN}, "lr": 1e-2, "val_loss": 1.5, "flag": true, "list": ["a"]}\nnonsense\n[1]\n'
    )
    text += '{"step": 3, "lr": 0.00'
    run, report = one(log(text % ("9" * 400), "log.jsonl"))
    assert curve(run, "val_loss") == PLAIN
    assert curve(run, "train_loss") == [(1.0, 2.0)]
    assert run.diverged
    assert run.config == {"text": "ä", "flag": True}
    notes = " ".join(report.notes["log.jsonl"])
    assert "2 lines could not be read" in notes
    assert "cut off" in notes
    assert "1 of 2 values of train_loss are not finite" in notes


@pytest.mark.parametrize("levels", [3, 100_000])
def test_depth_is_bounded(log, levels):
    text = '{"step": 1, "lr": 0.1, "val_loss": 2.5, "deep": ' + '{"a":' * levels + "1" + "}" * levels + "}\n"
    text += '{"step": 1, "lr": 0.1, "val_loss": 2.5}\n{"step": 2, "lr": 0.01, "val_loss": 1.5}\n'
    assert curve(one(log(text, "log.jsonl"))[0], "val_loss") == PLAIN


def test_names_that_are_given_go_before_the_table(log):
    path = log("iter,rate,lr,a,b,eval/loss\n10,0.5,7,1,2,9\n20,0.25,7,3,4,9\n")
    run, _ = one(path, names=parse_names(["lr=rate", "val_loss=a+b", "step=iter"]))
    assert curve(run, "lr") == [(10.0, 0.5), (20.0, 0.25)]
    assert curve(run, "val_loss") == [(10.0, 3.0), (20.0, 7.0)]
    missing = reason(path, names={"val_loss": "nothing"})
    assert "'nothing'" in missing
    assert "(there are: a, b, eval/loss, iter, lr, rate)" in missing
    assert "'nothing'" in reason(path, names={"step": "nothing"})


def test_a_table_with_names_that_only_the_user_knows(tmp_path, log):
    log("t,r,v\n1,0.1,2.5\n2,0.01,1.5\n")
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    runs, report = import_runs([tmp_path], names={"step": "t", "lr": "r", "val_loss": "v"})
    assert [curve(run, "val_loss") for run in runs] == [PLAIN]
    assert report.passed_over == 1


@pytest.mark.parametrize(("pair", "why"), [("lr", "SIGNAL=NAME"), ("=x", "unknown"), ("valloss=x", "'val_loss'")])
def test_mappings_are_checked(pair, why):
    with pytest.raises(UserError, match=why):
        parse_names([pair])


def series(**names):
    return {name: Series(_range(values), _range(values) * 0 + values) for name, values in names.items()}


def _range(values):
    return np.arange(len(values), dtype=float)


@pytest.mark.parametrize(
    ("signal", "expected", "others"),
    [
        ("lr", "train/learning_rate", ["train/lrm", "learning_rate_min", "optimizer/weight_decay"]),
        ("lr", "lr-AdamW", ["lr-AdamW-momentum", "lr-AdamW-weight_decay"]),
        ("lr", "lr/AdamW", ["loss_metrics/global_max_loss"]),
        ("lr", "charts/learning_rate", []),
        ("lr", "x/lr0", ["x/momentum"]),
        ("train_loss", "train/loss", ["train/grad_norm", "train/epoch"]),
        ("train_loss", "Loss/train", ["Loss/val"]),
        ("train_loss", "loss_metrics/global_avg_loss", ["loss_metrics/global_max_loss"]),
        ("train_loss", "train_loss_step", ["train_loss_epoch"]),
        ("train_loss", "total_loss", ["loss_cls", "loss_box_reg"]),
        ("val_loss", "eval/loss", ["eval/runtime"]),
        ("val_loss", "validation_metrics/loss", ["validation_metrics/memory"]),
        ("val_loss", "epoch_val_loss", ["epoch_loss"]),
        ("val_loss", "val/bpb", ["core_metric"]),
        ("val_loss", "valid_loss", ["test_loss"]),
        ("val_loss", "test_loss", []),
        ("val_loss", "my_val_loss", ["best_val_loss", "val_loss_std"]),
        ("val_accuracy", "val_sparse_categorical_accuracy", ["sparse_categorical_accuracy"]),
        ("val_accuracy", "eval_top1", ["eval_top5"]),
    ],
)
def test_what_trackers_call_things(signal, expected, others):
    for order in ([expected, *others], [*others, expected]):
        assert choose(series(**{name: [3.0, 2.0, 1.0] for name in order}), {}).names[signal] == (expected,)


def test_a_mean_over_the_run_is_no_curve():
    names = {"train_loss": [1.0], "loss": [3.0, 2.0]}
    assert choose(series(**names), {}).names["train_loss"] == ("loss",)


def test_of_the_rates_of_groups_the_commanded_one_counts():
    falling, rising = [0.1, 0.05, 0.01], [0.0, 0.005, 0.01]
    groups = {"lr/pg0": falling, "lr/pg1": rising, "lr/pg2": rising}
    assert choose(series(**groups), {}).names["lr"] == ("lr/pg1",)
    layers = {"lr-Adam/pg1": [1e-5, 1e-6], "lr-Adam/pg2": [1e-4, 1e-5]}
    assert choose(series(**layers), {}).names["lr"] == ("lr-Adam/pg2",)
    assert choose(series(lr=[0.1, 0.2], base_lr=[1.0, 2.0]), {}).names["lr"] == ("base_lr",)
    assert choose(series(lr=[0.1, 0.2], base_lr=[0.2, 0.2]), {}).names["lr"] == ("lr",)
    # MMEngine's cosine to eta_min, whose quotient changes, and schedules that begin or end at zero
    assert choose(series(lr=[0.01, 0.006, 0.001], base_lr=[0.1, 0.05, 0.001]), {}).names["lr"] == ("base_lr",)
    assert choose(series(lr=[0.0, 0.01, 0.0], base_lr=[0.0, 0.1, 0.0]), {}).names["lr"] == ("base_lr",)
    assert choose(series(lr=[0.0, 0.1, 0.0], base_lr=[0.0, 0.1, 0.0]), {}).names["lr"] == ("lr",)


def test_epochs_become_steps(log):
    table = "epoch,lr,loss,val_loss\n{}\n"
    by_zero, by_one = "0,0.1,2,2.5\n1,0.01,1,1.5", "1,0.1,2,2.5\n2,0.01,1,1.5"
    assert "--steps-per-epoch" in reason(log(table.format(by_zero)))
    for text in (by_zero, by_one):
        assert curve(one(log(table.format(text)), steps_per_epoch=50)[0], "val_loss") == [(50.0, 2.5), (100.0, 1.5)]
    said = "epoch,steps_per_epoch,lr,val_loss\n0,50,0.1,2.5\n1,50,0.01,1.5\n"
    assert one(log(said))[0].steps == 100
    history = [{"epoch": 0.5, "learning_rate": 0.1, "loss": 1}, {"epoch": 1.0, "learning_rate": 0.1, "eval_loss": 2}]
    history.append({"epoch": 2.0, "learning_rate": 0.1, "eval_loss": 1})
    state = {"log_history": history, "max_steps": 60, "num_train_epochs": 2}
    run, _ = one(log(json.dumps(state), "trainer_state.json"), val_loss_from_train=True)
    assert curve(run, "val_loss") == [(30.0, 2.0), (60.0, 1.0)]


def test_steps_that_begin_again_in_each_epoch(log):
    lines = [{"epoch": e, "iter": i, "lr": 0.1, "loss": e + i / 9} for e in (1, 2, 3) for i in (10, 20, 30)]
    lines.insert(3, {"epoch": 1, "val_loss": 9.0})
    lines.append({"epoch": 3, "val_loss": 7.0})
    path = log("".join(json.dumps(line) + "\n" for line in lines), "log.jsonl")
    assert "begins again in each epoch" in reason(path)
    run, _ = one(path, steps_per_epoch=32)
    assert run.curves["lr"].at.tolist() == [10, 20, 30, 42, 52, 62, 74, 84, 94]
    assert curve(run, "val_loss") == [(30.0, 9.0), (94.0, 7.0)]


def test_a_validation_loss_that_counts_epochs_beside_a_rate_that_counts_steps(log):
    """As logged to TensorBoard or MLflow with the epoch as its step; here with a run's own clock of steps."""
    steps, epochs = np.arange(0, 1000.0, 10), np.arange(5.0)
    names = {"lr": Series(steps, steps * 0 + 0.1), "loss": Series(steps, 1 / (1 + steps))}
    run = LoggedRun("x", Path("x"), "x", {**names, "val_loss": Series(epochs, 2 - epochs / 9)}, "step")
    ((_, why),) = assemble([run], Options())
    assert "--steps-per-epoch" in why
    (result,) = assemble([run], Options(steps_per_epoch=200))
    assert result.run.curves["val_loss"].at.tolist() == [200, 400, 600, 800, 1000]
    counted = LoggedRun("x", Path("x"), "x", {**run.series, "epoch": Series(steps, steps // 200)}, "step")
    (result,) = assemble([counted], Options())
    assert result.run.curves["val_loss"].at.tolist() == [200, 400, 600, 800, 1000]


def assembled(options=None, **series):
    """A run of optimizer steps, as a tracker logs it whose user gives the steps."""
    (result,) = assemble([LoggedRun("x", Path("x"), "x", series, "step")], options or Options())
    return result


def test_keras_logs_epochs_and_batches_side_by_side():
    epochs, batches = [Series(np.arange(float(n)), 1 / (1 + np.arange(float(n)))) for n in (4, 100)]
    names = {f"epoch_{name}": epochs for name in ("learning_rate", "loss", "val_loss")}
    assert "--steps-per-epoch" in assembled(**names)[1]
    for result in (assembled(**names, batch_loss=batches), assembled(Options(steps_per_epoch=25), **names)):
        assert result.run.curves["val_loss"].at.tolist() == [25, 50, 75, 100]
        assert result.run.curves["lr"].at.tolist() == [25, 50, 75, 100]


def test_a_validation_loss_at_every_step_may_count_epochs():
    curve = Series(np.arange(4.0), 1 / (1 + np.arange(4.0)))
    names = dict.fromkeys(("lr", "train/loss", "val/loss"), curve)
    result = assembled(**names)
    assert result.run.steps == 3
    assert "for epochs give --steps-per-epoch" in result.notes[0]
    assert assembled(Options(steps_per_epoch=10), **names).run.curves["lr"].at.tolist() == [10, 20, 30, 40]


def test_the_objective_of_a_study_stands_for_its_losses():
    steps = np.arange(0, 40.0, 10)
    curve, end = Series(steps, 1 / (1 + steps)), Series(steps[-1:], np.array([0.5]))
    result = assembled(lr=Series(steps, steps * 0 + 0.1), intermediate_value=curve, value=end)
    assert result.names == {"lr": "lr", "train_loss": "intermediate_value", "val_loss": "value"}


def test_the_clock_of_optimizer_steps_goes_before_that_of_the_tracker(log):
    lines = [
        {"_step": i, "train/global_step": 10 * i, "train/learning_rate": 0.1, "eval/loss": 1 / (1 + i)} for i in (1, 2)
    ]
    assert one(log("".join(json.dumps(line) + "\n" for line in lines), "log.jsonl"))[0].curves["lr"].at.tolist() == [
        10,
        20,
    ]


def test_environment_steps_are_refused(log):
    path = log("time/total_timesteps,train/learning_rate,train/loss,n\n2048,0.1,1,1\n4096,0.1,0.5,2\n")
    assert "steps of the environment" in reason(path, val_loss_from_train=True)
    assert one(path, val_loss_from_train=True, names={"step": "n"})[0].steps == 2


def test_a_run_that_goes_on_from_a_checkpoint_replaces_what_was_after_it(log):
    lines = [f"{step},0.1,{step},{step + 0.5}" for step in (10, 20, 30, 40)]
    lines += [f"{step},0.1,{-step},{-step}" for step in (25, 35, 45)]
    run, _ = one(log(HEADER + "\n".join(lines) + "\n"))
    assert curve(run, "train_loss") == [(10.0, 10.0), (20.0, 20.0), (25.0, -25.0), (35.0, -35.0), (45.0, -45.0)]


def test_of_a_repeated_step_the_last_value_counts(log):
    run, _ = one(log(HEADER + "1,0.1,9,9\n1,0.1,2,2.5\n2,0.01,1,1.5\n"))
    assert curve(run, "val_loss") == PLAIN


def test_points_before_step_0_are_left_out(log):
    run, report = one(log(HEADER + "-1,0.1,9,9\n1,0.1,2,2.5\n2,0.01,1,1.5\n"))
    assert curve(run, "val_loss") == PLAIN
    assert "3 points before step 0 left out" in report.notes["log.csv"]


@pytest.mark.parametrize("last", ["1,000", "1k"])
def test_a_clock_does_not_stand_still_where_it_cannot_be_read(log, last):
    run, report = one(log(HEADER + f'1,0.1,2,2.5\n2,0.01,1,1.5\n"{last}",0.01,0.5,0.5\n'))
    assert curve(run, "val_loss") == PLAIN
    assert f"1 value of 'step' could not be read as a number, such as '{last}'" in report.notes["log.csv"]
    names = ("step", "lr", "train_loss", "val_loss")
    lines = [dict(zip(names, row, strict=True)) for row in ((1, 0.1, 2, 2.5), (2, 0.01, 1, 1.5), (last, 0.01, 0, 0))]
    run, _ = one(log("".join(json.dumps(line) + "\n" for line in lines), "log.jsonl"))
    assert curve(run, "val_loss") == PLAIN


def test_trainings_in_one_file_are_runs_of_their_own(log):
    lines = [f"{step},{lr},{lr * step},1" for lr in (0.1, 0.2) for step in (1, 2, 3)]
    runs, _ = import_runs([log(HEADER + "\n".join(lines) + "\n")])
    assert [run.run_id for run in runs] == ["log.csv#1", "log.csv#2"]
    assert [run.curves["lr"].values.tolist() for run in runs] == [[0.1] * 3, [0.2] * 3]


@pytest.mark.parametrize("names", [("a", "b"), ("1", "2")])
def test_a_column_tells_runs_apart(log, names):
    lines = [
        f"{name},{step},{lr},{lr * step},1" for step in (1, 2, 3) for name, lr in zip(names, (0.1, 0.2), strict=True)
    ]
    runs, _ = import_runs([log("run," + HEADER + "\n".join(lines) + "\n")])
    assert [run.curves["lr"].values.tolist() for run in runs] == [[0.1] * 3, [0.2] * 3]


def test_checkpoints_and_other_formats_of_a_run_are_merged_and_seeds_are_not(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}"
        for until in (40, 120):
            (folder / f"checkpoint-{until}").mkdir(parents=True)
            huggingface(folder / f"checkpoint-{until}" / "trainer_state.json", until, seed)
        huggingface(folder / "trainer_state.json", seed=seed)
        write_lines(
            folder / "trainer_log.jsonl", [{"total_steps": 200, **row} for row in rows(seed, step="current_steps")]
        )
    # A second run with the same rates, and losses of its own.
    same = [{**row, "lr": rate(row["step"])} if "lr" in row else row for row in rows(2)]
    write_csv(tmp_path / "seed.csv", same)
    runs, report = import_runs([tmp_path])
    assert [len(run.curves["lr"].at) for run in runs] == [20, 20, 20]
    assert len(report.copies) == 6
    assert runs[0].curves["val_loss"].values.tolist() == [val_loss(step) for step in range(EPOCH, 201, EPOCH)]


def test_a_copy_gives_the_signals_that_only_it_has(tmp_path):
    write_csv(tmp_path / "a.csv", [{k: v for k, v in row.items() if k != "val_loss"} for row in rows() if "lr" in row])
    write_lines(tmp_path / "b.jsonl", [row for row in rows() if row["step"] <= 80])
    for from_train in (False, True):
        runs, report = import_runs([tmp_path], val_loss_from_train=from_train)
        assert [len(run.curves["lr"].at) for run in runs] == [20]
        assert runs[0].curves["val_loss"].values.tolist() == [val_loss(40), val_loss(80)]
        assert (len(report.copies), report.left_out) == (1, ())


def test_a_run_that_diverged(log):
    lines = ["1,0.1,2,2.5", "2,0.1,1,1.5", "3,0.1,nan,1.5", "4,0.1,nan,inf"]
    run, report = one(log(HEADER + "\n".join(lines) + "\n"))
    assert run.diverged
    assert run.steps == 4
    assert run.curves["train_loss"].at.tolist() == [1, 2]
    assert "2 of 4 values of train_loss are not finite" in report.notes["log.csv"]


def test_nan_where_a_row_has_no_value_is_no_divergence(log):
    lines = ["1,0.1,2,nan", "2,0.1,1,nan", "3,0.1,1,1.5", "4,0.1,1,nan", "5,nan,1,nan"]
    run, _ = one(log(HEADER + "\n".join(lines) + "\n"))
    assert not run.diverged


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("step,train_loss,val_loss\n1,2,3\n2,2,3\n", "no rate"),
        ("step,lr,train_loss\n1,2,3\n2,2,3\n", "--val-loss-from-train"),
        ("step,val_loss\n1,2\n2,2\n", "evaluation only"),
        ("step,lr,note\n1,2,x\n2,2,x\n", "no loss"),
        (HEADER, "nothing was logged"),
        (HEADER + "1,0.1,1,1\n", "one point"),
        (HEADER + "1,nan,1,1\n2,nan,1,1\n", "nowhere a finite number"),
        (HEADER + "1,0.1,nan,nan\n2,0.1,nan,nan\n", "diverged before one"),
        (HEADER + "1,-0.1,1,1\n2,0.1,1,1\n", "negative"),
        ("lr,val_loss\n1,2\n2,2\n", "step=row"),
        (HEADER + "1e17,0.1,1,1\n2e17,0.1,1,1\n", "its clock 'step' shows 2e+17, which is no number of steps"),
        (HEADER + "1,0.1,1,1\ninf,0.1,1,1\n", "its clock 'step' shows inf, which is no number of steps"),
        ("", "empty"),
    ],
)
def test_what_cannot_be_used_is_left_out_by_name(log, text, why):
    assert why in reason(log(text))


def test_files_of_other_kinds(tmp_path, log):
    for name in ("image.png", "model.bin", "notes.txt", "table.csv", "config.json", "broken.json"):
        log(b"\x89PNG\x00\x01" if name.endswith("png") else "a,b\n1,2\n" if "table" in name else '{"lr": 0.1}', name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "empty").touch()
    runs, report = import_runs([tmp_path])
    assert (runs, report.left_out) == ([], ())
    assert report.passed_over == 9
    for name, why in {"notes.txt": "formats csv, ", "pipe": "neither a file nor", "missing": "No such file"}.items():
        with pytest.raises(UserError, match=why):
            import_runs([tmp_path / name])
    log(gzip.compress(HEADER.encode()), "log.csv.gz")
    with pytest.raises(UserError, match="compressed"):
        import_runs([tmp_path / "log.csv.gz"])


def test_a_file_that_may_not_be_read_is_left_out(tmp_path, log, monkeypatch):
    good, closed = log(HEADER + "1,0.1,2,2.5\n2,0.01,1,1.5\n"), log(HEADER, "closed.csv")
    really = builtins.open

    def refusing(file, *rest, **more):
        if file == closed:
            raise PermissionError(13, "Permission denied", str(file))
        return really(file, *rest, **more)

    monkeypatch.setattr(builtins, "open", refusing)
    runs, report = import_runs([tmp_path])
    assert [Path(run.source) for run in runs] == [good]
    assert "Permission denied" in report.left_out[0].reason


def test_text_by_patterns(tmp_path, log):
    text = "".join(
        f"12:00 [info] step {step}/200 | loss = {loss(step):.6f}, lr {rate(step):.3e}\n"
        + (f"validation at {step:,}: {val_loss(step):.6f}\n" if step % 40 == 0 else "")
        for step in range(0, 2000, 20)
    )
    path = log(text + "step 9999/200 | loss = 1", "train.log")
    patterns = ["step {step}/{_} | loss = {train_loss}, lr {lr}", "validation at {step}: {val_loss}"]
    run, report = one(path, patterns=patterns)
    assert run.curves["lr"].at.tolist() == list(range(0, 2000, 20))
    assert run.curves["val_loss"].at.tolist() == list(range(0, 2000, 40))
    assert run.curves["train_loss"].values == pytest.approx([loss(step) for step in range(0, 2000, 20)], abs=1e-6)
    assert report.notes["train.log"] == ("its last line is cut off",)
    log("nothing of it", "other.txt")
    assert import_runs([tmp_path], patterns=patterns)[1].passed_over == 1
    assert "needs a pattern" in reason(path, format="text")
    for pattern, why in {"step": "no {name}", "{a} {a}": "twice"}.items():
        with pytest.raises(UserError, match=why):
            import_runs([path], patterns=[pattern])


@pytest.mark.parametrize("how", [{"steps_per_epoch": 0}, {"steps_per_epoch": math.nan}, {"format": "tensorbored"}])
def test_arguments_are_checked(log, how):
    with pytest.raises(UserError):
        import_runs([log(HEADER)], **how)


def part(start, end, seed=0, names=("lr", "loss", "val_loss")):
    """A part of a run, as an event file has it."""
    steps = np.arange(float(start), end, 10)
    values = {"lr": 0.1 / (1 + steps), "loss": 2 / (1 + steps + seed), "val_loss": 3 / (1 + steps + seed)}
    return LoggedRun("x", Path("x"), "x", {name: Series(steps, values[name]) for name in names}, "step")


@pytest.mark.parametrize(
    ("parts", "points"),
    [
        ([part(0, 100), part(100, 200)], [20]),
        ([part(0, 100), part(50, 200, seed=1)], [20]),  # resumed from a checkpoint, with other batches
        ([part(0, 100), part(0, 200)], [20]),  # a copy
        ([part(0, 100, names=("lr", "loss")), part(0, 100, names=("val_loss",))], [10]),  # a file for each kind of name
        ([part(0, 100), part(0, 200, seed=1)], [10, 20]),  # started again into the same folder
        ([part(0, 100), part(0, 0)], [10]),  # an empty file beside it
    ],
)
def test_parts_of_a_run_are_joined_and_trainings_in_one_folder_are_not(parts, points):
    runs = [result.run for result in assemble(parts, Options())]
    assert [len(run.curves["val_loss"].at) for run in runs] == points
    assert len({run.run_id for run in runs}) == len(points)
    last = parts[-1] if len(parts[-1].series["val_loss"].at) else parts[0]
    assert runs[-1].curves["val_loss"].values[-1] == last.series["val_loss"].values[-1]

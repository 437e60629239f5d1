"""`lr-env fit`: sweeps that go on where they were stopped, the model that comes of them, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.records.tables import check_task, read_runs, write_runs
from lr_env.rollout import rollout
from lr_env.runs.lab import Lab
from lr_env.seeds import SWEEPS
from lr_env.tasks import TASKS
from planners import LatentODE
from planners.fit_command import on_fresh_seeds
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.fit_report import MODEL, SHARES, fit_records, fit_sweep, usable_of
from planners.latent_ode.sweep import sweep as sweeps
from planners.latent_ode.sweep.sweep import Sweep, seed_number, sweep
from tests.helpers import StoppedError, stopping_after
from tests.test_cli import lr_env  # the command as users run it

TASK = replace(TASKS["DigitsMLP"], budget=200, segment=10)
TRAINING = Execution(backend="stacked")


@pytest.fixture(autouse=True)
def quick_fits(monkeypatch):
    """What is tested here is not how good a fit is."""
    from planners.latent_ode import fit_report
    from planners.latent_ode.fitting import fit

    class Quick(fit.Fitting):
        def __init__(self, **given):
            super().__init__(**{**given, "dynamics": 30, "corrections": min(5, given.get("corrections", 5))})

    for module in (sweeps, fit_report):
        monkeypatch.setattr(module, "Fitting", Quick)


def rates_of(records):
    return [(record.seed, record.curves["lr"].tolist()) for record in records]


def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    settings = Sweep("adaptive", 18, (0.01, 0.5))
    assert settings.rounds == [10, 5, 3]
    whole = sweep(settings, Lab(TASK, Store(tmp_path / "whole.sqlite"), "x", TRAINING))
    assert sorted(record.seed - SWEEPS.start for record in whole) == sorted(
        seed_number("adaptive", run) for run in range(18)
    )
    assert [record.planner for record in whole][9:] == ["wsd-sqrt", *["knots"] * 8]

    store = Store(tmp_path / "stopped.sqlite")
    with pytest.raises(StoppedError):
        sweep(settings, Lab(TASK, store, "x", TRAINING, progress=stopping_after(11.5 * TASK.budget)))
    proposed = []
    monkeypatch.setattr(sweeps, "thompson_proposals", lambda *given: proposed.append(given[2]) or proposals(*given))
    assert rates_of(sweep(settings, Lab(TASK, store, "x", TRAINING))) == rates_of(whole)
    assert proposed == [3]  # the second round was begun, and is not proposed anew


@pytest.mark.parametrize("design", ["random", "adaptive"])
def test_a_round_of_which_only_a_part_is_begun_goes_on(tmp_path, design):
    """With fewer children in lockstep than a round has runs, the last ones have no records when it stops."""
    settings, training = Sweep(design, 13, (0.01, 0.5)), replace(TRAINING, lockstep=4)
    whole = sweep(settings, Lab(TASK, Store(tmp_path / "whole.sqlite"), "x", training))
    stopped = Lab(TASK, Store(tmp_path / "stopped.sqlite"), "x", training)
    with pytest.raises(StoppedError):
        sweep(settings, replace(stopped, progress=stopping_after(5 * TASK.budget)))
    assert rates_of(sweep(settings, stopped)) == rates_of(whole)


proposals = sweeps.thompson_proposals


def test_a_schedule_that_is_proposed_twice_is_run_on_two_seeds(tmp_path, monkeypatch):
    settings, best = Sweep("adaptive", 14, (0.01, 0.5)), np.full(33, 0.1)
    monkeypatch.setattr(sweeps, "thompson_proposals", lambda trained, lr_range, count, seed: [best] * count)
    runs = sweep(settings, Lab(TASK, Store(tmp_path / "r.sqlite"), "x", TRAINING))
    assert len({run.seed for run in runs[10:]}) == 4


def test_a_fit_is_kept_told_and_used(tmp_path):
    result = fit_sweep(Sweep("wsd", 12, (0.01, 0.2)), Lab(TASK, Store(tmp_path / "r.sqlite"), "x", TRAINING), members=2)
    result.write(tmp_path)
    saved = json.loads((tmp_path / "fit.json").read_text())
    assert saved["child_steps"] == 12 * TASK.budget
    assert {entry["method"] for entry in saved["forecasts"]} == {MODEL, "last value", "nearest run", "power law"}
    assert len(saved["forecasts"]) == 4 * len(SHARES)
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    assert "held out" in result.text()
    planner = LatentODE(model=str(tmp_path / "model.safetensors"))
    assert planner.fingerprint == saved["fingerprint"]
    assert planner.pretraining_steps == 12 * TASK.budget
    (run,) = rollout(planner, TASK, [7], score=("val",), execution=Execution(backend="loop"))
    assert not run.diverged
    trusted = FittedModel.load(tmp_path / "model.safetensors").library.trust_region.log_rates
    assert np.isfinite(run.curves["lr"]).all()
    assert np.isfinite(trusted).all()


def test_runs_that_are_kept_give_the_same_model(tmp_path):
    """And so does the command; what cannot be used is left out, which is said, and runs of others never are."""
    result = fit_sweep(Sweep("wsd", 12, (0.01, 0.2)), Lab(TASK, Store(tmp_path / "r.sqlite"), "x", TRAINING), members=2)
    result.write(tmp_path)
    runs = read_runs(tmp_path / "runs.parquet")
    ours = [replace(runs[0], planner="prodigy", settings={"peak": 1.0})] * 2
    others = [*ours, replace(runs[1], curves={}), replace(runs[2], status="running")]
    again = fit_records([*others, *runs[::-1]], TASK, members=2)
    assert again.fitted.fingerprint == result.fitted.fingerprint
    why = {"under the optimizer that prodigy brings along": 2, "no curves": 1, "not finished": 1}
    assert again.to_json()["left_out_runs"] == again.left_out == why
    assert "Left out 2 runs: under the optimizer that prodigy brings along; 1 run: no curves;" in again.text()
    assert "Left out" not in result.text()
    theirs = replace(runs[0], planner="prodigy", settings={"lr": 1.0}, seed=7)  # a log of someone else
    assert usable_of([theirs, ours[0]]) == ([theirs], {"under the optimizer that prodigy brings along": 1})
    with pytest.raises(UserError, match=r"2 usable runs of 2.*; 1 left out: no curves$"):
        fit_records([*runs[:2], replace(runs[2], curves={})], TASK, members=2)
    assert again.fitted.about["child_steps"] == 12 * TASK.budget
    options = ("--budget", "200", "--members", "2", "--records", "runs.parquet", "--results", "again")
    done = lr_env("fit", "DigitsMLP", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Fitted to 12 runs (0 diverged)" in done.stdout
    assert (tmp_path / "again/fit/DigitsMLP-fit/model.safetensors").is_file()
    assert "--seeds" not in done.stdout  # a sweep's seeds are far from those of comparisons
    write_runs(runs, tmp_path / "other.parquet", {})
    assert on_fresh_seeds({10, 11}) == ""
    assert on_fresh_seeds({0, 1, 4, 12}) == " --seeds 2,3,5,6,7,8,9,10,11,13"
    other = TASKS["FashionMLP"], replace(TASK, budget=400)
    for task, words in zip(other, ("are of task DigitsMLP, not FashionMLP", "are of budget 200, not 400"), strict=True):
        with pytest.raises(UserError, match=words):
            check_task(tmp_path / "runs.parquet", task)
    check_task(tmp_path / "other.parquet", other[0])  # it does not tell


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("wsd", 9, (0.01, 0.5)), "9 runs: a model needs at least 10"),
        (("wsb", 20, (0.01, 0.5)), "unknown design .wsb."),
        (("wsd", 20, (0.5, 0.01)), "give LOW below HIGH"),
        (("wsd", 20, (0.01, 0.5), -1), "seed -1: give a whole number"),
    ],
)
def test_bad_sweeps(given, words):
    with pytest.raises(UserError, match=words):
        Sweep(*given)


def test_a_sweep_that_was_begun_otherwise(tmp_path):
    store = Store(tmp_path / "r.sqlite")
    sweep(Sweep("wsd", 10, (0.01, 0.5)), Lab(TASK, store, "x", TRAINING))
    with pytest.raises(UserError, match="'x' was begun with sweep runs 10, not 11: use the same, another --name"):
        sweep(Sweep("wsd", 11, (0.01, 0.5)), Lab(TASK, store, "x", TRAINING))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runs", "5"), "5 runs: a model needs at least 10"),
        (("--design", "papers"), "unknown design 'papers'; did you mean 'paper'"),
        (("--rates", "0.1"), "give LOW:HIGH"),
        (("--members", "1"), "1 members: an ensemble has from 2 to 100"),
        (("--records", "nothing.parquet"), "there is no file 'nothing.parquet'"),
        (("--records", ".", "--rates", "0.1:1"), "--rates is of a sweep, and --records takes existing runs"),
        (("--records", ".", "--kind", "new"), "unknown kind of model 'new'"),
    ],
)
def test_bad_input_on_the_command_line(tmp_path, options, words):
    done = lr_env("fit", "DigitsMLP", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1

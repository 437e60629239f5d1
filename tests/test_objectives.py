"""What training is for: every tuner, fit and planner follows the objective of its task."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Backend, Children, Execution
from lr_env.errors import UserError
from lr_env.objectives import VAL_LOSS, Objective, check_planner
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.registry import find_tuner
from lr_env.runs.lab import Lab
from lr_env.studies.comparison.comparison import ComparisonPlan, best_setting
from lr_env.studies.comparison.report import report_of
from lr_env.studies.tuning_budget.study import TuningBudget
from lr_env.tasks import TASKS
from lr_env.testing import simulated_record
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.fit_report import fit_records
from planners.latent_ode.planner import LatentODE
from planners.schedules import WSD, Constant
from planners.tuning.population import PBT, Perturbing
from tests.helpers import compared

TASK = replace(TASKS["DigitsMLP"], budget=40, segment=4, target_val_loss=0.5)


def for_(name: str):
    return replace(TASK, objective=name)


def record(peak: float, loss: float, accuracy: float, seed: int = 0, **given) -> RunRecord:
    curves = {
        "step": np.arange(4.0, 44.0, 4.0),
        "lr": np.full(10, peak),
        "train_loss": np.linspace(2.0, 2 * loss, 10),
        "val_loss": np.linspace(2.0, loss, 10),
        "val_accuracy": np.linspace(0.1, accuracy, 10),
    }
    scores = {
        "final_val_loss": loss,
        "final_val_accuracy": accuracy,
        "test_loss": 1.1 * loss,
        "test_accuracy": accuracy,
    }
    settings = {"peak": peak}
    return RunRecord("tune", "constant", settings, seed, "finished", steps=40, scores=scores, curves=curves, **given)


def test_each_objective_is_a_number_of_which_less_is_better():
    run = record(0.1, 0.4, 0.9)
    numbers = {name: Objective.of(for_(name)) for name in ("val_loss", "val_accuracy", "final_train_loss")}
    assert {name: of.selected(run) for name, of in numbers.items()} == pytest.approx(
        {"val_loss": 0.4, "val_accuracy": 0.1, "final_train_loss": 0.8}
    )
    assert {name: of.reported(run) for name, of in numbers.items()} == pytest.approx(
        {"val_loss": 0.44, "val_accuracy": 0.1, "final_train_loss": 0.8}
    )
    steps = Objective.of(for_("steps_to_target"))
    assert steps.selected(run) == 40  # the first at or below 0.5
    assert steps.selected(record(0.1, 0.6, 0.9)) == pytest.approx(40 * 0.6 / 0.5)  # never, and how far off
    assert steps.selected(replace(run, diverged=True)) == np.inf
    with pytest.raises(UserError, match="has no curve of train_loss"):
        numbers["final_train_loss"].selected(replace(run, curves={}))


def test_tuners_and_models_see_it_in_the_place_of_the_validation_loss():
    run, objective = record(0.1, 0.4, 1.0), Objective.of(for_("val_accuracy"))
    seen = objective.as_loss(run)
    np.testing.assert_allclose(seen.curves["val_loss"][:-1], 1 - run.curves["val_accuracy"][:-1])
    assert seen.curves["val_loss"][-1] == 0.5 / 100  # no error in 100 examples is half an error: models see logs
    assert seen.scores["final_val_loss"] == 0.5 / TASK.source.sizes["val"]
    assert seen.curves["val_accuracy"] is run.curves["val_accuracy"]
    signals = objective.signals({"val_loss": [0.3], "val_accuracy": np.array([0.75]), "val_accuracy_age": 3.0})
    assert (signals["val_loss"].tolist(), signals["val_loss_age"]) == ([0.25], 3.0)
    assert VAL_LOSS.as_loss(run) is run


def test_loss_and_accuracy_choose_other_settings(tmp_path):
    lower, righter = record(0.1, 0.4, 0.8), record(0.2, 0.5, 0.9)
    offered = [Constant(peak=0.1), Constant(peak=0.2)]
    assert best_setting("constant", offered, [lower, righter]) == offered[0]
    assert best_setting("constant", offered, [lower, righter], Objective.of(for_("val_accuracy"))) == offered[1]
    tuner = find_tuner("wsd")
    seen = [Objective.of(for_("val_accuracy")).as_loss(run) for run in (lower, righter)]
    assert tuner.select(TASK, 0, seen, tmp_path).peak == 0.2


def test_a_study_of_tuners_follows_it_and_reports_it(tmp_path):
    for name, told in (("val_accuracy", "Test error"), ("steps_to_target", "Steps to the target")):
        task = for_(name)
        lab = Lab(task, Store(tmp_path / f"{name}.sqlite"), "x", Execution(backend="stacked"), folder=tmp_path)
        curve = TuningBudget(("wsd", "coarse-to-fine:planner=constant"), (6,), 2, (0, 1), ()).run(lab)
        objective = Objective.of(task)
        for phase, planner in (("wsd-0", curve.answers[0]),):
            runs = [run for run in lab.store.runs("x", phase, curves=True) if run.seed < 3_010_000]
            best = min(runs, key=objective.selected)
            assert objective.selected(best) == min(map(objective.selected, runs))
            assert dict(best.settings) in [dict(r.settings) for r in runs if r.settings["peak"] == planner.planner.peak]
        assert told in str(curve.document().blocks[0])
        assert curve.to_json()["score"] == objective.reported_as.replace(" ", "_")
    lab = Lab(for_("steps_to_target"), Store(tmp_path / "no.sqlite"), "x", folder=tmp_path)
    for tuner in ("latent-ode", "multi-power-law", "pb2"):
        with pytest.raises(UserError, match=rf"tuner '{tuner}' follows a curve, and steps_to_target has no value"):
            TuningBudget((tuner,), (12,), 1, (0,)).run(lab)


def test_a_model_is_fitted_for_it_and_plans_for_nothing_else(tmp_path):
    task = replace(TASKS["DigitsMLP"], objective="val_accuracy")
    runs = [simulated_record(WSD(peak=0.01 * 1.3**n, cooldown=0.2 + 0.05 * (n % 5)), task, n) for n in range(12)]
    runs = [replace(run, scores={**run.scores, "final_val_accuracy": run.curves["val_accuracy"][-1]}) for run in runs]
    report = fit_records(runs, task, members=2)
    report.write(tmp_path)
    fitted = FittedModel.load(tmp_path / "model.safetensors")
    assert fitted.objective == Objective.of(task)
    errors = np.log(1 - np.array([run.curves["val_accuracy"] for run in runs]))
    assert errors.min() - 0.5 < fitted.library.log_losses.mean() < errors.max() + 0.5
    other = fit_records(runs, TASKS["DigitsMLP"], members=2).fitted
    assert other.fingerprint != fitted.fingerprint
    planner = LatentODE(model=str(tmp_path / "model.safetensors"))
    assert planner.objective == "val_accuracy"
    check_planner(planner, task)
    with pytest.raises(
        UserError, match="fitted for val_accuracy, not for val_loss: fit one with `lr-env fit DigitsMLP"
    ):
        check_planner(planner, TASKS["DigitsMLP"])
    job = ComparisonPlan(task, ("latent-ode",), (0.1,), (5,), (0,), settings={"latent-ode": {"model": "DigitsMLP"}})
    with pytest.raises(UserError, match="fitted for val_loss, not for val_accuracy"):
        compared(job, Store(tmp_path / "r.sqlite"), "x")
    with pytest.raises(UserError, match="a model of training follows a curve"):
        fit_records(runs, replace(task, objective="steps_to_target"))


def test_a_population_ends_with_the_member_that_is_best_by_it(tmp_path, monkeypatch):
    """The one of the lowest loss is the first, the most accurate the last."""
    monkeypatch.setattr(Children, "evaluate", lambda self, split: (np.arange(8.0), np.linspace(0, 1, 8)))
    followed = {}
    monkeypatch.setattr(
        Perturbing, "learn", lambda self, segment, logs, losses, before: followed.update({segment: losses})
    )
    found = {}
    for name in ("val_loss", "val_accuracy"):
        (tmp_path / name).mkdir()
        found[name] = PBT().train(for_(name), 0, range(8), Execution(backend=Backend("stacked", 8)), tmp_path / name)
        assert (max(followed[max(followed)]) <= 1) == (name == "val_accuracy")  # errors, or losses
    assert found["val_loss"] != found["val_accuracy"]


def test_bad_objectives():
    with pytest.raises(UserError, match="unknown objective 'val_los'; did you mean 'val_loss'"):
        for_("val_los")
    with pytest.raises(UserError, match="has no target_val_loss: give --target-val-loss"):
        replace(TASK, objective="steps_to_target", target_val_loss=None)
    assert "objective" not in TASK.settings()  # as specs of earlier versions have it
    assert for_("val_accuracy").settings()["objective"] == "val_accuracy"


def test_a_comparison_is_told_in_it(tmp_path):
    """Planners are ordered, and their differences told, by the objective; the test loss is one more column."""
    job = ComparisonPlan(for_("val_accuracy"), ("wsd", "constant"), (), (), (0, 1, 2), tuning_runs=4)
    runs = compared(job, Store(tmp_path / "r.sqlite"), "x", Execution(backend="stacked"), folder=tmp_path)
    report = report_of(job, runs)
    errors = {
        name: np.mean([1 - run.scores["test_accuracy"] for run in runs.final if run.planner == name])
        for name in job.planners
    }
    rows = report.summary.rows
    assert [row.planner for row in rows] == sorted(errors, key=errors.__getitem__)
    assert {row.planner: row.judged.value for row in rows} == pytest.approx(errors)
    gap = next(row.to_baseline for row in rows if row.to_baseline is not None)
    assert abs(gap.difference.value) == pytest.approx(abs(errors["wsd"] - errors["constant"]))
    assert "test error" in report.summary.conclusion
    report.write(tmp_path)
    with (tmp_path / "summary.csv").open() as file:
        head, *lines = csv.DictReader(file)
    assert {"test_error", "test_loss", "test_error_less_baseline"} <= head.keys()
    assert [line["planner"] for line in (head, *lines)] == [row.planner for row in rows]

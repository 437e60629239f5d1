"""Rules by which runs end early, in a search and in the tuning of a comparison; what a forecast says of a run's end."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.errors import UserError
from lr_env.planner import planner_settings
from lr_env.pruning import PlannerPruners, find_rule
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import make_planner
from lr_env.rollout import rollout
from lr_env.studies.comparison.comparison import ComparisonPlan, run_comparison
from lr_env.studies.comparison.report import report_of
from lr_env.tasks import find_task
from planners.forecaster.curves import POINTS
from planners.forecaster.facts import describe
from planners.forecaster.intervals import SEEN, Intervals
from planners.forecaster.termination import Correction, ForecastPruner, ForecastRule, checks, points_after
from planners.schedules import WSD, Constant
from planners.tuning.pruning import Halving
from planners.tuning.search.study import Search
from tests.helpers import labs_in

optuna = pytest.importorskip("optuna")

TASK = replace(find_task("DigitsMLP"), budget=36, segment=2, val_subset=50, batch_size=8)
SEARCH = Search(planners=("wsd", "constant"), runs=24, round=4, rates="0.003:3", seed=1)


@pytest.fixture
def lab_in(tmp_path):
    """A function that opens a lab in a folder of that name."""
    with labs_in(tmp_path, TASK) as make:
        yield make


def test_successive_halving_ends_the_runs_that_optunas_pruner_ends(lab_in):
    records = replace(SEARCH, stop="halving").run(lab_in("halving")).records
    rungs = {4: "completed_rung_0", 12: "completed_rung_1"}
    for number, record in enumerate(records):
        study = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=4, reduction_factor=3))
        for before in records[: number // 4 * 4]:
            at = dict(zip(before.curves["step"].tolist(), before.curves["val_loss"].tolist(), strict=True))
            reached = {name: at[step] for step, name in rungs.items() if step in at}
            study.add_trial(optuna.trial.create_trial(value=0.0, system_attrs=reached))
        trial, says = study.ask(), []
        for step, loss in zip(record.curves["step"], record.curves["val_loss"], strict=True):
            trial.report(float(loss), int(step))
            says.append(step in rungs and trial.should_prune())
        assert record.pruned == (says[-1] and not record.diverged)
        assert not any(says[:-1])
    assert {record.steps for record in records if not record.diverged} == {4, 12, 36}


def test_a_forecast_ends_runs_that_would_have_ended_above_the_best(lab_in):
    result = replace(SEARCH, stop="forecast").run(lab_in("forecast"))
    whole = SEARCH.run(lab_in("whole"))  # the same first round, for nothing is known before it
    first = slice(0, SEARCH.round)
    assert list(map(run_key, result.records[first])) == list(map(run_key, whole.records[first]))
    pruned = [record for record in result.records if record.pruned]
    assert len(pruned) > 4
    assert all(record.steps in {TASK.segment * end for end in checks(TASK)} for record in pruned)
    above = []
    for number, record in enumerate(result.records):
        if record.pruned:  # made again to its end
            before = result.records[: number // SEARCH.round * SEARCH.round]
            best = min(other.curves["val_loss"][-1] for other in before if not other.pruned)
            (again,) = rollout(make_planner(record.planner, record.settings), TASK, [record.seed], execution=LOOP)
            done = len(record.curves["val_loss"])
            np.testing.assert_array_equal(again.curves["val_loss"][:done], record.curves["val_loss"])
            above.append(again.diverged or again.curves["val_loss"][-1] > best)
    assert np.mean(above) > 0.8
    assert "spared" in str(result.document())


class KnownODE:
    """Forecasts 1 at the end, and spreads of 0.1."""

    def __call__(self, curves, points):
        return np.ones((len(curves), POINTS)), np.full((2, len(curves), POINTS), 0.1)


def pruner(best: float, correction: Correction | None = None) -> ForecastPruner:
    intervals = Intervals(np.full((len(SEEN), 3), 2.0), ("ode",) * len(SEEN), "configuration")  # to exp(-0.2)
    corrections = dict.fromkeys(checks(TASK), correction or Correction())
    return ForecastPruner(KnownODE(), intervals, TASK, describe(TASK), best, corrections)  # type: ignore[arg-type]


def test_a_run_ends_where_the_interval_of_its_forecast_lies_above_the_best():
    end = checks(TASK)[0]
    losses, rates = np.full(end, 1.5), np.full(end, 0.1)
    assert pruner(np.exp(-0.21)).stops(Constant(0.1), losses, rates)
    assert not pruner(np.exp(-0.19)).stops(Constant(0.1), losses, rates)
    assert not pruner(0.1).stops(Constant(0.1), losses[:-1], rates[:-1])  # between two checks
    assert not pruner(0.1).stops(Constant(0.1), np.append(losses[:-1], np.nan), rates)  # it will end by itself
    shifted = Correction(shift=0.3, wider=2.0)  # from exp(-0.1)
    assert pruner(np.exp(-0.11), shifted).stops(Constant(0.1), losses, rates)
    assert not pruner(np.exp(-0.09), shifted).stops(Constant(0.1), losses, rates)
    assert [points_after(TASK, end) for end in checks(TASK)] == sorted({points_after(TASK, e) for e in checks(TASK)})


def test_corrections_are_those_of_the_whole_runs():
    width = np.full(30, 0.2)
    errors = np.linspace(-0.5, 0.7, 30)
    correction = Correction.of(errors, width, width)
    assert correction.shift == pytest.approx(0.1 * 30 / 33)
    inside = np.abs(errors - correction.shift) <= correction.wider * 0.2 + 1e-12
    assert 0.9 <= inside.mean() < 1
    assert Correction.of(np.zeros(5), width[:5], width[:5]) == Correction(0.0, 1.0)


def plan(*planners: str, stop: str = "halving") -> ComparisonPlan:
    rates = tuple(np.geomspace(0.003, 3, 8).tolist())
    return ComparisonPlan(TASK, planners, rates, tune_seeds=(100, 101), seeds=(0, 1, 2), stop=stop)


@pytest.mark.parametrize("stop", ["halving", "forecast"])
def test_tuning_with_a_rule_is_that_of_each_planner_alone_and_chooses_a_whole_setting(lab_in, stop):
    both = run_comparison(plan("constant", "wsd", stop=stop), lab_in("both"))
    alone = run_comparison(plan("wsd", stop=stop), lab_in("alone"))

    def steps(records: list[RunRecord]) -> dict[object, int]:
        return {run_key(record): record.steps for record in records if record.planner == "wsd"}

    assert steps(list(both.tuning)) == steps(list(alone.tuning))
    assert sum(record.pruned for record in both.tuning) > 3
    assert len(both.tuning) < 2 * 8 * 2  # what ended early on one seed is not tried on the other
    for name, chosen in both.chosen.items():
        runs = [r for r in both.tuning if r.planner == name and r.settings == planner_settings(chosen)]
        assert len(runs) == 2
        assert not any(run.pruned for run in runs)
    text = str(report_of(plan("constant", "wsd", stop=stop), both).document())
    assert "ended early" in text


def test_a_tuning_under_another_rule_is_another_one(lab_in):
    lab = lab_in("x")
    run_comparison(plan("wsd"), lab)
    with pytest.raises(UserError, match="begun"):
        run_comparison(plan("wsd", stop="halving:2"), lab)


def test_pruners_can_be_sent_to_other_processes():
    rule = find_rule("halving:2")
    assert rule == Halving(2)
    there = pickle.loads(pickle.dumps(PlannerPruners((("wsd", pruner(0.1)),))))
    end = checks(TASK)[0]
    assert there.stops(WSD(0.1), np.full(end, 1.5), np.full(end, 0.1))
    assert not there.stops(Constant(0.1), np.full(end, 1.5), np.full(end, 0.1))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("mean", "unknown rule for stopping 'mean'"),
        ("median:3", "takes no option"),
        ("halving:1", "from 2 to 100"),
        ("halving:x", "from 2 to 100"),
        ("forecast:nowhere", "there is no forecaster"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule, message):
    with pytest.raises(UserError, match=message):
        find_rule(rule)


def test_a_model_of_another_metric_stops_nothing(monkeypatch):
    from planners.forecaster import termination

    loaded = termination._load("AllFamilies")
    other = replace(loaded.reference, metric="val_error")
    monkeypatch.setattr(termination.Forecaster, "load", lambda name: replace(loaded, reference=other))
    termination._load.cache_clear()
    try:
        with pytest.raises(UserError, match="forecasts val_error"):
            ForecastRule.of("AllFamilies")
    finally:
        termination._load.cache_clear()

"""One tuning procedure for all planners of a comparison: the same runs, counted alike, repeated if asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.registry import find_tuner
from lr_env.runs.lab import Lab
from lr_env.stats.intervals import Estimate
from lr_env.stats.two_way import Mean
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.studies.comparison.report import report_of
from lr_env.studies.comparison.stored import StoredComparison
from lr_env.studies.comparison.study import TUNING_RUNS, Comparison
from lr_env.studies.comparison.tuning import tuned_planner
from lr_env.studies.tuning_budget.exchange import Exchange
from lr_env.studies.tuning_budget.report import BudgetCurve
from lr_env.studies.tuning_budget.study import TuningBudget
from lr_env.tasks import TASKS
from planners.schedules import WSD
from tests.helpers import StoppedError, compared, stopping_after

TASK = replace(TASKS["DigitsMLP"], budget=40, segment=4)
STACKED = Execution(backend="stacked")


def plan(*planners: str, runs: int = 8, **settings) -> ComparisonPlan:
    return ComparisonPlan(TASK, planners, (), (), (0, 1, 2), settings=settings, tuning_runs=runs)


def lab(path, **given) -> Lab:
    return Lab(TASK, Store(path / "records.sqlite"), "x", STACKED, folder=path, **given)


def test_every_planner_has_the_same_runs_and_fits_are_among_them(tmp_path):
    job = plan("wsd", "constant", "latent-ode", "latent-ode-best", runs=10)
    runs = compared(job, Store(tmp_path / "records.sqlite"), "x", STACKED, folder=tmp_path)
    assert Counter(map(tuned_planner, runs.tuning)) == {"wsd": 10, "constant": 10, "latent-ode": 10}
    assert {run.planner for run in runs.tuning if tuned_planner(run) == "latent-ode"} <= {"wsd", "wsd-sqrt"}
    report = report_of(job, runs)
    rows = {row.planner: row for row in report.summary.rows}
    assert {name: str(row.spent) for name, row in rows.items()} == dict.fromkeys(job.planners, "10")
    assert {row.tuning_steps for row in rows.values()} == {400}
    assert rows["latent-ode"].settings["model"] == rows["latent-ode-best"].settings["model"]
    assert rows["latent-ode"].settings["model"].startswith(str(tmp_path / "latent-ode-0"))
    text = report.document()
    assert report.manifest["tuning"]["runs_per_planner"] == 10
    again = StoredComparison.read(Store(tmp_path / "records.sqlite"), "x", tmp_path).report()
    assert again.summary == report.summary
    assert text.blocks  # with a page for each planner


def test_what_was_stopped_goes_on_to_the_same_runs(tmp_path):
    job = plan("wsd", "plateau", runs=16)
    whole = compared(job, Store(tmp_path / "whole.sqlite"), "x", STACKED, folder=tmp_path / "whole")
    store = Store(tmp_path / "parts.sqlite")
    for steps in (150, 400, 800):
        with pytest.raises(StoppedError):
            compared(job, store, "x", STACKED, folder=tmp_path / "parts", progress=stopping_after(steps))
    parts = compared(job, store, "x", STACKED, folder=tmp_path / "parts")
    key = [(run.phase, run.planner, dict(run.settings), run.seed, dict(run.scores)) for run in whole.tuning]
    assert [(r.phase, r.planner, dict(r.settings), r.seed, dict(r.scores)) for r in parts.tuning] == key
    assert parts.chosen == whole.chosen


def test_a_planner_whose_peak_is_given_is_not_tuned(tmp_path):
    job = plan("wsd", "constant", constant={"peak": 0.03}, wsd={"cooldown": 0.4})
    runs = compared(job, Store(tmp_path / "records.sqlite"), "x", STACKED, folder=tmp_path)
    assert {tuned_planner(run) for run in runs.tuning} == {"wsd"}
    assert {run.settings["cooldown"] for run in runs.tuning} == {0.4}
    assert runs.chosen["constant"].peak == 0.03


def test_a_policy_that_took_more_runs_is_in_a_class_of_its_own(tmp_path):
    job = plan("wsd", "ppo")
    assert job.apart == ("ppo",)
    runs = compared(job, Store(tmp_path / "records.sqlite"), "x", STACKED, folder=tmp_path)
    summary = report_of(job, runs).summary
    assert summary.rows[-1].planner == "ppo"
    assert (summary.rows[-1].apart, summary.baseline, summary.tied) == (True, "wsd", ())
    assert "wsd is the only planner" in summary.conclusion
    assert str(summary.rows[-1].spent).startswith("8+")


def test_what_cannot_be_fair_is_refused():
    given = plan("latent-ode", **{"latent-ode": {"model": "FashionLeNet5"}})
    with pytest.raises(UserError, match=r"its model took \d+ runs, and each planner has 8: give --tuning-runs \d+ or"):
        given.tuning("latent-ode").check()
    alone = plan("latent-ode-best", **{"latent-ode-best": {"model": "DigitsMLP"}})
    with pytest.raises(UserError, match="or compare latent-ode, too, so that one is fitted to these runs"):
        alone.tuning("latent-ode-best").check()
    with pytest.raises(UserError, match="8 runs of tuner 'latent-ode': a model needs at least 10"):
        plan("latent-ode").tuning("latent-ode").check()
    with pytest.raises(UserError, match="no rates, tuning seeds or rule"):
        replace(plan("wsd"), rates=(0.1,))
    with pytest.raises(UserError, match="--tuning-runs and a grid"):
        Comparison(tuning_runs=8, rates=(0.1, 0.2))
    with pytest.raises(UserError, match="--repeats repeats the common procedure"):
        Comparison(repeats=2, stop="median")
    with pytest.raises(UserError, match="all is tuned anew"):
        Comparison(("wsd",), set=("wsd.cooldown=0.3",), repeats=2).run(Lab(TASK, None, "x"))
    assert Comparison(("wsd",)).plan(TASK).tuning_runs == TUNING_RUNS
    assert Comparison(("wsd",), rates=(0.1,)).plan(TASK).tuning_runs == 0


def test_a_grid_is_still_a_grid(tmp_path):
    job = ComparisonPlan(TASK, ("wsd",), (0.01, 0.1), (7,), (0, 1))
    runs = compared(job, Store(tmp_path / "records.sqlite"), "x", STACKED)
    assert [(run.phase, tuned_planner(run)) for run in runs.tuning] == [("tune", "wsd")] * 2


def test_repeats_are_of_the_whole_procedure(tmp_path):
    study = Comparison(("wsd", "constant"), tuning_runs=4, repeats=3, margin=0.01, seeds=(0, 1))
    curve = study.run(lab(tmp_path))
    assert isinstance(curve, BudgetCurve)
    assert (curve.labels, curve.margin) == (["wsd", "constant"], 0.01)
    assert curve.losses("wsd", 4).shape == (3, 2)
    assert {answer.child_steps for answer in curve.answers} == {160}
    one = Comparison(("wsd", "constant"), tuning_runs=4, seeds=(0, 1)).run(lab(tmp_path / "one"))
    losses = {row.planner: row.test_loss.value for row in one.summary.rows}  # the first repeat is the same procedure
    assert losses["wsd"] == pytest.approx(curve.losses("wsd", 4)[0].mean(), rel=1e-4)


def test_losses_are_told_as_steps(tmp_path):
    falls = np.array([0.6, 0.5, 0.4, 0.35, 0.3])[:, None, None] * np.ones((5, 2, 3))
    exchange = Exchange("wsd", np.array([0.5, 0.7, 1.0, 1.4, 2.0]), falls)
    assert exchange.steps(Mean(0.1, 0.0, 10)).value == pytest.approx(0.7)
    assert exchange.steps(Mean(-0.05, 0.0, 10)).value == pytest.approx(1.4)
    between = exchange.steps(Mean(-0.025, 0.01, 1e9))
    assert between.value == pytest.approx(1.4**0.5)
    assert between.low == pytest.approx(1.4 ** ((0.025 - 0.0196) / 0.05), rel=1e-3)
    assert exchange.text(Mean(0.3, 0.0, 10)) == "< 50 %"
    assert exchange.text(Mean(-0.2, 0.0, 10)) == "> 200 %"
    assert exchange.steps(Mean(0.0, 0.01, 10)) == Estimate(1.0, exchange.steps(Mean(0.0, 0.01, 10)).low, pytest.approx(
        1.0, abs=0.2))  # fmt: skip

    study = TuningBudget(("wsd", "coarse-to-fine:planner=constant"), (4,), 2, (0, 1), ("sweep:wsd",), in_steps="wsd")
    curve = study.run(lab(tmp_path))
    assert curve.exchange.losses.shape == (5, 2, 2)
    np.testing.assert_allclose(curve.exchange.shares, [0.5, 0.7, 1.0, 1.4, 2.0])
    np.testing.assert_array_equal(curve.exchange.losses[2], curve.losses("wsd", 4))
    labels = {answer.label for answer in curve.answers}
    assert {label for label in labels if label.startswith("best run of")} == {"best run of wsd"}  # not of the other
    assert "steps of wsd" in curve.document().blocks[3].columns[3].name
    with pytest.raises(UserError, match="unknown tuner of in-steps 'wds'; did you mean 'wsd'"):
        TuningBudget(("wsd",), in_steps="wds")
    with pytest.raises(UserError, match="unknown tuner of variants 'sweep' 'tpe'"):
        TuningBudget(("wsd",), variants=("sweep:tpe",))


def test_repeats_that_begin_elsewhere_have_other_seeds(tmp_path):
    study = TuningBudget(("wsd",), (4,), 2, (0,), first_repeat=50)
    work = lab(tmp_path)
    curve = study.run(work)
    assert {answer.repeat for answer in curve.answers} == {50, 51}
    assert {(run.seed - 3_000_000) // 10_000 for run in work.store.runs("x", "wsd-0")} == {50, 51}
    with pytest.raises(UserError, match="3 repeats from number 98 on: there are 100, from 0"):
        TuningBudget(("wsd",), repeats=3, first_repeat=98)


def test_settings_of_a_tuner_that_are_no_text_are_not_taken_from_its_name():
    with pytest.raises(UserError, match="unknown setting of tuner 'coarse-to-fine' 'fixed'"):
        find_tuner("coarse-to-fine:fixed=1")
    assert find_tuner("coarse-to-fine:planner=wsd").planner == WSD.name

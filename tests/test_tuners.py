"""Tuners on known landscapes, and the budget curve: what is spent, resumed and told."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.registry import find_tuner, find_variants, tuner_names
from lr_env.report.markdown import markdown_text
from lr_env.report.plotting import new_figure
from lr_env.rollout import PlannedRun
from lr_env.runs.lab import Lab
from lr_env.seeds import PER_REPEAT, TUNERS
from lr_env.studies.tuning_budget.report import BudgetCurve, TunedPlanner
from lr_env.studies.tuning_budget.study import TuningBudget
from lr_env.tasks import find_task
from planners.latent_ode import ablations
from planners.latent_ode import tuner as latent_ode_tuner
from planners.latent_ode.ablations import (
    FITS,
    GENERATIVE_FITS,
    GENERATIVE_PLANS,
    PLANS,
    SWEEP_WITHOUT,
)
from planners.latent_ode.artifact import MODELS
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.generative.fit import GenerativeFitting
from planners.latent_ode.generative.planner import LatentODEGenerative
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.sweep.designs import DESIGNS
from planners.schedules import Constant
from planners.tuning import tuners
from planners.tuning.search_space import FAMILIES, Point, schedule_at
from planners.tuning.tuners import DirectSearch
from tests.helpers import StoppedError, stopping_after
from tests.test_cli import lr_env

TASK = replace(find_task("DigitsMLP"), budget=20, segment=5, val_subset=100)
TRAINING = Execution(backend="loop")


def record(planner, seed, end):
    settings = PlannedRun(planner, seed).settings
    return RunRecord("tune", planner.name, settings, seed, "finished", scores={"final_val_loss": end})


def spent(tuner, runs, end):
    """The records of a tuner that spent so many runs where runs end as told."""
    records = []
    while len(records) < runs:
        count = min(tuner.batch_size(len(records)), runs - len(records))
        records += [record(planner, 0, end(planner)) for planner in tuner.propose(TASK, 0, records, count)]
    return records


def far(planner):
    """From the best point of a landscape: cosine at a peak of 0.1 is best."""
    return abs(np.log(planner.peak / 0.1)) + (planner.name != "cosine")


def test_all_points_of_all_families_are_schedules():
    low, high = TASK.tuning_range
    for family in FAMILIES:
        schedules = {schedule_at(family, Point(*at), (low, high)) for at in np.ndindex(2, 2, 2)}
        assert {schedule.name for schedule in schedules} == {family}
        np.testing.assert_allclose(sorted({schedule.peak for schedule in schedules}), [low, high])
        assert all((schedule.preview(200) > 0).all() for schedule in schedules)


@pytest.mark.parametrize("name", ["wsd", "random", "tpe", "wsd-tpe"])
def test_tuners_repeat_themselves_and_answer_the_best_run(name, tmp_path):
    tuner = find_tuner(name)
    runs = spent(tuner, 12, far)
    assert spent(tuner, 12, far) == runs
    assert spent(tuner, 9, far) == runs[:9]  # a smaller budget is the beginning of a larger one
    planner = tuner.select(TASK, 0, runs, tmp_path)
    best = min(runs, key=lambda run: run.scores["final_val_loss"])
    assert (tuner.name, planner.name, planner.peak) == (name, best.planner, best.settings["peak"])
    assert ({run.planner for run in runs} <= {"wsd", "wsd-sqrt"}) == name.startswith("wsd")
    other = tuner.propose(TASK, 1, [], 1)
    assert other != tuner.propose(TASK, 0, [], 1)


def test_the_estimator_learns_from_how_runs_end():
    """After 60 runs the last ones of TPE are nearer to the best than those of a Sobol sequence."""
    learned, drawn = (spent(find_tuner(name), 60, far)[-20:] for name in ("tpe", "random"))
    assert np.median([r.scores["final_val_loss"] for r in learned]) < 0.6 * np.median(
        [r.scores["final_val_loss"] for r in drawn]
    )


@pytest.mark.parametrize("diverges", [False, True])
def test_a_range_test_takes_the_rate_at_which_the_loss_falls_fastest(diverges, tmp_path):
    """The loss falls along a logistic curve of the log rate, steepest at 0.03, and rises far above it."""
    task = replace(TASK, budget=1000, segment=10)
    tuner = find_tuner("range-test:planner=wsd")
    [planner] = tuner.propose(task, 0, [], 1)
    rates = planner.preview(100)
    np.testing.assert_allclose(rates, np.geomspace(*task.tuning_range, 100))
    losses = 2.3 - 2 / (1 + np.exp(-4 * np.log(rates / 0.03))) + np.maximum(0, 3 * np.log(rates / 0.15))
    losses = losses[: np.argmax(rates > 0.15) + 1] if diverges else losses
    run = replace(record(planner, 3, np.inf), curves={"train_loss": losses})
    selected = tuner.select(task, 0, [run], tmp_path)
    assert selected.name == "wsd"
    assert selected.peak == pytest.approx(0.03, rel=0.1)
    flat = replace(run, curves={"train_loss": np.full(100, 2.3) + 0.01 * np.sin(np.arange(100))})
    assert find_tuner("range-test").select(task, 0, [flat], tmp_path).name == "one-cycle"
    with pytest.raises(UserError, match="needs a run"):
        tuner.check([0, 1])


@pytest.mark.parametrize("design", ["paper", "random", "mixed", "wsd"])
def test_a_tuner_of_a_design_makes_its_runs(design):
    tuner = find_tuner(f"latent-ode:design={design}")
    assert (tuner.name, tuner.design) == (f"latent-ode:design={design}", design)
    runs = spent(tuner, 24, far)
    designed = DESIGNS[tuner.design](24, TASK.tuning_range, [0] * 24, 0)
    assert [run.settings for run in runs] == [run.settings for run in designed]
    seeds = [tuner.seed_index(run) for run in range(24)]
    assert len(set(seeds)) == (2 if design == "paper" else 8)


def test_what_is_left_out_is_otherwise_in_nothing_else(tmp_path, monkeypatch):
    """Each answer of the ablations is the planner with other settings, or with another model of the same runs."""
    for module in (ablations, latent_ode_tuner):
        monkeypatch.setattr(
            module, "fitted_to", lambda task, runs, folder, fitting: f"{folder}/{replace(fitting, seed=0)}"
        )
    planner = find_tuner("latent-ode").select(TASK, 3, [], tmp_path)
    assert planner == LatentODE(model=f"{tmp_path}/{Fitting()}")
    answers = find_variants("ablations")(planner, TASK, 3, [], tmp_path)
    for label, fitting in FITS.items():
        assert answers[label] == replace(planner, model=f"{tmp_path}/{fitting}")
    assert (
        len({planner, *answers.values()}) == 1 + len(answers) == 1 + len(PLANS) + len(FITS) + len(MODELS.shipped()) - 1
    )
    for label, settings in PLANS.items():
        other = answers[label]
        assert {name for name, value in vars(planner).items() if vars(other)[name] != value} == set(settings), label


@pytest.mark.parametrize("design", ["paper", "wsd"])
def test_the_published_planner_is_held_against_the_same_sweep(design, tmp_path, monkeypatch):
    """All variants are of runs of one sweep, but for those whose model does not know a family."""
    for module in (ablations, latent_ode_tuner):
        monkeypatch.setattr(
            module,
            "fitted_to",
            lambda task, runs, folder, fitting: f"{len(runs)} {sorted({run.planner for run in runs})} {fitting}",
        )
    tuner = find_tuner("latent-ode-generative" + {"paper": "", "wsd": ":design=wsd"}[design])
    runs = spent(tuner, 40, far)
    planner = tuner.select(TASK, 3, runs, tmp_path)
    answers = find_variants("ablations")(planner, TASK, 3, runs, tmp_path)
    assert len({planner, *answers.values()}) == 1 + len(answers)
    everything = f"40 {sorted({run.planner for run in runs})} "
    assert planner == LatentODEGenerative(model=f"{everything}{GenerativeFitting(seed=3)}")
    for label, other in answers.items():
        changed = {name for name, value in vars(planner).items() if vars(other).get(name, value) != value}
        if label in GENERATIVE_PLANS:
            assert changed == set(GENERATIVE_PLANS[label]), label
        if label in GENERATIVE_FITS:
            assert other == replace(planner, model=f"{everything}{replace(GENERATIVE_FITS[label], seed=3)}")
        if label not in SWEEP_WITHOUT:
            assert other.model.startswith(everything), label
    assert ("without one-cycle" in answers) == (design == "paper")
    if design == "paper":
        families = "['constant', 'cosine', 'step']"
        assert answers["without one-cycle"].model == f"30 {families} {GenerativeFitting(seed=3)}"


def test_diverged_runs_are_the_worst_for_the_estimator(monkeypatch):
    optuna, reported = pytest.importorskip("optuna"), []
    tell = optuna.study.Study.tell
    monkeypatch.setattr(optuna.study.Study, "tell", lambda *given: reported.append(given[2]) or tell(*given))
    tuner, ends = find_tuner("tpe"), [np.inf, 0.5, 0.7, np.inf, 0.4]
    runs = []
    for end in ends:
        runs += [record(planner, 0, end) for planner in tuner.propose(TASK, 0, runs, 1)]
    reported.clear()
    assert len(tuner.propose(TASK, 0, runs, 1)) == 1
    assert reported == [np.inf, 0.5, 0.7, 0.7, 0.4]


def test_a_direct_search_finds_a_known_schedule(tmp_path):
    target = np.log([0.02, 0.2, 0.15, 0.1, 0.05, 0.001])
    tuner = DirectSearch(schedules=30, seeds=1)

    def end(planner):
        return ((np.log(planner.peak) + np.log(planner.levels) - target) ** 2).sum()

    runs = spent(tuner, 900, end)
    answer = tuner.select(TASK, 0, runs, tmp_path)
    np.testing.assert_allclose(np.log(answer.peak) + np.log(answer.levels), target, atol=0.25)


def test_a_budget_curve_is_made_resumed_and_told(tmp_path, monkeypatch):
    study = TuningBudget(("wsd", "tpe"), (3, 5), 2, (0, 1, 2), reference=("direct", 40))
    whole = study.run(Lab(TASK, Store(tmp_path / "whole.sqlite"), "x", TRAINING, folder=tmp_path / "whole"))
    store = Store(tmp_path / "stopped.sqlite")
    stop = stopping_after(17 * TASK.budget)
    with pytest.raises(StoppedError):
        study.run(Lab(TASK, store, "x", TRAINING, progress=stop, folder=tmp_path / "stopped"))
    again = study.run(Lab(TASK, store, "x", TRAINING, folder=tmp_path / "stopped"))
    assert again.to_json() == whole.to_json()
    grown = Lab(TASK, Store(tmp_path / "grown.sqlite"), "x", TRAINING, folder=tmp_path / "grown")
    replace(study, runs=(3,)).run(grown)
    assert study.run(grown).to_json() == whole.to_json()
    with pytest.raises(UserError, match="was begun with budgets runs"):
        replace(study, runs=(4, 5)).run(grown)
    phases = {run.phase: run for run in store.runs("x")}
    assert set(phases) == {"wsd-0", "wsd-1", *(f"tpe-{turn}" for turn in range(5)), "direct-0", "final"}
    assert len([run for run in store.runs("x") if run.phase.startswith("tpe")]) == 2 * 5
    assert {run.seed for run in store.runs("x") if run.phase.startswith("wsd")} == {
        TUNERS.start,
        TUNERS.start + PER_REPEAT,
    }
    assert {run.scores.keys() >= {"test_loss"} for run in store.runs("x", "final")} == {True}
    assert not any("test_loss" in run.scores for run in store.runs("x") if run.phase != "final")

    ends = {(a.label, a.runs, a.repeat): a.losses().mean() for a in whole.answers}
    assert whole.best.label == "direct"
    regret = whole.regret("wsd", 5)
    assert regret.value == pytest.approx(np.mean([ends["wsd", 5, r] for r in (0, 1)]) - ends["direct", 40, 0])
    assert whole.difference("tpe", "wsd", 3).value == pytest.approx(
        np.mean([ends["tpe", 3, r] - ends["wsd", 3, r] for r in (0, 1)])
    )
    whole.write(tmp_path, {"command": "lr-env tuning-budget"})
    saved = json.loads((tmp_path / "budget.json").read_text())
    assert saved["curves"][0]["to_wsd"].keys() == {"difference", "p_holm", "verdict"}
    assert len(saved["curves"]) == 2 * 2
    regrets, differences = (tmp_path / "summary.md").read_text().split("Less the loss of wsd, repeat by repeat")
    assert "| 3 runs | 5 runs |" in regrets
    assert "| wsd |" in regrets
    assert "| wsd |" not in differences
    assert re.search(r"\| tpe \| [+-]\d+\.\d+ ±", differences)
    assert len({json.dumps(dict(run.settings)) for run in store.runs("x", "wsd-0")}) == 2 * 3  # repeats differ
    assert (tmp_path / "budget.png").stat().st_size > 10_000


def test_regret_where_runs_diverged():
    """A ceiling and answers of which runs diverged are told, and a choice is by validation losses."""

    def answer(label, repeat, losses, val=0.5):
        ends = tuple(
            replace(
                record(Constant(0.1 + 0.1 * repeat), seed, val),
                diverged=bool(np.isinf(loss)),
                scores={"final_val_loss": val, "test_loss": loss},
            )
            for seed, loss in enumerate(losses)
        )
        return TunedPlanner(label, 10, repeat, Constant(0.1 + 0.1 * repeat), ends)

    wild = [answer("a", 0, [1, np.inf]), answer("a", 1, [1.0, 2]), answer("direct", 0, [np.inf, 1])]
    curve = BudgetCurve("x", ("a",), (10,), (0, 1), tuple(wild), "direct")
    json.dumps(curve.to_json())
    assert "| a | undefined |" in markdown_text(curve.document())
    both = [*wild[:2], answer("b", 0, [2.0, 3]), answer("b", 1, [2.0, 2]), answer("c", 0, [1.0, 1])]
    axes = new_figure(4, 3, "").subplots()
    BudgetCurve("x", ("a", "b", "c"), (10,), (0, 1), tuple(both), "c")._draw_rows(axes)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]  # the lowest row first
    assert [(text.get_text(), text.xy[1]) for text in axes.texts] == [("diverged", 0)]
    (marks,) = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert marks == [[1.25, 1]]
    calm = [answer("a", 0, [1.0, 2]), answer("a", 1, [2.0, 2]), answer("b", 0, [3.0, 3], 0.4), answer("b", 1, [1.0, 1])]
    curve = BudgetCurve("x", ("a", "b"), (10,), (0, 1), tuple(calm))
    assert curve.best is calm[2]  # though b's other answer has the lower test loss
    assert curve.regret("a", 10).value == pytest.approx(1.75 - 3)
    same = [answer("a", 0, [1.0, 2]), replace(answer("a", 0, [1.0, 2]), repeat=1)]
    assert BudgetCurve("x", ("a",), (10,), (0, 1), tuple(same)).regret("a", 10).half_width == 0  # the best itself


def test_what_is_said_of_a_difference_counts_repeats_and_seeds_and_the_margin():
    """Two repeats that each have luck of their own: seeds alone would tell them apart."""

    def answers(label, means):
        luck = 0.001 * np.random.default_rng(len(label)).standard_normal((len(means), 10))
        for repeat, (mean, of_seeds) in enumerate(zip(means, luck, strict=True)):
            planner = Constant(0.1 + 0.01 * repeat + 0.001 * len(label))
            ends = [
                replace(record(planner, seed, 0.5), scores={"final_val_loss": 0.5, "test_loss": mean + more})
                for seed, more in enumerate(of_seeds)
            ]
            yield TunedPlanner(label, 10, repeat, planner, tuple(ends))

    answers_of = {"a": (0.50, 0.50, 0.50), "bb": (0.51, 0.53, 0.46), "ccc": (0.56, 0.561, 0.559), "dddd": (0.501,) * 3}
    every = tuple(answer for label, means in answers_of.items() for answer in answers(label, means))
    curve = BudgetCurve("x", tuple(answers_of), (10,), tuple(range(10)), every, margin=0.005)
    _, differences = markdown_text(curve.document()).split("Less the loss of a")
    said = [line.split("|")[4].strip() for line in differences.splitlines() if line.startswith(("| b", "| c", "| d"))]
    assert said == ["not told apart, up to 0.089", "equivalent", "worse"]
    assert curve.adjusted(10)["ccc"] < 1e-3 < 0.5 < curve.adjusted(10)["bb"]


def test_seeds_of_tuning_runs_are_shared_by_a_few(tmp_path, monkeypatch):
    monkeypatch.setattr(tuners, "RUNS_PER_SEED", 2)
    store = Store(tmp_path / "r.sqlite")
    TuningBudget(("random",), (5,), 1, (0,)).run(Lab(TASK, store, "x", TRAINING, folder=tmp_path))
    assert sorted(run.seed - TUNERS.start for run in store.runs("x", "random-0")) == [0, 0, 1, 1, 2]


def test_bad_budgets():
    assert set(tuner_names()) >= {"wsd", "random", "tpe", "direct", "latent-ode"}
    for given, words in (
        ((("nobody",), (5,), 1, (0,)), "unknown tuner .nobody."),
        ((("wsd",), (5, 5), 1, (0,)), "give rising numbers of runs"),
        ((("wsd",), (5,), 0, (0,)), "0 repeats"),
        ((("wsd", "wsd"), (5,), 1, (0,)), "each once"),
        ((("wsd",), (5,), 1, (0,), (), ("wsd", 5)), "not among the others"),
        ((("wsd",), (5,), 1, (0,), ("control",)), "unknown kind of variants 'control'; did you mean 'controls'"),
        ((("latent-ode:design=papers",), (5,), 1, (0,)), "unknown design 'papers'; did you mean 'paper'"),
        ((("latent-ode:desing=paper",), (5,), 1, (0,)), "unknown setting of tuner 'latent-ode' 'desing'"),
        ((("wsd",), (5,), 1, (0, 0)), "seed 0 is given twice"),
        ((("wsd",), (5,), 1, (TUNERS.start,)), "below 1,000,000"),
        ((("latent-ode",), (5,), 1, (0,)), "5 runs of tuner 'latent-ode': a model needs at least 10"),
        ((("wsd",), (5,), 1, (0,), (), ("direct", 39)), "39 runs of tuner 'direct': give at least 40"),
    ):
        with pytest.raises(UserError, match=words):
            TuningBudget(*given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runs", "few"), "runs 'few': give numbers of runs"),
        (("--tuners", "tpo"), "unknown tuner 'tpo'; did you mean 'tpe'"),
    ],
)
def test_bad_input_on_the_command_line(tmp_path, options, words):
    done = lr_env("tuning-budget", "DigitsMLP", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1

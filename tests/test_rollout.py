from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from lr_env.children import Backend, Children, Execution
from lr_env.errors import UserError
from lr_env.planner import Planner, require
from lr_env.records.store import Store
from lr_env.registry import candidates, find_planner, planner_names
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.signals import ALWAYS
from lr_env.studies.comparison.comparison import ComparisonPlan, best_setting, tuning_steps
from lr_env.tasks import TASKS, find_task
from lr_env.tasks.catalogue import task_names
from planners.schedules import Constant, Cosine
from tests.helpers import PLANNERS, compared

TASK = replace(TASKS["DigitsMLP"], budget=100, segment=10)


@dataclass(frozen=True)
class Noisy:
    """Draws every rate of a segment from the seed of its run, and remembers how often it was asked."""

    peak: float = 0.05
    name = "noisy"
    needs = frozenset({"step", "val_loss"})

    def start(self, run, seeds):
        return {"seeds": np.array(seeds), "asked": 0, "segment": run.segment}

    def plan(self, state, signals):
        assert set(signals) == set(ALWAYS)
        draws = [
            np.random.Generator(np.random.PCG64([seed, state["asked"]])).random(state["segment"])
            for seed in state["seeds"].tolist()
        ]
        return self.peak * (0.5 + np.array(draws)), {**state, "asked": state["asked"] + 1}

    @classmethod
    def candidates(cls, rates):
        return [cls(rate) for rate in rates]


def test_a_rollout_is_the_schedule_trained_by_hand():
    (record,) = rollout(Cosine(0.1), TASK, [5], execution=Execution(backend="loop"))
    children = Children(TASK, [5], execution=Execution(backend="loop"))
    rates = Cosine(0.1).preview(10)
    for segment, rate in enumerate(rates):
        loss = children.train([rate])
        measured = children.measure()
        assert record.curves["lr"][segment] == rate
        assert record.curves["train_loss"][segment] == loss[0]
        assert record.curves["val_loss"][segment] == measured["val_loss"][0]
    loss, accuracy = children.evaluate("test")
    assert (record.scores["test_loss"], record.scores["test_accuracy"]) == (loss[0], accuracy[0])
    assert (record.steps, record.diverged, record.status) == (100, False, "finished")


def test_runs_are_paired_and_independent_of_their_neighbours():
    mixed = [PlannedRun(planner, seed) for seed in (0, 1) for planner in (Noisy(), Constant(0.05), Constant(9.0))]
    runs = Rollout(TASK, mixed, execution=Execution(backend=Backend("stacked", 6)))
    while not runs.done:
        runs.advance()
    records = [runs.record(row, "final") for row in range(6)]
    assert [record.diverged for record in records] == [False, False, True] * 2
    for planner, row in ((Noisy(), 0), (Constant(0.05), 1)):
        alone = rollout(planner, TASK, [1, 0], execution=Execution(backend="loop"))
        for record, mine in zip(alone, (records[row + 3], records[row]), strict=True):
            assert record.seed == mine.seed
            assert mine.scores["test_loss"] == pytest.approx(record.scores["test_loss"], rel=1e-4)


def test_a_rollout_resumes_to_the_same_bytes():
    runs = [PlannedRun(planner, seed) for seed in (0, 1) for planner in (Noisy(), Cosine(0.1), Constant(9.0))]

    def end(rollout: Rollout) -> str:
        while not rollout.done:
            rollout.advance()
        return repr([replace(rollout.record(row, "final"), planning_seconds=0.0) for row in range(len(runs))])

    first = Rollout(TASK, runs, execution=Execution(backend=Backend("stacked", 6)))
    for _ in range(4):
        first.advance()
    snapshot = first.snapshot()
    whole = end(first)
    second = Rollout(TASK, runs, execution=Execution(backend=Backend("stacked", 6)))
    second.restore(snapshot)
    assert end(second) == whole
    first.restore(snapshot)
    assert end(first) == whole


def test_planners_are_found_by_name():
    assert set(planner_names()) >= set(PLANNERS)
    for name in PLANNERS:
        assert find_planner(name) is PLANNERS[name]
        assert isinstance(candidates(find_planner(name), [0.1])[0], Planner)
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        find_planner("cosin")


def test_a_broken_planner_is_told_from_a_broken_environment():
    for answer, message in ((np.array([0.1, 0.1]), "shape"), (np.array([np.nan]), "outside"), (0.1, "shape")):
        planner = _Answers(0.1)
        object.__setattr__(planner, "answer", answer)
        runs = Rollout(TASK, [PlannedRun(planner, 0)])
        with pytest.raises(UserError, match=f"'answers'.*{message}"):
            runs.advance()
    with pytest.raises(UserError, match=r"'answers' needs the signal 'gradient_noise'.*it measures: "):
        Rollout(TASK, [PlannedRun(_Greedy(0.1), 0)])
    with pytest.raises(UserError, match="offers 1 settings for 2"):
        candidates(_OneSetting, [0.1, 0.2])
    require(Constant(0.1), {"step": np.zeros(1)})


@dataclass(frozen=True)
class _Answers:
    peak: float
    answer = None
    name = "answers"
    needs = frozenset({"step"})

    def start(self, run, seeds):
        return None

    def plan(self, state, signals):
        return self.answer, state


@dataclass(frozen=True)
class _Greedy(_Answers):
    needs = frozenset({"gradient_noise"})


class _OneSetting(Constant):
    @classmethod
    def candidates(cls, rates):
        return [cls(0.1)]


def test_a_job_tunes_on_validation_with_equal_budgets_and_runs_on_fresh_seeds(tmp_path):
    job = ComparisonPlan(TASK, ("constant", "wsd"), (0.01, 0.1, 9.0), tune_seeds=(100, 101), seeds=(0, 1, 2))
    reported_steps = []
    result = compared(
        job, Store(tmp_path / "r.sqlite"), "job", progress=lambda what, steps: reported_steps.append(steps)
    )
    assert sum(reported_steps) == job.child_steps == 100 * (2 * 3 * 2 + 2 * 3)
    for planner in job.planners:
        tried = [r for r in result.tuning if r.planner == planner]
        assert len(tried) == 6
        assert not any("test_loss" in r.scores for r in tried)  # test is not touched by tuning
        final = [r for r in result.final if r.planner == planner]
        assert sorted(r.seed for r in final) == [0, 1, 2]
        assert all(dict(r.settings)["peak"] == result.chosen[planner].peak for r in final)
        # By hand: the setting whose two runs have the lowest mean loss.
        means = {}
        for record in tried:
            means.setdefault(str(record.settings), []).append(record.scores["final_val_loss"])
        best = min(means, key=lambda settings: np.mean(means[settings]))
        assert str(final[0].settings) == best
        assert best_setting(planner, job.candidates(planner), result.tuning) == result.chosen[planner]
    steps = tuning_steps(result.tuning, result.chosen)
    assert steps["constant"] == sum(r.steps for r in result.tuning if r.planner == "constant") < 600  # 9.0 diverged
    assert all(len(r.curves["val_loss"]) == 10 for r in result.final)


@dataclass(frozen=True)
class _HalvesWhenStalled:
    """Goes far below the range once its run has diverged and nothing improves any more."""

    peak: float
    name = "halves"
    needs = frozenset({"val_loss"})

    def start(self, run, seeds):
        return {"lr": np.full(len(seeds), self.peak), "best": np.full(len(seeds), np.inf)}

    def plan(self, state, signals):
        better = signals["val_loss"] < state["best"]
        lr = np.where(better, state["lr"], 1e-3 * state["lr"])
        return lr, {"lr": lr, "best": np.minimum(state["best"], signals["val_loss"])}


def test_what_a_planner_answers_for_a_diverged_run_does_not_end_its_neighbours():
    runs = Rollout(
        TASK, [PlannedRun(_HalvesWhenStalled(0.01), seed) for seed in (0, 1)], execution=Execution(backend="stacked")
    )
    runs.env.episodes.children.state.parameters[0] = float("nan")
    while not runs.done:
        runs.advance()
    assert [runs.record(row, "final").diverged for row in (0, 1)] == [True, False]
    assert runs.record(1, "final").steps == 100


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests.nowhere:Planner", "cannot be loaded"),
        ("planners.schedules:Cosine", "calls itself 'cosine'"),
        ("planners.settings:SWITCH", "has no 'name'"),
    ],
)
def test_an_entry_point_that_does_not_fit_is_refused(monkeypatch, value, message):
    entry = EntryPoint("mine", value, "lr_env.planners")
    monkeypatch.setattr("lr_env.entry_points.entry_points", lambda group: [entry])
    with pytest.raises(UserError, match=message):
        find_planner("mine")


OWN_TASK = replace(TASKS["DigitsMLP"], name="Own")


def test_a_task_of_another_package_is_found_by_its_name(monkeypatch):
    entries = [EntryPoint(name, "tests.test_rollout:OWN_TASK", "lr_env.tasks") for name in ("Own", "Other")]
    monkeypatch.setattr("lr_env.entry_points.entry_points", lambda group: entries if group == "lr_env.tasks" else [])
    assert find_task("Own") == OWN_TASK
    assert task_names() == [*TASKS, "Other", "Own"]
    with pytest.raises(UserError, match=r"task 'Other' is no lr_env\.Task of that name: repair the package"):
        find_task("Other")
    with pytest.raises(UserError, match="unknown task 'Onw'; did you mean 'Own'"):
        find_task("Onw")

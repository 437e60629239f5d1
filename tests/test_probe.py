"""Forks: what they are trained on, that they leave no trace, what they cost, and what is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from lr_env.capabilities import Forking
from lr_env.children import Backend, Children, Execution
from lr_env.env.episodes import Episodes
from lr_env.env.forks import Forks
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.registry import find_planner, planner_names
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.session import PlannerSession
from lr_env.signals import ALWAYS
from lr_env.tasks import TASKS
from planners import Constant, Lookahead

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)
BACKENDS = [Backend("loop"), Backend("stacked", 2)]


@dataclass(frozen=True)
class Curious:
    """Looks ahead before every segment, keeps what it saw to itself, and goes on at its constant rate."""

    peak: float = 0.05
    tried: tuple[float, ...] = (0.001, 0.1)
    segments: Any = 2
    name = "curious"
    needs = frozenset({"step"})
    needs_forks = True

    def start(self, run, seeds):
        return {"lr": np.full(len(seeds), self.peak), "seen": []}

    def plan(self, state, signals, probe=None):
        tried = np.tile(np.array(self.tried), (len(state["lr"]), 1))
        seen = probe(tried, self.segments)
        return state["lr"], {**state, "seen": [*state["seen"], seen["val_loss"]]}


@dataclass(frozen=True)
class Dropped:
    """A network that is random in training."""

    def build(self, input_shape, num_classes):
        return nn.Sequential(nn.Linear(*input_shape, 8), nn.Dropout(0.4), nn.Linear(8, num_classes))


@dataclass(frozen=True)
class KillsTheFirst(Curious):
    """Ends the first of its runs after two segments."""

    def plan(self, state, signals, probe=None):
        lr, state = super().plan(state, signals, probe)
        lr = lr.copy()
        lr[0] = 9.0 if len(state["seen"]) > 2 else lr[0]
        return lr, state


def started(seeds=(3, 4), backend: Backend = BACKENDS[0], task=TASK) -> Episodes:
    episodes = Episodes(task, len(seeds), backend=backend)
    episodes.start(range(len(seeds)), seeds)
    return episodes


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_forks_are_children_trained_by_hand(backend):
    episodes = started(backend=backend)
    episodes.step([0.05, 0.05])
    forks = Forks(episodes)
    rates = np.array([[[0.1, 0.02], [0.01, 0.2], [0.05, 0.05]], [[0.02, 0.1], [0.2, 0.01], [0.03, 0.03]]])
    measured, steps = forks.measure([0, 1], rates, 2)
    assert steps.tolist() == [60, 60]
    assert {name: values.shape for name, values in measured.items()} == {
        "train_loss": (2, 3, 2),
        "val_loss": (2, 3, 2),
        "step_losses": (2, 3, 20),
    }
    for run in (0, 1):
        hand = Children(TASK, [0], execution=Execution(backend="loop"))
        for fork in range(3):
            hand.restore(episodes.children.snapshot([run]))
            hand.order.assign([0], forks._seeds(np.array([run])))
            for segment in (0, 1):
                train = hand.train([rates[run, fork, segment]])
                assert measured["train_loss"][run, fork, segment] == pytest.approx(train[0], rel=1e-4)
                assert measured["val_loss"][run, fork, segment] == pytest.approx(
                    hand.measure()["val_loss"][0], rel=1e-4
                )
                within = slice(10 * segment, 10 * segment + 10)
                np.testing.assert_allclose(measured["step_losses"][run, fork, within], hand.step_losses[0], rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_forks_see_the_same_batches_and_masks_whatever_their_rate_and_not_those_of_the_run(backend):
    task = replace(TASK, network=Dropped(), segment=2)
    episodes = started(backend=backend, task=task)
    forks = Forks(episodes)
    near = np.array([1e-10, 1e-9, 1e-8])  # too small to change anything: all differences are the batches' and masks'
    first = forks.measure([0, 1], np.tile(near, (2, 1)), 3)[0]["step_losses"]
    np.testing.assert_allclose(first, np.repeat(first[:, :1], 3, axis=1), rtol=1e-5)
    again = forks.measure([0, 1], np.full((2, 1), 0.1), 3)[0]["step_losses"]  # another call, another rate
    np.testing.assert_allclose(again[:, 0, 0], first[:, 0, 0], rtol=1e-6)  # before the first update
    differ(again[:, 0], first[:, 0])
    differ(first[0, 0], first[1, 0])  # two runs
    episodes.step([1e-10, 1e-10])
    differ(episodes.children.step_losses, first[:, 0, :2])  # what the run sees itself
    later = forks.measure([0, 1], near[None].repeat(2, 0), 3)[0]["step_losses"]  # as good as the same child, 2 steps on
    differ(later[:, 0], first[:, 0])
    differ(later[:, 0, :4], first[:, 0, 2:])


def differ(one: np.ndarray, other: np.ndarray) -> None:
    """In every row, by more than rounding."""
    assert (np.abs(one - other).max(-1) > 1e-3).all()


def test_batches_of_forks_follow_from_the_seed_of_the_runs_batches():
    episodes = started((3, 3))  # one child twice
    forks = Forks(episodes)
    same = forks.measure([0, 1], [[0.1], [0.1]], 1)[0]["step_losses"]
    np.testing.assert_array_equal(same[0], same[1])
    episodes.children.order.assign([1], [4])
    other = forks.measure([0, 1], [[0.1], [0.1]], 1)[0]["step_losses"]
    np.testing.assert_array_equal(other[0], same[0])
    differ(other[1], same[1])


@pytest.mark.parametrize(("backend", "rtol"), [*zip(BACKENDS, (0.0, 1e-4), strict=True)], ids=str)
def test_a_fork_is_the_same_alone_and_among_many(backend, rtol):
    episodes = started(backend=backend)
    forks = Forks(episodes)
    rates = np.geomspace(0.001, 0.3, 5)  # 10 forks on 2 children: in turns
    many = forks.measure([0, 1], np.tile(rates, (2, 1)), 2)[0]
    for fork, rate in enumerate(rates):
        alone = forks.measure([1], [[rate]], 2)[0]
        for name, values in alone.items():
            np.testing.assert_allclose(values[0, 0], many[name][1, fork], rtol=rtol, atol=0)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_looking_leaves_no_trace_and_is_booked(backend):
    seeds = [0, 1]
    plain = rollout(Constant(0.05), TASK, seeds, execution=Execution(backend=backend))
    curious = rollout(Curious(0.05), TASK, seeds, execution=Execution(backend=backend))
    for record, mine in zip(plain, curious, strict=True):
        assert mine.scores == record.scores
        for name in ALWAYS:
            np.testing.assert_array_equal(mine.curves[name], record.curves[name])
        assert (record.extra_steps, mine.extra_steps) == (0, 6 * 2 * 2 * 10)  # segments x forks x long x steps
        assert mine.steps == record.steps == 60


def test_forks_end_where_a_run_would_have_ended():
    episodes = started((3, 4, 5))
    episodes.loss_bound[:] = [1e-3, 50.0, np.inf]
    measured, steps = Forks(episodes).measure([0, 1, 2], np.tile([0.01, 9.0], (3, 1)), 6)
    for name in ("train_loss", "val_loss"):
        assert np.isinf(measured[name][0]).all()
        assert np.isfinite(measured[name][1:, 0]).all()
    well = np.isfinite(measured["train_loss"]).sum(-1)
    np.testing.assert_array_equal(well, np.isfinite(measured["val_loss"]).sum(-1))
    np.testing.assert_array_equal(10 * well, np.isfinite(measured["step_losses"]).sum(-1))
    assert (np.diff(np.isfinite(measured["val_loss"]).astype(int), axis=-1) <= 0).all()  # once ended, always ended
    assert well[1, 1] < 6
    assert steps.tolist() == (10 * np.minimum(well + 1, 6).sum(-1)).tolist()


def test_what_runs_that_diverge_cost_is_what_their_forks_were_trained_for():
    runs = Rollout(
        TASK,
        [PlannedRun(KillsTheFirst(), seed) for seed in (0, 1, 2)],
        execution=Execution(backend=Backend("stacked", 3)),
    )
    while not runs.done:
        runs.advance()
    records = [runs.record(row, "final") for row in range(3)]
    assert [record.diverged for record in records] == [True, False, False]
    live = records[0].steps // 10  # segments that the first was asked for
    assert 3 <= live < 6
    assert [record.extra_steps for record in records] == [live * 40, 240, 240]
    for number, seen in enumerate(runs._sessions[0].state["seen"]):
        assert np.isfinite(seen[0]).all() == (number < live)
        assert np.isinf(seen[0]).all() == (number >= live)  # a run that has ended is not forked
        assert np.isfinite(seen[1:]).all()


def test_mixed_planners_share_the_forks_of_one_rollout():
    planners = [Curious(0.05), Constant(0.05), Curious(9.0), Curious(0.05, (0.2,), 3)]
    runs = Rollout(TASK, [PlannedRun(planner, 7) for planner in planners], execution=Execution(backend="loop"))
    began = time.perf_counter()
    while not runs.done:
        runs.advance()
    seconds = time.perf_counter() - began
    records = [runs.record(row, "final") for row in range(4)]
    ended = records[2].steps
    assert records[2].diverged
    assert [record.extra_steps for record in records] == [240, 0, ended * 4, 180]
    assert records[0].scores == records[1].scores == records[3].scores
    assert 0 < records[0].planning_seconds < 0.1 * seconds  # the forks' training is not planning


BAD = [
    ((0.1,), 0, "0 segments"),
    ((0.1,), True, "True segments"),
    ((0.1,), 1.5, "1.5 segments"),
    ((), 1, r"rates of shape \(2, 0\) for 2 runs"),
    ((np.nan,), 1, "learning rate nan: the task's range is 1e-10 to 10"),
    ((0.1, 11.0), 1, "learning rate 11"),
    ((0.0,), 1, "learning rate 0"),
    (("fast",), 1, "give an array of floats"),
]


@pytest.mark.parametrize(("tried", "segments", "message"), BAD, ids=str)
def test_a_wrong_probe_names_the_planner(tried, segments, message):
    runs = Rollout(
        TASK, [PlannedRun(Curious(0.05, tried, segments), seed) for seed in (0, 1)], execution=Execution(backend="loop")
    )
    with pytest.raises(UserError, match=rf"^planner 'curious' \(.*{message}[^\n]*$"):
        runs.advance()


def test_a_probe_has_a_row_for_each_run():
    forks = Forks(started())
    for shape in ((1, 3), (3, 3), (2,), (2, 3, 2), (2, 3, 1, 1)):
        with pytest.raises(UserError, match="2 runs over 1 segments"):
            forks.measure([0, 1], np.full(shape, 0.1), 1)


def test_only_planners_that_ask_for_forks_get_them():
    forking = [name for name in planner_names() if isinstance(find_planner(name), Forking)]
    assert forking == ["autolrs", "lookahead", "lrtuner"]
    spec = RunSpec("toy", 10, 1, (1e-3, 1.0), "SGD", 1)
    with pytest.raises(UserError, match=r"^planner 'lookahead' tries rates on forks of its runs[^\n]*has none$"):
        PlannerSession(Lookahead(0.1), spec, [0]).next_rates({})
    runs = Rollout(TASK, [PlannedRun(Constant(0.1), 0), PlannedRun(Curious(), 0)], execution=Execution(backend="loop"))
    runs.advance()  # the constant rate would refuse a third argument
    assert Rollout(TASK, [PlannedRun(Constant(0.1), 0)], execution=Execution(backend="loop"))._forks is None


def test_too_little_memory_is_told_before_training(monkeypatch):
    episodes = started()
    monkeypatch.setattr("lr_env.children.memory.available_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"^a planner that looks ahead needs a second child for each run: 2 children"):
        Forks(episodes)

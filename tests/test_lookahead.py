"""Planners that look ahead: do they choose what is best, what does it cost, and can it be resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Backend, Execution
from lr_env.errors import UserError
from lr_env.planner import Planner, RunSpec
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.tasks import TASKS
from planners import AutoLRS, Constant, Lookahead

SEGMENT = 10
RUN = RunSpec("toy", 400, SEGMENT, (1e-6, 10.0), "SGD", 1)
TASK = replace(TASKS["DigitsMLP"], budget=80, segment=10)
SHORT = [Lookahead(0.3, count=3, every=3, horizon=2, cooldown=1), AutoLRS(0.3, stage=3, trial=2, trials=3)]


class Valley:
    """A probe whose forks are formulas.

    A fork's loss falls exponentially, in 150 steps to a third, to a floor that rises with the square of the distance of
    its rate from the best one, in decades. It diverges above 30 times the best rate.

    Args:
        best: (run, segments done) -> the best rate.
    """

    def __init__(self, best: Callable[[int, int], float]) -> None:
        self.best = best
        self.now = 0
        self.calls: list[tuple[int, np.ndarray]] = []

    def __call__(self, lr: np.ndarray, segments: int) -> dict[str, np.ndarray]:
        lr = np.asarray(lr) if np.ndim(lr) == 3 else np.repeat(np.asarray(lr)[:, :, None], segments, axis=2)
        assert lr.shape[2] == segments
        assert ((lr >= RUN.lr_range[0]) & (lr <= RUN.lr_range[1])).all()
        self.calls.append((self.now, lr))
        best = np.array([self.best(run, self.now) for run in range(len(lr))])[:, None, None]
        distance = np.log10(lr[:, :, :1] / best)
        losses = 0.2 + 0.3 * distance**2 + 1.5 * np.exp(-np.arange(segments * SEGMENT) / 150)
        losses = np.where(distance < np.log10(30.0), losses, np.inf)
        by_segment = losses.reshape(*lr.shape[:2], segments, SEGMENT)
        return {"step_losses": losses, "train_loss": by_segment.mean(-1), "val_loss": by_segment[..., -1]}


def choices(planner: Planner, probe: Valley, seeds: list[int]) -> np.ndarray:
    """What a planner answers in a whole run, (segments, runs)."""
    state = planner.start(RUN, seeds)
    answers = []
    for now in range(RUN.num_segments):
        probe.now = now
        lr, state = planner.plan(state, {"step": np.full(len(seeds), float(now * SEGMENT))}, probe)
        answers.append(lr.copy())
        lr[:] = np.nan  # the caller's own
    return np.array(answers)


def falling(run: int, now: int) -> float:
    """Best rates that fall, and that lie on the grid of `Lookahead(1.0, span=4, count=9)`."""
    return [1.0, 0.1, 0.01][now // 15] * (1.0 if run == 0 else 10**-0.5)


def test_lookahead_takes_the_best_of_its_grid_at_every_decision():
    planner, probe = Lookahead(1.0, span=4.0, count=9, every=5, horizon=5, cooldown=0), Valley(falling)
    answers = choices(planner, probe, [0, 1])
    expected = [[falling(run, now - now % 5) for run in (0, 1)] for now in range(40)]
    np.testing.assert_allclose(answers, expected, rtol=1e-12)
    assert [now for now, _ in probe.calls] == list(range(0, 40, 5))
    for _, lr in probe.calls:
        np.testing.assert_allclose(lr, np.logspace(-4, 0, 9)[:, None] * np.ones((2, 1, 5)))


@pytest.mark.parametrize("loss", ["train", "val"])
def test_autolrs_finds_the_best_rate_of_every_stage(loss):
    planner, probe = AutoLRS(10.0, span=5.0, stage=15, trial=5, loss=loss), Valley(falling)
    answers = choices(planner, probe, [0, 1])
    expected = [[falling(run, now) for run in (0, 1)] for now in range(40)]
    assert np.abs(np.log10(answers / expected)).max() < 0.25  # a twentieth of the range
    assert all(len(np.unique(answers[part], axis=0)) == 1 for part in (slice(15), slice(15, 30), slice(30, 40)))
    assert [(now, *lr.shape) for now, lr in probe.calls] == [(now, 2, 1, 5) for now in (0, 15, 30) for _ in range(10)]
    tried = np.array([lr[:, 0, 0] for _, lr in probe.calls])
    assert ((tried >= 1e-4 * (1 - 1e-12)) & (tried <= 10.0)).all()


def test_the_first_trial_follows_from_the_seed_and_runs_search_each_for_itself():
    planner = AutoLRS(1.0, stage=20)
    together, alone = Valley(lambda run, now: 0.05), Valley(lambda run, now: 0.05)
    many, one = choices(planner, together, [5, 6]), choices(planner, alone, [6])
    np.testing.assert_array_equal(many[:, 1], one[:, 0])
    np.testing.assert_array_equal([lr[1] for _, lr in together.calls], [lr[0] for _, lr in alone.calls])
    assert together.calls[0][1][0, 0, 0] != together.calls[0][1][1, 0, 0]


@pytest.mark.parametrize("planner", [Lookahead(1.0, every=5, horizon=5), AutoLRS(1.0, stage=20)], ids=str)
def test_the_smallest_rate_is_taken_where_everything_diverges(planner):
    answers = choices(planner, Valley(lambda run, now: 1e-9 if run else 0.1), [0, 1])
    np.testing.assert_allclose(answers[:, 1], 0.01)
    np.testing.assert_allclose(np.log10(answers[:, 0]), -1, atol=0.15)


def race(lr: np.ndarray, segments: int) -> dict[str, np.ndarray]:
    """Forks that fall the faster, and to the higher a floor, the larger their rate."""
    lr = np.asarray(lr)[:, :, 0] if np.ndim(lr) == 3 else np.asarray(lr)
    steps = np.arange(segments * SEGMENT)
    losses = (lr**0.5)[..., None] + np.exp(-0.3 * lr[..., None] * steps)
    return {"step_losses": losses, "val_loss": losses[..., SEGMENT - 1 :: SEGMENT]}


def winner(steps: int) -> float:
    """The rate from 0.01 to 1 that is in front after so many steps of the race."""
    rates = np.geomspace(0.01, 1, 2001)
    return float(rates[(rates**0.5 + np.exp(-0.3 * rates * steps)).argmin()])


def test_rates_are_judged_by_where_they_lead():
    signals = {"step": np.zeros(1)}
    assert winner(400) < 0.4 * winner(100)
    for stage in (20, 40):
        planner = AutoLRS(1.0, stage=stage, trial=10)
        lr, _ = planner.plan(planner.start(RUN, [0]), signals, race)
        assert abs(np.log10(lr[0] / winner(10 * stage))) < 0.05
    for horizon in (10, 40):
        planner = Lookahead(1.0, count=41, every=10, horizon=horizon, cooldown=0)
        lr, _ = planner.plan(planner.start(RUN, [0]), signals, race)
        assert abs(np.log10(lr[0] / winner(10 * horizon))) < 0.05


COURSES = [
    (Lookahead(1.0, every=5, horizon=5, cooldown=0), 40, [1] * 5),
    (Lookahead(1.0, every=5, horizon=20, cooldown=0), 12, [1] * 12),
    (Lookahead(1.0, every=1, horizon=1, cooldown=3), 40, [1, 3 / 4, 2 / 4, 1 / 4]),
    (Lookahead(1.0, every=2, horizon=4, cooldown=3), 40, [1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
    (Lookahead(1.0, every=2, horizon=4, cooldown=3), 6, [1, 1, 1, 3 / 4, 2 / 4, 1 / 4]),  # first the horizon is cut,
    (Lookahead(1.0, every=2, horizon=4, cooldown=3), 4, [1, 1, 2 / 3, 1 / 3]),  # then the cool-down
    (Lookahead(1.0, every=2, horizon=4, cooldown=3), 2, [1, 1]),
    (Lookahead(1.0, every=2, horizon=4, cooldown=3), 1, [1]),
]


@pytest.mark.parametrize(("planner", "left", "course"), COURSES)
def test_forks_hold_their_rate_then_cool_down_and_never_go_beyond_the_end(planner, left, course):
    np.testing.assert_allclose(planner.course(left), course)


def test_a_cool_down_stays_in_the_tasks_range():
    probe = Valley(lambda run, now: 1.0)  # which checks every rate
    choices(Lookahead(2e-6, span=6.0, count=3, cooldown=30), probe, [0])
    first = probe.calls[0][1][0]
    assert first[:, 0] == pytest.approx([1e-6, np.sqrt(2) * 1e-6, 2e-6])  # the grid ends where the range does
    assert first.min() == 1e-6


def test_stages_double_up_to_a_length_and_end_with_the_budget():
    assert AutoLRS(1.0, stage=20, trial=3).stages(50) == {0: (20, 3), 20: (20, 3), 40: (10, 3)}
    doubling = AutoLRS(1.0, stage=10, doublings=2, trial=4)
    assert doubling.stages(150) == {0: (10, 4), 10: (20, 8), 30: (40, 16), 70: (40, 16), 110: (40, 16)}
    assert AutoLRS(1.0, stage=10, doublings=9, trial=10).stages(12) == {0: (10, 10), 10: (2, 2)}


def test_extra_steps_are_those_of_all_forks():
    lookahead, autolrs, constant = (
        rollout(planner, TASK, [0, 1], score=(), execution=Execution(backend="loop"))
        for planner in (*SHORT, Constant(0.05))
    )
    assert all(not record.diverged for record in (*lookahead, *autolrs))
    # At 0 and 3 segments 3 forks for 2 + 1, at 6 with 2 left for 2. Stages of 3, 3 and 2, each 3 trials of 2.
    assert [record.extra_steps for record in lookahead] == [(3 * 3 + 3 * 3 + 3 * 2) * 10] * 2
    assert [record.extra_steps for record in autolrs] == [3 * 3 * 2 * 10] * 2
    assert [record.extra_steps for record in constant] == [0, 0]


def test_extra_steps_of_a_run_end_with_it():
    runs = Rollout(
        TASK,
        [PlannedRun(planner, seed) for planner in SHORT for seed in (0, 1)],
        score=(),
        execution=Execution(backend="loop"),
    )
    for _ in range(4):
        runs.advance()
    runs.env.episodes.children.state.parameters[[0, 2]] = float("nan")  # ends in the fifth segment, between decisions
    while not runs.done:
        runs.advance()
    records = [runs.record(row, "final") for row in range(4)]
    assert [record.steps for record in records] == [50, 80, 50, 80]
    assert [record.extra_steps for record in records] == [180, 240, 120, 180]


@pytest.mark.parametrize("planner", SHORT, ids=lambda planner: planner.name)
def test_a_run_does_not_depend_on_its_neighbours(planner):
    alone = rollout(planner, TASK, [1], execution=Execution(backend="loop"))[0]
    mixed = [PlannedRun(p, seed) for seed in (0, 1) for p in (Constant(9.0), *SHORT)]
    runs = Rollout(TASK, mixed, execution=Execution(backend="loop"))
    while not runs.done:
        runs.advance()
    among = runs.record(mixed.index(PlannedRun(planner, 1)), "final")
    assert among.scores == alone.scores
    assert among.extra_steps == alone.extra_steps
    stacked = rollout(planner, TASK, [0, 1], execution=Execution(backend=Backend("stacked", 2)))[1]
    assert stacked.scores["test_loss"] == pytest.approx(alone.scores["test_loss"], rel=1e-3)


def test_a_rollout_resumes_from_a_file_to_the_same_bytes(tmp_path):
    runs = [PlannedRun(planner, seed) for seed in (0, 1) for planner in (*SHORT, Constant(9.0))]

    def end(rollout: Rollout) -> str:
        while not rollout.done:
            rollout.advance()
        return repr([replace(rollout.record(row, "final"), planning_seconds=0.0) for row in range(len(runs))])

    first = Rollout(TASK, runs, execution=Execution(backend=Backend("stacked", 4)))
    for _ in range(5):
        first.advance()
    assert first._ended.sum() == 2
    save_tree(tmp_path / "checkpoint", first.snapshot())
    snapshot = load_tree(tmp_path / "checkpoint")
    whole = end(first)
    second = Rollout(TASK, runs, execution=Execution(backend=Backend("stacked", 4)))
    second.restore(snapshot)
    assert end(second) == whole
    first.restore(snapshot)
    assert end(first) == whole


def test_rates_that_explode_are_not_taken():
    for planner in (
        Lookahead(9.0, span=3.0, count=4, every=4, horizon=4, cooldown=0),
        AutoLRS(9.0, span=3.0, stage=4, trial=4, trials=6),
    ):
        records = rollout(planner, TASK, [0, 1, 2], execution=Execution(backend="stacked"))
        assert not any(record.diverged for record in records)
        assert max(record.scores["final_val_loss"] for record in records) < 2.2  # ln 10 = 2.3 is to guess


@pytest.mark.parametrize("planner", [Lookahead, AutoLRS])
def test_candidates_are_one_a_rate_and_survive_json(planner):
    rates = np.logspace(-3, 0, 7).tolist()
    candidates = planner.candidates(rates)
    assert [c.peak for c in candidates] == rates
    shapes = {json.dumps({k: v for k, v in dataclasses.asdict(c).items() if k != "peak"}) for c in candidates}
    assert len(shapes) == len(planner.tuning_variants) > 1
    assert [planner(**json.loads(json.dumps(dataclasses.asdict(c)))) for c in candidates] == candidates


@pytest.mark.parametrize(
    ("planner", "bad"),
    [
        *[(planner, {"peak": bad}) for planner in (Lookahead, AutoLRS) for bad in (0, np.nan, "0.1", True)],
        *[(planner, {"span": bad}) for planner in (Lookahead, AutoLRS) for bad in (0, 13, np.inf)],
        *[(Lookahead, {name: 0}) for name in ("count", "every", "horizon")],
        (Lookahead, {"cooldown": -1}),
        (Lookahead, {"every": 2.5}),
        *[(AutoLRS, {name: 0}) for name in ("stage", "trials", "trial", "kappa")],
        (AutoLRS, {"trials": 101}),
        (AutoLRS, {"doublings": -1}),
        (AutoLRS, {"loss": "test"}),
        (AutoLRS, {"trial": 21}),
    ],
    ids=str,
)
def test_settings_out_of_range(planner, bad):
    with pytest.raises(UserError, match=rf"^planner '{planner.name}': .*{next(iter(bad))}.* must be .*not [^\n]*$"):
        planner(**{"peak": 0.1, **bad})


@pytest.mark.parametrize("planner", [Lookahead, AutoLRS])
def test_errors_name_what_is_wrong(planner):
    with pytest.raises(UserError, match=r"the peak 11 is outside the task's range, 1e-06 to 10"):
        planner(11.0).start(RUN, [0])
    with pytest.raises(UserError, match="at least one segment"):
        planner(0.1).start(replace(RUN, budget=5), [0])
    state = planner(0.1).start(RUN, [0])
    for step in (-1.0, 400.0, np.nan):
        with pytest.raises(UserError, match="no rate for step"):
            planner(0.1).plan(state, {"step": np.array([step])}, Valley(falling))
    with pytest.raises(UserError, match="tries rates on forks of its runs, and this loop has none"):
        planner(0.1).plan(state, {"step": np.zeros(1)})

"""A planner session: the same rates as a rollout, call order and shapes checked, saved and gone on with exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.rollout import PlannedRun, Rollout
from lr_env.session import PlannerSession
from lr_env.tasks import TASKS
from planners.forking.lookahead import Lookahead
from planners.reactive import Plateau
from planners.schedules import Cosine
from planners.stochastic import LEAP, PLRS

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)
SPEC = RunSpec("mine", 60, 10, (1e-6, 1.0), "SGD", 1000)


@pytest.mark.parametrize("planner", [Cosine(0.1), Plateau(0.1, patience=1), PLRS(0.1)], ids=lambda p: p.name)
def test_a_loop_of_ones_own_gets_the_rates_of_a_rollout(planner):
    runs = Rollout(TASK, [PlannedRun(planner, seed) for seed in (0, 1)], execution=Execution(backend="loop"))
    session = PlannerSession(planner, runs.env.run_spec, [0, 1])
    while not runs.done:
        signals = {name: values.copy() for name, values in runs.env.episodes.signals.items()}
        rates = session.next_rates(signals)
        played = [dict(row) for _, row in runs.advance()]
        np.testing.assert_array_equal(rates if rates.ndim == 1 else rates[:, -1], [row["lr"] for row in played])
    assert session.segment == TASK.num_segments
    assert (session.seconds > 0).all()


def test_a_schedule_needs_no_signals_and_one_number_serves_all_runs():
    session = PlannerSession(Cosine(0.1), SPEC, [0, 1, 2])
    np.testing.assert_array_equal(session.next_rates({}), [0.1] * 3)
    plateau = PlannerSession(Plateau(0.1), SPEC, [0, 1])
    np.testing.assert_array_equal(plateau.next_rates({"val_loss": 2.0, "train_loss": 2}), [0.1] * 2)


def test_what_is_wrong_is_named():
    session = PlannerSession(Cosine(0.1), SPEC, [0, 1])
    session.next_rates({"step": 0})
    with pytest.raises(UserError, match="'cosine' is asked at step 0, and step 10 comes next: ask it exactly once"):
        session.next_rates({"step": 0})
    with pytest.raises(UserError, match=r"signal 'val_loss' has shape \(3,\) for 2 runs: give one value for each"):
        session.next_rates({"val_loss": np.zeros(3)})
    for _ in range(5):
        session.next_rates({})
    with pytest.raises(UserError, match="the budget of 60 steps is spent: no rate is left"):
        session.next_rates({})
    with pytest.raises(UserError, match=r"'plateau' needs the signal 'val_loss'.*\(it measures: progress, step\)"):
        PlannerSession(Plateau(0.1), SPEC, [0]).next_rates({})
    with pytest.raises(UserError, match="'plateau' needs the signal 'val_loss'"):
        PlannerSession(Plateau(0.1), SPEC, [0], offered=["step"])
    with pytest.raises(UserError, match="'lookahead' tries rates on forks of its runs, and this loop has none"):
        PlannerSession(Lookahead(0.1), SPEC, [0]).next_rates({})
    with pytest.raises(UserError, match="give at least one seed"):
        PlannerSession(Cosine(0.1), SPEC, [])


def losses(segment: int) -> dict[str, np.ndarray]:
    return {"val_loss": np.array([2.0, 1.0 / (segment + 1)])}


def test_a_session_that_was_saved_goes_on_as_it_would_have():
    planner = Plateau(0.1, patience=1)
    whole = PlannerSession(planner, SPEC, [0, 1])
    rates = [whole.next_rates(losses(segment)) for segment in range(6)]
    first = PlannerSession(planner, SPEC, [0, 1])
    for segment in range(3):
        first.next_rates(losses(segment))
    saved = first.state_dict()
    first.next_rates(losses(3))  # changes nothing that was saved
    second = PlannerSession(planner, SPEC, [0, 1])
    second.load_state_dict(saved)
    np.testing.assert_array_equal([second.next_rates(losses(segment)) for segment in range(3, 6)], rates[3:])


def test_a_longer_budget_is_planned_for_by_those_that_can():
    session = PlannerSession(Plateau(0.1), SPEC, [0, 1])
    for segment in range(6):
        session.next_rates(losses(segment))
    session.extend(80)
    session.next_rates(losses(6))
    with pytest.raises(UserError, match="a budget of 60 steps is spent: 70 are done"):
        session.extend(60)
    session.extend(70)  # the segment that is planned is the last one
    with pytest.raises(UserError, match="'leap' cannot plan for another budget on the way"):
        PlannerSession(LEAP(0.1), SPEC, [0]).extend(100)
    cosine = PlannerSession(Cosine(0.1), SPEC, [0])
    cosine.next_rates({})
    cosine.extend(100)
    assert cosine.next_rates({})[0] == Cosine(0.1).preview(10)[1]

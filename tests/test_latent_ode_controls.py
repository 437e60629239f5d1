"""Controls of the latent-ODE planner: what they play follows from the sweep alone, by arithmetic done here again."""

from __future__ import annotations

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.planner import RunSpec
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.controls import CONTROLS, BestOfSweep, MeanOfBest, NearestRun, RandomFuture
from planners.latent_ode.data.scaling import Scales
from planners.latent_ode.data.schedule_library import POINTS, TIMES, ScheduleLibrary
from planners.latent_ode.model.dynamics import Ensemble, Sizes
from planners.latent_ode.planner import LatentODE
from planners.piecewise import Knots

RUN = RunSpec("a task", 400, 10, (1e-4, 1.0), "SGD", 1)
MID = (np.arange(40) + 0.5) / 40
NAMES = ("wsd {'peak': 0.1}", Knots.name, "cosine {'peak': 0.2}", Knots.name, "constant {'peak': 0.3}")
ENDS = np.array([0.03, 0.0, 0.01, 0.02, 2.0])
RATES = np.log([0.1, 0.2, 0.3, 0.4, 0.5])[:, None] - TIMES * np.arange(1, 6)[:, None]
LOSSES = 1.0 - TIMES * np.array([0.1, 0.3, 0.5, 0.7, 0.9])[:, None]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model that nobody asks, and five schedules: two that people use are good, one is far off."""
    library = ScheduleLibrary(RATES, LOSSES, ENDS, NAMES)
    assert RATES.shape == (5, POINTS)
    model = Ensemble(Sizes(members=2))
    about = {"task": RUN.task, "optimizer": RUN.optimizer, "budget": RUN.budget, "child_steps": 7}
    file = tmp_path_factory.mktemp("models") / "model.safetensors"
    FittedModel(model, Scales(0.0, (0.0,) * 3, (1.0,) * 3, RUN.budget), library, about).save(file)
    return str(file)


def played(planner, losses, seeds):
    """Rates (runs, segments), where validation losses are as given, (runs, segments)."""
    state, rates = planner.start(RUN, seeds), []
    for segment in range(RUN.num_segments):
        before = losses[:, segment - 1] if segment else np.full(len(seeds), np.nan)
        answer, state = planner.plan(state, {"step": np.full(len(seeds), 10.0 * segment), "val_loss": before})
        rates.append(np.broadcast_to(answer, (len(seeds),)))
    return np.stack(rates, 1)


def schedule(number):
    return np.exp(np.interp(MID, TIMES, RATES[number]))


def test_the_best_that_people_use(path):
    for rank, number in ((1, 2), (2, 0), (3, 4), (9, 4)):
        rates = played(BestOfSweep(model=path, rank=rank), np.ones((2, 40)), [0, 1])
        np.testing.assert_allclose(rates, np.tile(schedule(number), (2, 1)), rtol=1e-6)


def test_the_mean_of_the_best(path):
    for count, numbers in ((1, [1]), (3, [1, 2, 3]), (50, [0, 1, 2, 3, 4])):
        rates = played(MeanOfBest(model=path, count=count), np.ones((1, 40)), [0])
        np.testing.assert_allclose(rates[0], np.exp(np.mean(np.log([schedule(n) for n in numbers]), 0)), rtol=1e-6)


def test_the_nearest_run_is_found_anew_at_every_plan(path):
    """A run like number 1 at first, then like number 3; another of which nothing is known."""
    at = np.arange(1, 41) / 40
    lost = np.interp(at, TIMES, LOSSES[1])
    lost[10:] = np.interp(at[10:], TIMES, LOSSES[3])
    planner = NearestRun(model=path, first_plan=0.25, plan_interval=0.5, last_plan=0.9)
    rates = played(planner, np.exp([lost, np.full(40, np.nan)]), [0, 1])
    distance = [((np.interp(at[:30], TIMES, row) - lost[:30]) ** 2).sum() for row in LOSSES]
    assert np.argmin(distance) == 3
    np.testing.assert_allclose(rates[0], np.r_[schedule(2)[:10], schedule(1)[10:30], schedule(3)[30:]], rtol=1e-6)
    np.testing.assert_allclose(rates[1], schedule(2), rtol=1e-6)


def test_random_futures_are_good_ones_drawn_for_each_run(path):
    planner = RandomFuture(model=path, first_plan=0.5, plan_interval=1.0)
    together, alone = (played(planner, np.ones((len(seeds), 40)), seeds) for seeds in (range(40), [7]))
    np.testing.assert_array_equal(together[7], alone[0])
    schedules = {int(np.argmin([abs(row[-1] - schedule(number)[-1]) for number in range(5)])) for row in together}
    assert schedules == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", CONTROLS)
def test_controls_share_the_model_and_its_cost_with_the_planner(kind, path):
    planner = LatentODE(model=path, first_plan=0.2, plan_interval=0.3, mismatch="steps")
    control = kind.matched(planner)
    assert (control.model, control.mismatch, control.pretraining_steps, kind.control_of) == (
        path,
        "steps",
        7,
        planner.name,
    )
    if hasattr(control, "first_plan"):
        assert (control.first_plan, control.plan_interval, control.last_plan) == (0.2, 0.3, planner.last_plan)
    for count in (1, 12, 40):
        offered = kind.candidates([0.1] * count)
        assert len(set(offered)) == count
        assert offered[0] == kind()
    with pytest.raises(UserError, match="was fitted to a task with 400 steps of SGD, not to a task with 800"):
        kind(model=path).start(RunSpec("a task", 800, 10, RUN.lr_range, "SGD", 1), [0])

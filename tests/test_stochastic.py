"""Schedules that draw their rates: from what, how often, and the same again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from lr_env.children import Execution
from lr_env.children.meters import on_demand_signals
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.tasks import TASKS
from planners import LEAP, PLRS, Cosine, GreedyLR, Plateau, PLRSMidpoint, ShuffledCosine
from planners.stochastic import draws

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)
SPEC = RunSpec("toy", 1000, 10, (1e-4, 1.0), "SGD", 1)
STOCHASTIC = (PLRS(0.1), PLRS(0.1, every="segment"), ShuffledCosine(0.1), LEAP(0.1), LEAP(0.1, base="plateau"))


def rates(planner, seeds=(3, 4)) -> np.ndarray:
    """All rates of a planner, (segments, runs, ...)."""
    state = planner.start(SPEC, seeds)
    rates = []
    for number in range(SPEC.num_segments):
        zero = np.zeros(len(seeds))
        signals = {
            "step": zero + 10 * number,
            "val_loss": zero + 1,
            "train_loss": zero,
            **dict.fromkeys(on_demand_signals()),
        }
        answer, state = planner.plan(state, signals)
        rates.append(answer)
    return np.array(rates)


def test_plrs_is_uniform_between_its_bounds():
    drawn = rates(PLRS(0.1, low=0.4))
    assert drawn.shape == (100, 2, 10)
    assert 0.04 <= drawn.min() < drawn.max() <= 0.1
    for run in (0, 1):
        assert kstest(drawn[:, run].ravel(), "uniform", (0.04, 0.06)).pvalue > 0.01
    assert abs(np.corrcoef(drawn[:, 0].ravel(), drawn[:, 1].ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(drawn[:-1, 0].ravel(), drawn[1:, 0].ravel())[0, 1]) < 0.1
    held = rates(PLRS(0.1, low=0.4, every="segment"))
    assert held.shape == (100, 2)
    np.testing.assert_allclose(held[:, 1], PLRS(0.1, low=0.4).preview(100, seed=4))
    assert rates(PLRSMidpoint(0.1, low=0.4)) == pytest.approx(0.07)
    assert drawn.mean() == pytest.approx(0.07, abs=0.002)
    assert (rates(PLRS(0.1, low=1.0)) == 0.1).all()


def test_a_shuffled_cosine_has_the_rates_of_a_cosine():
    drawn = rates(ShuffledCosine(0.1))
    cosine = Cosine(0.1).preview(100)
    for run in (0, 1):
        np.testing.assert_array_equal(np.sort(drawn[:, run]), np.sort(cosine))
        assert abs(np.corrcoef(drawn[:, run], cosine)[0, 1]) < 0.4
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_leap_adds_noise_to_what_another_answers():
    plain = np.maximum(rates(Cosine(0.1)), SPEC.lr_range[0])
    np.testing.assert_allclose(rates(LEAP(0.1, sigma=0.0)), np.tile(plain[..., None], 10))
    noise = rates(LEAP(0.1, "plateau", sigma=0.05))[:9] / 0.1 - 1  # before its patience ends
    assert noise.std() == pytest.approx(0.05, rel=0.2)
    assert abs(noise.mean()) < 0.015
    wild = rates(LEAP(0.5, "constant", sigma=3.0))
    assert wild.min() == 1e-4
    assert wild.max() == 1.0
    assert LEAP(0.1, "plateau").needs == Plateau.needs
    assert LEAP.needs == frozenset({"step"})


@pytest.mark.parametrize("planner", STOCHASTIC, ids=str)
def test_the_same_seed_draws_the_same_alone_among_others_and_after_a_restart(planner):
    alone = rollout(planner, TASK, [3], execution=Execution(backend="loop"))[0]
    runs = Rollout(TASK, [PlannedRun(planner, seed) for seed in (1, 3)], execution=Execution(backend="loop"))
    for _ in range(3):
        runs.advance()
    snapshot = runs.snapshot()
    for _ in range(2):
        while not runs.done:
            runs.advance()
        assert runs.record(1, "final").scores == alone.scores
        runs.restore(snapshot)


@pytest.mark.parametrize("planner", [Cosine(0.1), PLRS(0.1), PLRS(0.1, every="segment"), ShuffledCosine(0.1)], ids=str)
@pytest.mark.parametrize("step", [1000, -10])
def test_past_the_end_there_is_no_rate(planner, step):
    state = planner.start(SPEC, [0, 1])
    with pytest.raises(UserError, match=f"^planner '{planner.name}': no rate for step {step}.*has steps 0 to 999$"):
        planner.plan(state, {"step": np.full(2, float(step))})


def test_draws_follow_from_the_whole_seed():
    seeds = [7, 7 + 3 * 2**32, 7 + 2**32, 3]
    drawn = [draws(1, [seed], decision, 1)[0, 0] for seed in seeds for decision in (0, 3)]
    assert len(set(drawn)) == len(drawn)
    for seed in (0, 7, 2**32 - 1):  # of these there are results
        np.testing.assert_array_equal(draws(1, [seed], 5, 2)[0], np.random.default_rng([1, seed, 5]).random(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PLRS(0.1, low=1.1), "low must be a number above 0 and at most 1, not 1.1"),
        (lambda: PLRS(0.1, every="epoch"), "unknown planner 'plrs': interval 'epoch'"),
        (lambda: PLRS(1e-4, low=0.5).start(SPEC, [0]), "smallest rate 5e-05 is below the task's range"),
        (lambda: PLRS(2.0).start(SPEC, [0]), "the peak 2 is outside the task's range"),
        (lambda: LEAP(0.1, base="leap"), "base must be another planner"),
        (lambda: LEAP(0.1, base="cosin"), "unknown planner 'cosin'"),
        *(
            (lambda every=every: PLRS(0.1, every=every), "interval .*there are: segment, step")
            for every in (5, None, [1])
        ),
        (lambda: LEAP(0.1, base=[1]), r"unknown planner \[1\]"),
        (lambda: GreedyLR(0.1, loss=3), "loss 3 .*there are: train_loss, val_loss"),
        (lambda: LEAP(0.1, sigma=-1.0), "sigma must be a finite number of at least 0"),
    ],
)
def test_bad_settings_are_one_clear_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)

"""Where runs are, how they answer to their rates, where their ends lie, and rates that are not played as answered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.filtering.observations import Observations, observe
from planners.latent_ode.filtering.response import Response, fit_response
from planners.latent_ode.filtering.state import StateEstimator
from planners.latent_ode.fitting.fit_artifact import ends_near_best
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.planning.problem import RemainingRun, build_problem
from planners.latent_ode.planning.schedule_family import SETTINGS
from planners.schedules import WSD
from tests import quadratic
from tests.quadratic import SPEC, STEPS, played


def test_ends_lie_where_they_are_said_to(quadratic_path, quadratic_made):
    """Of held-out runs as it plays them; a model that does not know what it errs by says nothing."""
    runs, trained, fitted = quadratic_made
    planner = LatentODE(model=str(quadratic_path), plan_interval=0.25)
    _, ends, _, state = played(planner, seeds=range(10))
    beliefs = [planner.explain(state, run)[0] for run in range(10)]
    assert all(low < end < high for (low, high), end in zip((one.final_interval for one in beliefs), ends, strict=True))
    low, high = beliefs[0].final_interval
    error = np.sqrt(np.mean((fitted.forecast[0] - runs.final)[ends_near_best(runs)] ** 2))
    assert 2 * 1.645 * error <= np.log(high / low) < 2.5 * 2 * 1.645 * error
    silent = FittedModel(trained.model, trained.scales, trained.library, {"task": SPEC.task})
    silent.save(quadratic_path.parent / "silent.safetensors")
    planner = LatentODE(model=str(quadratic_path.parent / "silent.safetensors"))
    *_, state = played(planner)
    assert planner.explain(state)[0].final_interval is None
    # Nor where a run is like none that it knows.
    *_, state = played(LatentODE(model=str(quadratic_path), response_threshold=None), let_in=20 * quadratic.S)
    there = [belief.final_interval is not None for belief in planner.explain(state)]
    assert there[0]
    assert not any(there[2:])
    assert planner.explain(state)[-1].note == "its losses are far from the forecast"


def measured(rates, losses, behind, scales):
    """What models read of runs with such losses, and a score that falls with others, (runs, segments) all."""
    points = [
        np.stack([rate, np.full(len(rates), (at + 1) * SPEC.segment), loss, loss, 1 / (1 + other)])
        for at, (rate, loss, other) in enumerate(zip(rates.T, losses.T, behind.T, strict=True))
    ]
    return observe(points, scales, SPEC.lr_range, SPEC.segment, STEPS)


def test_runs_are_followed_as_they_are_in_a_fit(quadratic_made):
    """Where they are after 0 to all of their points, against the same a segment at a time."""
    runs, _, fitted = quadratic_made
    estimator = StateEstimator(fitted.model)
    history = estimator.roll_out(TensorDataset(runs, fitted.scales))
    rows = torch.arange(len(runs)).expand(3, -1)
    for now in (1, 7, 25):
        points = [
            np.stack([runs.lr[:, at], runs.steps[:, at], *np.exp(runs.values[:, at, :2].T), runs.values[:, at, 2]])
            for at in range(now)
        ]
        read = observe(points, fitted.scales, SPEC.lr_range, SPEC.segment, STEPS)
        with torch.no_grad():
            expected = estimator.corrected(history, rows, torch.full_like(rows, now))
            estimated = estimator(read).state
            wrong = fitted.model.decode(estimated[:, :, None]) - fitted.model.decode(expected[:, :, None])
        if now < 20:
            torch.testing.assert_close(estimated, expected, rtol=1e-3, atol=1e-4)
        assert wrong.square().mean().sqrt() < 0.02  # by fewer steps


def test_runs_that_answer_otherwise_are_told(quadratic_made):
    """Runs of the quadratic, of which every second one lets in a tenth of the noise, as larger batches would."""
    model, scales = quadratic_made[2].model, quadratic_made[2].scales
    low, now = torch.arange(8) % 2 == 1, 20
    rates = np.tile(WSD(peak=0.4).preview(40)[:now], (8, 1))
    losses, _ = quadratic.trained(rates, 0.02, range(8), np.where(low, quadratic.S / 10, quadratic.S))
    read = measured(rates, losses, losses, scales)
    response = fit_response(model, read, 0.7, 2.0)
    assert not torch.stack([response.noise, response.pace])[..., ~low].any()
    noise = response.noise[:, low].mean(0)  # the prior, and what else the model has learned, take it for less
    assert ((noise < -0.8) & (noise > np.log(0.1) - 0.2)).all(), noise
    one = slice(1, 2)
    alone = fit_response(model, Observations(read.rates[one], read.times[one], read.values[one], read.span), 0.7, 2.0)
    torch.testing.assert_close(alone.noise[:, 0], response.noise[:, 1], rtol=1e-3, atol=1e-3)
    # Of runs whose losses alone are otherwise, it is not the answer to the rate that is told.
    higher = measured(rates, losses * np.where(low, 4.0, 1.0)[:, None], losses, scales)
    assert not fit_response(model, higher, 0.7, 2.0).noise.any()


@pytest.mark.parametrize(("noise", "peak"), [(-2.5, 0.4), (2.5, 0.1)])
def test_runs_far_from_all_of_the_sweep_are_told_or_lost(quadratic_made, noise, peak):
    """However late: of neither is said where their ends lie."""
    model, scales = quadratic_made[2].model, quadratic_made[2].scales
    schedule = WSD(peak=peak).preview(SPEC.num_segments)
    for now in (8, 20, 30, 36):
        rates = np.tile(schedule[:now], (4, 1))
        for nominal, let_in in ((True, quadratic.S), (False, quadratic.S * np.exp(noise))):
            losses, _ = quadratic.trained(rates, 0.02, range(4), let_in)
            read = measured(rates, losses, losses, scales)
            estimate = StateEstimator(model, 0.7, 2.0)(read)
            assert ((estimate.response.is_shifted | estimate.out_of_distribution) != nominal).all(), now


def test_plans_allow_for_how_a_run_answers(quadratic_path):
    """Where a rate does all that one twice as large does, plans end as twice the rates would in the sweep."""
    trained = FittedModel.load(quadratic_path)
    state = trained.ensemble.initial_state(2)
    halved = torch.full((3, 2), float(np.log(2.0)))
    ours = Response(halved, halved).masked(torch.tensor([True, False]))
    left = RemainingRun(0.0, 1.0, SPEC.lr_range)
    (nominal, _), (shifted, family) = (
        build_problem(trained, state, left, 0.0, of) for of in (Response.nominal(3, 2), ours)
    )
    plans = nominal.low[:, None] + torch.linspace(0, 1, 5)[:, None] * (nominal.high - nominal.low)[:, None]
    twice = plans + ours.noise.mean(0)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(shifted.final_losses(plans), nominal.final_losses(twice), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifted.low[0], nominal.low[0] - np.log(2.0))
    torch.testing.assert_close(shifted.high, nominal.high)
    torch.testing.assert_close(shifted.low[1], nominal.low[1])
    peaks = family(np.full((2, SETTINGS), [[0.0], [1.0]])).amax(-1)
    torch.testing.assert_close(peaks[0] - peaks[1], torch.tensor([-np.log(2.0), 0.0], dtype=torch.float32))


def test_runs_that_answer_as_usual_are_planned_as_if_no_one_looked(quadratic_path):
    """And those that do not, otherwise, and it says so."""
    blind, planner = (LatentODE(model=str(quadratic_path), response_threshold=threshold) for threshold in (None, 0.7))
    (expected, *_), (rates, _, _, state) = (played(one, range(4)) for one in (blind, planner))
    np.testing.assert_array_equal(rates, expected)
    assert not any(belief.note for belief in planner.explain(state, row=3))
    (before, *_), (after, _, _, state) = (played(one, let_in=quadratic.S / 10) for one in (blind, planner))
    assert np.abs(np.log(after / before)).max() > 0.1
    notes = [belief.note for belief in planner.explain(state)]
    assert any(note.startswith("its rates let in 0.") for note in notes), notes


def test_rates_that_are_not_played_as_answered_are_made_up_for(quadratic_path):
    """Three times as large for a fifth of the run: all but the first segment, and the first after, are as planned."""
    planner, heedless = (
        LatentODE(model=str(quadratic_path), plan_interval=1.0, compensate_actuation=track) for track in (True, False)
    )
    plain, *_ = played(planner)
    rates, *_ = played(planner, factor=lambda segment: 3.0 if segment < 8 else 1.0)
    factors = np.ones(SPEC.num_segments)
    factors[[0, 8]] = 3.0, 1 / 3
    np.testing.assert_allclose(rates[0] / plain[0], factors, rtol=1e-6)
    rates, *_ = played(heedless, factor=lambda segment: 3.0 if segment < 8 else 1.0)
    np.testing.assert_allclose(rates[0, :8] / plain[0, :8], 3.0, rtol=1e-6)
    np.testing.assert_array_equal(played(heedless)[0], plain)


def test_what_was_not_foreseen_changes_plans(quadratic_path):
    planner = LatentODE(model=str(quadratic_path), plan_interval=0.25, confidence_sigmas=0.0, response_threshold=None)
    _, _, before, _ = played(planner)
    state, signals = before[10]
    plans = []
    for surprise in (0.0, 1.0):
        points = [point * np.exp([[0], [0], [surprise], [surprise], [0]]) for point in state["points"]]
        _, after = planner.plan({**state, "points": points}, signals)
        plans.append(after["rates"][0, 10:])
    assert np.abs(np.log(plans[0] / plans[1])).max() > 0.01

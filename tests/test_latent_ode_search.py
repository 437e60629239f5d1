"""The search for the rest of a schedule, and the means that it puts before the best."""

from __future__ import annotations

import numpy as np
import torch

from planners.latent_ode.filtering.response import Response
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.planning.problem import RemainingRun, build_problem
from planners.latent_ode.planning.schedule_family import SETTINGS
from planners.latent_ode.planning.search import (
    GRID,
    INITIAL_CANDIDATES,
    SearchSettings,
    interpolation,
    search,
    softmax_average,
)
from planners.tuning.search_space import sobol
from tests.quadratic import SPEC


def whole_runs(path, count, trust_radius):
    """The problem of so many runs that are all still to be trained, and the family of schedules."""
    trained = LatentODE(model=str(path)).trained
    state, remaining = trained.model.initial_state(count).detach(), RemainingRun(0.0, 1.0, SPEC.lr_range)
    return build_problem(trained, state, remaining, trust_radius, Response.nominal(3, count))


def test_a_search_is_no_worse_than_what_it_begins_from_and_gradients_help(quadratic_path):
    problem, family = whole_runs(quadratic_path, 2, 0.5)
    begun = family(sobol(INITIAL_CANDIDATES, SETTINGS, 0)).expand(2, -1, -1)
    lowest = problem.scores(problem.clamp(begun), 1.0).min(1).values
    scores = []
    for settings in (
        SearchSettings(rounds=0),
        SearchSettings(),
        SearchSettings(rounds=0, free_rounds=4),
        SearchSettings(rounds=0, gradient_steps=20),
    ):
        plans = search(problem, family, torch.empty(2, 0, GRID), settings, [[0], [1]])
        sorted_scores = problem.scores(plans, 1.0)
        assert (sorted_scores.diff(dim=1) >= 0).all()
        scores.append(sorted_scores[:, 0].detach())
    torch.testing.assert_close(scores[0], lowest, rtol=1e-4, atol=1e-5)
    for better in scores[1:]:
        assert (better <= scores[0]).all()
        assert (better < scores[0]).any(), scores
    better = search(problem, family, plans[:, :1], SearchSettings(rounds=0), [[0], [0]])
    torch.testing.assert_close(better[:, 0], plans[:, 0])  # a candidate that is given is not lost


def test_a_blended_search_puts_the_mean_before_the_best_that_it_is_of(quadratic_path):
    problem, family = whole_runs(quadratic_path, 2, 0.0)
    begun = problem.clamp(family(sobol(INITIAL_CANDIDATES, SETTINGS, 0)).expand(2, -1, -1))
    settings = SearchSettings(pessimism=2.0, averaging_temperature=1.0, elites=4)
    plans = search(problem, family, torch.empty(2, 0, GRID), settings, [[0], [1]])
    assert plans.shape == (2, 4, GRID)
    torch.testing.assert_close(plans[:, :1], softmax_average(begun, problem.final_losses(begun), 1.0))
    best = problem.scores(begun, 2.0).sort(1)
    torch.testing.assert_close(plans[:, 1:], begun.gather(1, best.indices[:, :3, None].expand(-1, -1, GRID)))


def test_a_blend_weighs_plans_by_their_regret():
    """Plans that are nearly as good count nearly as much, by how far the members differ about the good ones."""
    level = torch.tensor([[0.0, 1.0, 3.0, *[50.0] * 13]])  # of 16 plans an eighth, two, are the good ones
    apart = torch.zeros(3, 1, 16)
    apart[:, 0, 0] = torch.tensor([-1.0, 0.0, 1.0])  # the second moves the other way once means are taken off
    plans = torch.arange(16.0)[None, :, None].expand(1, 16, GRID)
    for temper in (0.5, 2.0):
        weights = np.exp(-level[0].numpy() / (temper * 0.5))
        mean = softmax_average(plans, level + apart, temper)
        np.testing.assert_allclose(mean, np.full((1, 1, GRID), weights @ np.arange(16) / weights.sum()), rtol=1e-4)
    agreed = softmax_average(plans, level.expand(3, 1, 16), 2.0)
    torch.testing.assert_close(agreed, plans[:, :1])  # members that agree leave the best alone


def test_interpolation_between_knots_is_numpys():
    values, at = np.random.default_rng(0).normal(size=5), np.linspace(0, 1, 17)
    interpolated = torch.tensor(values, dtype=torch.float32) @ interpolation(5, torch.tensor(at))
    np.testing.assert_allclose(interpolated, np.interp(at, np.linspace(0, 1, 5), values), atol=1e-6)


def test_mean_rates_of_solver_steps(quadratic_path):
    """A plan's rates in the solver's steps have the integral of the rate, not of its log."""
    problem, _ = whole_runs(quadratic_path, 1, 0.0)
    plan = torch.linspace(0, -3, GRID)[None, None]
    mean = problem.solver_rates(plan).exp().mean().item()
    np.testing.assert_allclose(mean, (1 - np.exp(-3)) / 3, rtol=1e-3)

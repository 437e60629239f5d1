"""Search for the rest of a schedule that a model predicts to end best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.filtering.response import Response
from planners.latent_ode.model.dynamics import Ensemble
from planners.latent_ode.planning.schedule_family import SETTINGS
from planners.tuning.search_space import sobol

GRID = 33
"""Points of a plan, at equal distances over the remaining time: the first is now, the last at the end of the run."""

INITIAL_CANDIDATES = 128
"""Schedules of the family from which every search starts."""

_MIN_STEPS = 4
"""Fewest steps of the solver, however little time remains."""

_SUBSTEPS = 4
"""Times in each step of the solver at which a plan is evaluated, to average the rate over the step."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search over a family of schedules.

    There are two kinds of search. With `averaging_temperature` above 0 the answer is the weighted mean of the initial
    candidates, and only `pessimism` and `elites` matter besides. With 0 the best schedule is sought: by the
    cross-entropy method over the parameters of the family, then by free changes of the log rate between knots, then
    by gradient steps along such changes.

    Attributes:
        rounds: rounds of the cross-entropy method; 0 skips it.
        samples_per_round: plans drawn in each round, for each run.
        elites: best plans to which the next round's distribution is fitted; also the number of plans returned.
        free_rounds: rounds of free changes. Models know little of what wiggles cost, so the default is 0.
        knots: knots of these changes, at equal distances.
        spread: smallest standard deviation of free changes in the first round, in the log.
        gradient_steps: gradient steps from the best plan; 0 skips them.
        pessimism: a plan's score is the mean over the members of the predicted final loss, plus so many standard
            deviations.
        averaging_temperature: temperature factor of the weighted mean, see `softmax_average`; 0: seek the best.
    """

    rounds: int = 4
    samples_per_round: int = 32
    elites: int = 6
    free_rounds: int = 0
    knots: int = 6
    spread: float = 0.2
    gradient_steps: int = 0
    pessimism: float = 1.0
    averaging_temperature: float = 0.0


class Problem:
    """The remaining part of some runs, as a model sees it.

    A plan is the log of the rate less the model's constant at the points of the grid, (GRID,).

    Args:
        model: the ensemble.
        state: present latent state, (members, runs, latent).
        span: remaining time, in the model's unit, (runs,).
        low, high: bounds of plans, (runs, GRID).
        response: how the runs respond to their rates.
        horizon: share of the remaining time at whose end the predicted loss is minimised.
        member: the only member that scores plans; None: all do.
    """

    def __init__(
        self,
        model: Ensemble,
        state: Tensor,
        span: Tensor,
        low: Tensor,
        high: Tensor,
        response: Response,
        horizon: float = 1.0,
        member: int | None = None,
    ) -> None:
        self.model, self.state, self.span, self.low, self.high = model, state, span, low, high
        self.response, self.member, self.horizon = response, member, horizon
        # Steps are no longer than in the fit; they are not shorter either, where less time remains.
        self.steps = max(_MIN_STEPS, math.ceil(model.sizes.steps * float(span.max()) * horizon))
        self.midpoint_weights = _midpoint_weights(self.steps * _SUBSTEPS, horizon, torch.float32)

    def solver_rates(self, plans: Tensor) -> Tensor:
        """Average plans (..., GRID) over the steps of the solver: the log of the mean rate, (..., steps)."""
        rates = (plans @ self.midpoint_weights).exp()
        return rates.reshape(*plans.shape[:-1], self.steps, _SUBSTEPS).mean(-1).log()

    def roll_out(self, plans: Tensor) -> Tensor:
        """Forecast latent states along plans (runs, plans, GRID), (members, runs, plans, steps + 1, latent)."""
        members, (runs, count) = self.model.sizes.members, plans.shape[:2]
        rates = self.solver_rates(plans).expand(members, -1, -1, -1)
        rates, span = self.response.transformed_inputs(rates, self.span * self.horizon)
        state = self.state[:, :, None].expand(-1, -1, count, -1).flatten(1, 2)
        spans = span[:, :, None].expand(-1, -1, count).flatten(1, 2)
        states = self.model.solve(state, rates.flatten(1, 2), spans)
        return states.reshape(members, runs, count, -1, self.model.sizes.latent)

    def final_losses(self, plans: Tensor) -> Tensor:
        """Predict the scaled log loss on the whole validation split, (members, runs, plans)."""
        return self.final_losses_of(self.roll_out(plans))

    def final_losses_of(self, states: Tensor) -> Tensor:
        """Predict the same from the states that `roll_out` returned."""
        return self.model.final_loss(states.flatten(1, 2)).reshape(states.shape[:3])

    def losses_along(self, states: Tensor) -> Tensor:
        """Predict scaled log losses on the validation subset on the way, (members, runs, plans, steps + 1)."""
        return self.model.decode(states.flatten(1, 2))[..., LOSS].reshape(states.shape[:-1])

    def scores(self, plans: Tensor, pessimism: float) -> Tensor:
        """Compute what a search minimises, (runs, plans)."""
        return self.scores_of(self.final_losses(plans), pessimism)

    def scores_of(self, final_losses: Tensor, pessimism: float) -> Tensor:
        """Compute the same from what `final_losses` returned."""
        if self.member is not None:
            return final_losses[self.member]
        spread = pessimism * final_losses.std(0) if pessimism and len(final_losses) > 1 else 0.0
        return final_losses.mean(0) + spread

    def clamp(self, plans: Tensor) -> Tensor:
        """Move plans within their bounds."""
        return torch.minimum(torch.maximum(plans, self.low[:, None]), self.high[:, None])


PlanFamily = Callable[[Floats], Tensor]
"""Maps parameters from 0 to 1, (..., SETTINGS), to plans, (..., GRID)."""


@torch.no_grad()
def search(
    problem: Problem, family: PlanFamily, others: Tensor, settings: SearchSettings, seeds: Sequence[Sequence[int]]
) -> Tensor:
    """Search for the best plans of each run.

    Args:
        problem: the remaining part of the runs.
        family: the schedules.
        others: further candidates, (runs, plans, GRID), possibly none. The best plan is no worse than any of them;
            they are ignored with `averaging_temperature`.
        settings: how to search.
        seeds: seeds of the random draws of each run.

    Returns:
        (runs, elites, GRID), best first; with `averaging_temperature` the weighted mean, then the best candidates.
    """
    runs, dtype = len(seeds), problem.low.dtype

    def scored(plans: Tensor) -> tuple[Tensor, Tensor]:
        plans = problem.clamp(plans.to(dtype))
        return plans, problem.scores(plans, settings.pessimism)

    plans = problem.clamp(family(_initial_design()).to(dtype).expand(runs, -1, -1))
    final_losses = problem.final_losses(plans)
    scores = problem.scores_of(final_losses, settings.pessimism)
    if settings.averaging_temperature:
        best, _ = _best(plans, scores, settings.elites - 1)
        mean = softmax_average(plans, final_losses, settings.averaging_temperature)
        return torch.cat([problem.clamp(mean), best], 1)
    draws = [np.random.default_rng(seed) for seed in seeds]
    parameters = np.broadcast_to(_initial_design(), (runs, INITIAL_CANDIDATES, SETTINGS))
    for number in range(settings.rounds):
        order = scores.argsort(1)[:, : settings.elites].numpy()
        elites = np.take_along_axis(parameters, order[..., None], 1)
        spread = np.clip(elites.std(1, keepdims=True), 0.1 * 0.6**number, 0.5)
        noise = np.stack([draw.standard_normal((settings.samples_per_round, SETTINGS)) for draw in draws])
        new = np.clip(elites.mean(1, keepdims=True) + spread * noise, 0.0, 1.0)
        new_plans, new_scores = scored(family(new))
        parameters = np.concatenate([parameters, new], 1)
        plans, scores = torch.cat([plans, new_plans], 1), torch.cat([scores, new_scores], 1)
    if others.shape[1]:
        new_plans, new_scores = scored(others)
        plans, scores = torch.cat([plans, new_plans], 1), torch.cat([scores, new_scores], 1)
    best, scores = _best(plans, scores, settings.elites)
    smooth = interpolation(settings.knots, torch.linspace(0, 1, GRID)).to(dtype)
    for number in range(settings.free_rounds):
        spread = best.std(1, keepdim=True).mean(-1, keepdim=True).clamp(min=settings.spread * 0.6**number, max=1.0)
        noise = np.stack([draw.standard_normal((settings.samples_per_round, settings.knots)) for draw in draws])
        new_plans, new_scores = scored(
            best.mean(1, keepdim=True) + spread * (torch.as_tensor(noise).to(dtype) @ smooth)
        )
        best, scores = _best(torch.cat([best, new_plans], 1), torch.cat([scores, new_scores], 1), settings.elites)
    if settings.gradient_steps:
        new_plans, new_scores = _descend(problem, best[:, :1], settings, smooth)
        best, scores = _best(torch.cat([best, new_plans], 1), torch.cat([scores, new_scores], 1), settings.elites)
    return best


def softmax_average(plans: Tensor, final_losses: Tensor, temperature_scale: float) -> Tensor:
    """Average plans with weights exp(-regret / temperature), (runs, 1, GRID).

    Where many schedules end equally well as far as a model can tell, the one that it likes best is extreme by chance;
    it was measured that their mean ends better. The temperature measures how far the members disagree about the better
    plans: the standard deviation over the members of their predictions, each member's mean subtracted, times a factor.

    Args:
        plans: candidates that cover what is allowed evenly, (runs, plans, GRID).
        final_losses: predicted by each member, (members, runs, plans).
        temperature_scale: the factor. Members share most of their data, and so disagree by less than they err; a larger
            factor makes up for that.
    """
    mean = final_losses.mean(0)
    better = mean.argsort(1)[:, : max(2, plans.shape[1] // 8)]
    near = final_losses.gather(2, better.expand(len(final_losses), -1, -1))
    disagreement = (near - near.mean(2, keepdim=True)).std(0).median(1, keepdim=True).values
    temperature = (temperature_scale * disagreement).clamp(min=1e-9)
    weights = torch.softmax((mean.amin(1, keepdim=True) - mean) / temperature, 1)
    return (weights[:, :, None] * plans).sum(1, keepdim=True)


@lru_cache(maxsize=1)
def _initial_design() -> Floats:
    """Parameters of the schedules that searches start from, (INITIAL_CANDIDATES, SETTINGS)."""
    return sobol(INITIAL_CANDIDATES, SETTINGS, 0)


def interpolation(knots: int, at: Tensor) -> Tensor:
    """Return the matrix that interpolates values at evenly spaced knots to times in [0, 1], (knots, times)."""
    place = at * (knots - 1)
    before = place.floor().long().clamp(max=knots - 2)
    share = (place - before).float()
    matrix = torch.zeros(len(at), knots)
    matrix[torch.arange(len(at)), before] = 1 - share
    matrix[torch.arange(len(at)), before + 1] += share
    return matrix.T.contiguous()


def _best(plans: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = scores.argsort(1)[:, :count]
    return plans.gather(1, order[..., None].expand(-1, -1, plans.shape[-1])), scores.gather(1, order)


def _descend(problem: Problem, start: Tensor, settings: SearchSettings, smooth: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the gradient of smooth changes of a plan, and return the best plan on the way with its score."""
    change = torch.zeros(*start.shape[:2], settings.knots, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.05)
    best, lowest = start, torch.full(start.shape[:2], torch.inf)
    for _ in range(settings.gradient_steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            plans = problem.clamp(start + change @ smooth)
            scores = problem.scores(plans, settings.pessimism)
            scores.sum().backward()
        lower = scores.detach() < lowest
        best = torch.where(lower[..., None], plans.detach(), best)
        lowest = torch.where(lower, scores.detach(), lowest)
        optimizer.step()
    return best, lowest


def to_segments(plans: Floats, segments: int) -> Floats:
    """Interpolate plans (..., GRID) at the middles of the remaining segments, (..., segments)."""
    return plans @ _midpoint_weights(segments, 1.0, torch.float64).numpy().astype(np.float64)


@lru_cache
def _midpoint_weights(parts: int, end: float, dtype: torch.dtype) -> Tensor:
    """Return the matrix that interpolates plans at the middles of equal parts of [0, end], (GRID, parts)."""
    return interpolation(GRID, (torch.arange(parts, dtype=dtype) + 0.5) / parts * end)

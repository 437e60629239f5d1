"""Search for the rest of a schedule: what a model says would end best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.model import Ensemble
from planners.latent_ode.series import LOSS, Floats

_FINE = 4
"""Points in each step of the solver at which a schedule is looked up, to take the mean rate of the step."""


@dataclass(frozen=True)
class Search:
    """A search by the cross-entropy method, and by gradients.

    Attributes:
        knots: of the log rate over the time that is left, at equal distances, straight lines between.
        rounds: of the cross-entropy method; 0 for gradients alone.
        candidates: drawn in each round, for each run.
        elites: best of them, to which the next round's distribution is fitted.
        spread: standard deviation of the first round, in the log.
        ascents: gradient steps from the best candidate.
        pessimism: standard deviations over the members that are added to the mean of what they predict.
    """

    knots: int = 6
    rounds: int = 5
    candidates: int = 64
    elites: int = 8
    spread: float = 0.5
    ascents: int = 0
    pessimism: float = 1.0


class Problem:
    """What is left of some runs, as a model sees it.

    Args:
        model: the ensemble.
        state: now, (members, runs, latent).
        span: time that is left, in the model's unit, (runs,).
        low, high: logs of the rates that are allowed at each knot, less the model's constant, (runs, knots).
        horizon: share of the time left at whose end the loss counts.
    """

    def __init__(self, model: Ensemble, state: Tensor, span: Tensor, low: Tensor, high: Tensor, horizon: float = 1.0):
        self.model, self.state, self.span, self.low, self.high = model, state, span, low, high
        steps = model.sizes.steps
        at = (torch.arange(steps * _FINE) + 0.5) / (steps * _FINE) * horizon * (low.shape[-1] - 1)
        before = at.floor().long().clamp(max=low.shape[-1] - 2)
        share = at - before
        lookup = torch.zeros(steps * _FINE, low.shape[-1])
        lookup[torch.arange(len(at)), before] = 1 - share
        lookup[torch.arange(len(at)), before + 1] += share
        self.lookup, self.horizon = lookup.T.contiguous(), horizon

    def rates(self, knots: Tensor) -> Tensor:
        """u in each step of the solver, (..., steps), of knots (..., knots)."""
        fine = (knots @ self.lookup).exp()
        return fine.reshape(*knots.shape[:-1], self.model.sizes.steps, _FINE).mean(-1).log()

    def futures(self, knots: Tensor) -> Tensor:
        """The scaled channels along plans, (members, runs, plans, steps + 1, channels), of (runs, plans, knots)."""
        members, (runs, plans) = self.model.sizes.members, knots.shape[:2]
        rates = self.rates(knots).reshape(1, runs * plans, -1).expand(members, -1, -1)
        state = self.state[:, :, None].expand(-1, -1, plans, -1).reshape(members, runs * plans, -1)
        span = (self.span * self.horizon)[:, None].expand(-1, plans).reshape(1, -1).expand(members, -1)
        values = self.model.read(self.model.solve(state, rates, span))
        return values.reshape(members, runs, plans, *values.shape[2:])

    def scores(self, knots: Tensor, pessimism: float) -> Tensor:
        """Predicted log validation loss at the end of plans, (runs, plans), the lower the better."""
        ends = self.futures(knots)[:, :, :, -1, LOSS]
        return ends.mean(0) + (pessimism * ends.std(0) if pessimism and len(ends) > 1 else 0.0)

    def clamp(self, knots: Tensor) -> Tensor:
        """Plans within what is allowed."""
        return torch.minimum(torch.maximum(knots, self.low[:, None]), self.high[:, None])


def search(problem: Problem, start: Tensor, settings: Search, noise: Floats) -> tuple[Tensor, Tensor]:
    """The best plan for each run.

    Args:
        problem: what is left of the runs.
        start: a plan to begin with, which the answer is no worse than, (runs, knots).
        settings: how to search.
        noise: standard normal, (rounds, runs, candidates, knots).

    Returns:
        Plans (runs, knots), and their scores (runs,).
    """
    with torch.no_grad():
        best = problem.clamp(start[:, None])
        score = problem.scores(best, settings.pessimism)
        mean, spread = best, torch.full_like(best, settings.spread)
        for draws in torch.tensor(noise, dtype=start.dtype):
            tried = torch.cat([best, problem.clamp(mean + spread * draws)], 1)
            scores = problem.scores(tried, settings.pessimism)
            order = scores.argsort(1)[:, : settings.elites]
            chosen = tried.gather(1, order[..., None].expand(-1, -1, tried.shape[-1]))
            mean, spread = chosen.mean(1, keepdim=True), chosen.std(1, keepdim=True) + 0.02
            best, score = chosen[:, :1], scores.gather(1, order[:, :1])
    if settings.ascents:
        found, better = _ascend(problem, best, settings)
        lower = better < score
        best, score = torch.where(lower[..., None], found, best), torch.where(lower, better, score)
    return best[:, 0], score[:, 0]


def _ascend(problem: Problem, start: Tensor, settings: Search) -> tuple[Tensor, Tensor]:
    """The best plan on the way down the gradient."""
    knots = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([knots], lr=0.1)
    best, lowest = start, torch.full(start.shape[:2], torch.inf)
    for _ in range(settings.ascents):
        optimizer.zero_grad()
        with torch.enable_grad():
            scores = problem.scores(knots, settings.pessimism)
            scores.sum().backward()
        lower = scores.detach() < lowest
        best = torch.where(lower[..., None], knots.detach(), best)
        lowest = torch.where(lower, scores.detach(), lowest)
        optimizer.step()
        with torch.no_grad():
            knots.copy_(problem.clamp(knots))
    return best, lowest


def played(knots: Floats, decisions: int) -> Floats:
    """Log rates of the decisions that are left, (runs, decisions), at the middles of their segments."""
    at = (np.arange(decisions) + 0.5) / decisions * (knots.shape[-1] - 1)
    before = np.minimum(np.floor(at).astype(np.int64), knots.shape[-1] - 2)
    share = at - before
    return knots[:, before] * (1 - share) + knots[:, before + 1] * share

"""Search for the rest of a schedule: what a model says would end best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.data.dataset import LOSS, Floats
from planners.latent_ode.filtering.response import Response
from planners.latent_ode.model.dynamics import Ensemble
from planners.latent_ode.planning.schedule_family import SETTINGS
from planners.tuning.search_space import sobol

GRID = 33
"""Points at equal distances over the time left, the first now and the last at the end, that a plan is made of."""

_FEWEST = 4
"""Steps of the solver, however little is left."""

_FINE = 4
"""Points in each step of the solver at which a plan is looked up, to take the mean rate of the step."""


BEGINNINGS = 128
"""Schedules of the family that every search begins from."""


@dataclass(frozen=True)
class Search:
    """A search over a family of schedules: the middle of the good ones, or the best one.

    The best one is sought by the cross-entropy method, then by free changes, and by gradients.

    Attributes:
        rounds: of the method over the settings of the family.
        draws: plans drawn in each round, for each run.
        elites: best of them, to which the next round's distribution is fitted.
        free: rounds over changes of the best plans that no family has; models know little of what wiggles cost.
        knots: of these changes: straight lines of the log rate between knots at equal distances.
        spread: least standard deviation of their first round, in the log.
        ascents: gradient steps along such changes from the best plan.
        pessimism: standard deviations over the members that are added to the mean of what they predict.
        blend: if above 0 the answer is a mean of the schedules that searches begin from, see `blended`, and nothing of
            the above but `elites` and `pessimism` matters.
    """

    rounds: int = 4
    draws: int = 32
    elites: int = 6
    free: int = 0
    knots: int = 6
    spread: float = 0.2
    ascents: int = 0
    pessimism: float = 1.0
    blend: float = 0.0


class Problem:
    """What is left of some runs, as a model sees it.

    A plan is logs of rates, less the model's constant, at the points of the grid.

    Args:
        model: the ensemble.
        state: now, (members, runs, latent).
        span: time that is left, in the model's unit, (runs,).
        low, high: bounds of plans, (runs, GRID).
        response: how the runs answer to their rates.
        horizon: share of the time left at whose end the loss counts.
        member: whose answer counts alone; None: that of all.
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
        self.response, self.member = response, member
        # No longer than those that the model was fitted with, and not shorter either where less is left to foresee.
        self.steps = max(_FEWEST, math.ceil(model.sizes.steps * float(span.max()) * horizon))
        points = self.steps * _FINE
        self.lookup = _middles(points, horizon, torch.float32)
        self.horizon = horizon

    def rates(self, plans: Tensor) -> Tensor:
        """u in each step of the solver, (..., steps), of plans (..., GRID)."""
        fine = (plans @ self.lookup).exp()
        return fine.reshape(*plans.shape[:-1], self.steps, _FINE).mean(-1).log()

    def futures(self, plans: Tensor) -> Tensor:
        """The latent states along plans, (members, runs, plans, steps + 1, latent), of (runs, plans, GRID)."""
        members, (runs, count) = self.model.sizes.members, plans.shape[:2]
        rates, span = self.response.driven(self.rates(plans).expand(members, -1, -1, -1), self.span * self.horizon)
        state = self.state[:, :, None].expand(-1, -1, count, -1).flatten(1, 2)
        spans = span[:, :, None].expand(-1, -1, count).flatten(1, 2)
        return self.model.solve(state, rates.flatten(1, 2), spans).reshape(
            members, runs, count, -1, self.model.sizes.latent
        )

    def ends(self, plans: Tensor) -> Tensor:
        """Predicted log loss on the whole validation split, scaled, (members, runs, plans)."""
        return self.ends_of(self.futures(plans))

    def ends_of(self, states: Tensor) -> Tensor:
        """The same of what `futures` returns."""
        return self.model.final(states.flatten(1, 2)).reshape(states.shape[:3])

    def losses_of(self, states: Tensor) -> Tensor:
        """Predicted log loss on the validation subset on the way, scaled, (members, runs, plans, steps + 1)."""
        return self.model.read(states.flatten(1, 2))[..., LOSS].reshape(states.shape[:-1])

    def scores(self, plans: Tensor, pessimism: float) -> Tensor:
        """What a search minimises, (runs, plans)."""
        return self.score(self.ends(plans), pessimism)

    def score(self, ends: Tensor, pessimism: float) -> Tensor:
        """The same of what `ends` returns."""
        if self.member is not None:
            return ends[self.member]
        return ends.mean(0) + (pessimism * ends.std(0) if pessimism and len(ends) > 1 else 0.0)

    def clamp(self, plans: Tensor) -> Tensor:
        """Plans within their bounds."""
        return torch.minimum(torch.maximum(plans, self.low[:, None]), self.high[:, None])


Seeds = Sequence[Sequence[int]]

Family = Callable[[Floats], Tensor]
"""Plans (..., GRID) of settings from 0 to 1, (..., SETTINGS)."""


@torch.no_grad()
def search(problem: Problem, family: Family, known: Tensor, settings: Search, seeds: Seeds) -> Tensor:
    """The best plans for each run, or, with `Search.blend`, the mean of good ones before the best of them.

    Args:
        problem: what is left of the runs.
        family: of schedules.
        known: other plans, which the best one is no worse than, (runs, plans, GRID); there may be none.
        settings: how to search.
        seeds: of what is drawn for each run.

    Returns:
        Plans, that to be played first, (runs, elites, GRID).
    """
    runs, dtype = len(seeds), problem.low.dtype

    def scored(plans: Tensor) -> tuple[Tensor, Tensor]:
        plans = problem.clamp(plans.to(dtype))
        return plans, problem.scores(plans, settings.pessimism)

    plans = problem.clamp(family(_places()).to(dtype).expand(runs, -1, -1))
    ends = problem.ends(plans)
    scores = problem.score(ends, settings.pessimism)
    if settings.blend:
        others, _ = _best(plans, scores, settings.elites - 1)
        return torch.cat([problem.clamp(blended(plans, ends, settings.blend)), others], 1)
    draws = [np.random.default_rng(seed) for seed in seeds]
    places = np.broadcast_to(_places(), (runs, BEGINNINGS, SETTINGS))
    for number in range(settings.rounds):
        order = scores.argsort(1)[:, : settings.elites].numpy()
        best = np.take_along_axis(places, order[..., None], 1)
        spread = np.clip(best.std(1, keepdims=True), 0.1 * 0.6**number, 0.5)
        noise = np.stack([draw.standard_normal((settings.draws, SETTINGS)) for draw in draws])
        new = np.clip(best.mean(1, keepdims=True) + spread * noise, 0.0, 1.0)
        more, theirs = scored(family(new))
        places = np.concatenate([places, new], 1)
        plans, scores = torch.cat([plans, more], 1), torch.cat([scores, theirs], 1)
    if known.shape[1]:
        more, theirs = scored(known)
        plans, scores = torch.cat([plans, more], 1), torch.cat([scores, theirs], 1)
    chosen, scores = _best(plans, scores, settings.elites)
    smooth = interpolation(settings.knots, torch.linspace(0, 1, GRID)).to(dtype)
    for number in range(settings.free):
        spread = chosen.std(1, keepdim=True).mean(-1, keepdim=True).clamp(min=settings.spread * 0.6**number, max=1.0)
        noise = np.stack([draw.standard_normal((settings.draws, settings.knots)) for draw in draws])
        drawn, theirs = scored(chosen.mean(1, keepdim=True) + spread * (torch.as_tensor(noise).to(dtype) @ smooth))
        chosen, scores = _best(torch.cat([chosen, drawn], 1), torch.cat([scores, theirs], 1), settings.elites)
    if settings.ascents:
        found, better = _ascend(problem, chosen[:, :1], settings, smooth)
        chosen, scores = _best(torch.cat([chosen, found], 1), torch.cat([scores, better], 1), settings.elites)
    return chosen


def blended(plans: Tensor, ends: Tensor, temper: float) -> Tensor:
    """The mean of plans, (runs, 1, GRID), each weighted by exp(-regret / temperature).

    Where many schedules end equally well as far as a model can tell, the best of them by the model is an extreme one,
    and so by luck; the middle of them was measured to be better. The temperature is the standard deviation over the
    members of what they predict, the mean of each over the better plans taken off, times a factor.

    Args:
        plans: spread evenly over what may be, (runs, plans, GRID).
        ends: as each member predicts them, (members, runs, plans).
        temper: the factor; members share most of their data, and so disagree by less than they err.
    """
    mean = ends.mean(0)
    better = mean.argsort(1)[:, : max(2, plans.shape[1] // 8)]
    near = ends.gather(2, better.expand(len(ends), -1, -1))
    apart = (near - near.mean(2, keepdim=True)).std(0).median(1, keepdim=True).values
    weights = torch.softmax((mean.amin(1, keepdim=True) - mean) / (temper * apart).clamp(min=1e-9), 1)
    return (weights[:, :, None] * plans).sum(1, keepdim=True)


@lru_cache(maxsize=1)
def _places() -> Floats:
    """Settings of the schedules that searches begin from, (schedules, SETTINGS)."""
    return sobol(BEGINNINGS, SETTINGS, 0)


def interpolation(knots: int, at: Tensor) -> Tensor:
    """The matrix (knots, points) that takes values at evenly spaced knots to those at times `at` in [0, 1]."""
    place = at * (knots - 1)
    before = place.floor().long().clamp(max=knots - 2)
    share = (place - before).float()
    matrix = torch.zeros(len(at), knots)
    matrix[torch.arange(len(at)), before] = 1 - share
    matrix[torch.arange(len(at)), before + 1] += share
    return matrix.T.contiguous()


def _best(tried: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = scores.argsort(1)[:, :count]
    return tried.gather(1, order[..., None].expand(-1, -1, tried.shape[-1])), scores.gather(1, order)


def _ascend(problem: Problem, start: Tensor, settings: Search, smooth: Tensor) -> tuple[Tensor, Tensor]:
    """The best plan on the way down the gradient of smooth changes."""
    change = torch.zeros(*start.shape[:2], settings.knots, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.05)
    best, lowest = start, torch.full(start.shape[:2], torch.inf)
    for _ in range(settings.ascents):
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


def played(plans: Floats, decisions: int) -> Floats:
    """Log rates of the decisions that are left, (runs, decisions), at the middles of their segments."""
    return plans @ _middles(decisions, 1.0, torch.float64).numpy().astype(np.float64)


@lru_cache
def _middles(points: int, until: float, dtype: torch.dtype) -> Tensor:
    """What takes plans to their values in the middles of so many equal parts of [0, until], (GRID, points)."""
    return interpolation(GRID, (torch.arange(points, dtype=dtype) + 0.5) / points * until)

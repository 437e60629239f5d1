"""What is left of runs as a model sees it, and the schedules that it may be given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.artifact import Trained
from planners.latent_ode.data.dataset import Floats
from planners.latent_ode.data.schedule_library import TIMES
from planners.latent_ode.filtering.response import Response
from planners.latent_ode.planning.schedule_family import Shapes
from planners.latent_ode.planning.search import GRID, Family, Problem


@dataclass(frozen=True)
class Left:
    """The part of a run that is left.

    Attributes:
        over: share of the run that is over.
        span: the rest, in the model's unit of time.
        lr_range: smallest and largest rate that may be set.
        horizon: share of the rest at whose end the loss counts.
    """

    over: float
    span: float
    lr_range: tuple[float, float]
    horizon: float = 1.0

    @cached_property
    def times(self) -> Floats:
        """Shares of the run at which plans have their points, (GRID,)."""
        return self.over + np.linspace(0, 1, GRID) * (1 - self.over)

    def rest_of(self, log_rates: Floats, log_rate: float) -> Tensor:
        """The rest of a schedule that is given at `TIMES`, as searches have it, (GRID,)."""
        return as_plan(np.interp(self.times, TIMES, log_rates), log_rate)


def problem(
    trained: Trained,
    state: Tensor,
    left: Left,
    trust: float | None,
    response: Response,
    member: int | None = None,
) -> tuple[Problem, Family]:
    """A search for the rest of some runs, and the family of schedules whose rests it goes through.

    Args:
        trained: the model.
        state: now, (members, runs, latent).
        left: what is left, the same for all runs.
        trust: plans stay within the rates that good runs of the sweep had at that time, and so much beyond them in the
            log, and beyond that by the `Response.noise` of a run; None: within those that may be set.
        response: of the runs.
        member: see `Problem`.
    """
    at = left.times
    limits = np.log(left.lr_range)
    seen = trained.repertoire.trusted
    if trust is None:
        low, high = (np.full(GRID, limit) for limit in limits)
        shapes = Shapes(*limits)
    else:
        tails = np.stack([np.interp(at, TIMES, rates) for rates in seen])
        low, high = tails.min(0) - trust, tails.max(0) + trust
        peaks = seen.max(1)
        shapes = Shapes(float(peaks.min() - trust), float(peaks.max() + trust))
    log_rate, runs = trained.scales.log_rate, state.shape[1]
    # What larger rates do to a run that lets in less noise was seen of smaller ones, and the other way round.
    seen_of = torch.zeros(runs, 1) if trust is None else -response.noise.mean(0)[:, None]
    low, high = (
        torch.clamp(as_plan(bound, log_rate) + beyond, *as_plan(limits, log_rate))
        for bound, beyond in ((low, seen_of.clamp(max=0)), (high, seen_of.clamp(min=0)))
    )

    def family(settings: Floats) -> Tensor:
        peaks = as_plan(settings[..., 0], 0.0)
        wider = torch.where(seen_of > 0, peaks, 1 - peaks) * seen_of
        return as_plan(shapes.log_rates(settings, at), log_rate) + wider[..., None]

    span = torch.full((runs,), left.span, dtype=torch.float32)
    return Problem(trained.ensemble, state, span, low, high, response, left.horizon, member), family


def as_plan(log_rates: Floats, log_rate: float) -> Tensor:
    """Log rates as searches have them."""
    return torch.tensor(np.asarray(log_rates) - log_rate, dtype=torch.float32)

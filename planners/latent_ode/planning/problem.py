"""The planning problem: the remaining part of some runs, and the schedules that they may be given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.channels import Floats
from planners.latent_ode.data.rate_curve import RateCurve
from planners.latent_ode.filtering.response import Response
from planners.latent_ode.planning.schedule_family import ScheduleFamily
from planners.latent_ode.planning.search import GRID, PlanFamily, Problem


@dataclass(frozen=True)
class RemainingRun:
    """The part of a run that is still to be trained.

    Attributes:
        elapsed: share of the run that is over.
        span: duration of the remaining part, in the model's unit of time.
        lr_range: smallest and largest rate of the task.
        horizon: share of the remaining part at whose end the predicted loss is minimised.
    """

    elapsed: float
    span: float
    lr_range: tuple[float, float]
    horizon: float = 1.0

    @cached_property
    def times(self) -> Floats:
        """Shares of the run at which plans have their points, (GRID,)."""
        return self.elapsed + np.linspace(0, 1, GRID) * (1 - self.elapsed)


def build_problem(
    fitted: FittedModel,
    state: Tensor,
    remaining: RemainingRun,
    trust_radius: float | None,
    response: Response,
    member: int | None = None,
) -> tuple[Problem, PlanFamily]:
    """Build the problem that a search solves, and the family of schedules that it goes through.

    Args:
        fitted: the model.
        state: present latent state, (members, runs, latent).
        remaining: the remaining part, the same for all runs.
        trust_radius: plans stay between the lowest and the highest rate that schedules near the best had at that time,
            and at most so much outside, in the log; for runs with a shifted response, `Response.noise` is added on one
            side. None: plans may have all rates of the task.
        response: how the runs respond to their rates.
        member: see `Problem`.
    """
    limits = np.log(remaining.lr_range)
    if trust_radius is None:
        low, high = (np.full(GRID, limit) for limit in limits)
        family = ScheduleFamily(*limits)
    else:
        trusted = fitted.library.trust_region
        rests = trusted.rest(remaining.elapsed, GRID).log_rates
        low, high = rests.min(0) - trust_radius, rests.max(0) + trust_radius
        peaks = trusted.log_rates.max(1)
        family = ScheduleFamily(float(peaks.min() - trust_radius), float(peaks.max() + trust_radius))
    log_rate, runs = fitted.scales.log_rate, state.shape[1]
    # The sweep shows what higher rates do to a run with less noise at lower rates, and the other way round.
    shift = torch.zeros(runs, 1) if trust_radius is None else -response.noise.mean(0)[:, None]
    low, high = (
        torch.clamp(RateCurve(bound).minus(log_rate) + wider, *RateCurve(limits).minus(log_rate))
        for bound, wider in ((low, shift.clamp(max=0)), (high, shift.clamp(min=0)))
    )

    def plans(settings: Floats) -> Tensor:
        peaks = torch.tensor(settings[..., 0], dtype=torch.float32)
        wider = torch.where(shift > 0, peaks, 1 - peaks) * shift
        return RateCurve(family.log_rates(settings, remaining.times)).minus(log_rate) + wider[..., None]

    span = torch.full((runs,), remaining.span, dtype=torch.float32)
    problem = Problem(fitted.ensemble, state, span, low, high, response, remaining.horizon, member)
    return problem, plans

"""What is left of runs as a model sees it, with schedules to begin from and to stay near."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.designs import annealed
from planners.latent_ode.repertoire import TIMES
from planners.latent_ode.search import GRID, Problem
from planners.latent_ode.series import Floats
from planners.latent_ode.trained import Trained

_FAMILY = 256
"""Schedules of a known shape that every search begins from, besides those of the sweep."""

_FINE = 200
"""Decisions at which their rates are looked up."""


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


def problem(
    trained: Trained, state: Tensor, left: Left, trust: float | None, member: int | None = None
) -> tuple[Problem, Tensor]:
    """A search for the rest of some runs, and the schedules of the sweep to begin from.

    Args:
        trained: the model.
        state: now, (members, runs, latent).
        left: what is left, the same for all runs.
        trust: plans stay within the rates that good runs of the sweep had at that time, and so much beyond them in the
            log; None: within those that may be set.
        member: see `Problem`.

    Returns:
        The problem, and plans (schedules, GRID).
    """
    at = left.over + np.linspace(0, 1, GRID) * (1 - left.over)
    limits = np.log(left.lr_range)
    seen = trained.repertoire.trusted
    tails = np.stack([np.interp(at, TIMES, rates) for rates in seen])
    if trust is None:
        low, high = (np.full(GRID, limit) for limit in limits)
    else:
        low, high = tails.min(0) - trust, tails.max(0) + trust
    peaks = seen.max(1)
    share, shape = _annealed()
    family = peaks.min() + share * np.ptp(peaks) + shape
    tails = np.concatenate([tails, [np.interp(at, TIMES, rates) for rates in family]])
    log_rate, runs = trained.scales.log_rate, state.shape[1]
    low, high = (as_plan(np.clip(bound, *limits), log_rate).expand(runs, -1) for bound in (low, high))
    span = torch.full((runs,), left.span, dtype=torch.float32)
    return Problem(trained.model, state, span, low, high, left.horizon, member), as_plan(tails, log_rate)


@lru_cache(maxsize=1)
def _annealed() -> tuple[Floats, Floats]:
    """Where their peaks lie between the lowest and the highest, (schedules, 1), and logs of the rates over the peak."""
    schedules = annealed(_FAMILY, (1.0, float(np.e)), 0)
    mid = (np.arange(_FINE) + 0.5) / _FINE
    shapes = [np.interp(TIMES, mid, np.log(schedule.factors(_FINE))) for schedule in schedules]
    return np.log([[schedule.peak] for schedule in schedules]), np.stack(shapes)


def as_plan(log_rates: Floats, log_rate: float) -> Tensor:
    """Log rates as searches have them."""
    return torch.tensor(np.asarray(log_rates) - log_rate, dtype=torch.float32)

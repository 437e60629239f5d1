"""What is believed of a task: how runs of it would end, by the model, and by the runs of it so far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lr_env.isolation import isolating
from planners.transfer.artifact import TransferModel
from planners.transfer.grid import STEPS, Floats
from planners.transfer.runs import TaskRuns
from planners.transfer.spread import Posterior, Schedules, features

DRAWS = 16
"""Draws for each member of the ensemble; an even number."""

WORST = 1.0
"""Largest regret, log loss over that of the best schedule: beyond, it does not matter by how much a run fails."""

_JITTER = 1e-6
"""Added to variances, so that covariances of schedules that are nearly the same can be factored."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """How runs under some schedules would end.

    Attributes:
        ends: draws of the log of the final loss over that of a model that has learned nothing, (draws, schedules).
        weights: of the draws, (draws,), which sum to 1.
    """

    ends: Floats
    weights: Floats

    @classmethod
    def of(cls, mean: Floats, covariance: Floats, weights: Floats) -> Outlook:
        """Draw ends, always in the same way.

        Args:
            mean: expected by each member, (members, schedules).
            covariance: (members, schedules, schedules).
            weights: of the members, (members,).
        """
        members, schedules = mean.shape
        factors = np.linalg.cholesky(covariance + _JITTER * np.eye(schedules))
        ends = mean[:, None] + _normal(members, schedules) @ factors.transpose(0, 2, 1)
        return cls(ends.reshape(-1, schedules), np.repeat(weights / DRAWS, DRAWS))

    @property
    def means(self) -> Floats:
        """Expected end of each schedule, (schedules,)."""
        return self.weights @ self.ends

    @property
    def regrets(self) -> Floats:
        """Expected regret of each schedule, at most `WORST`, (schedules,)."""
        return self.weights @ np.minimum(self.ends - self.ends.min(1, keepdims=True), WORST)

    def interval(self, schedule: int, share: float = 0.9) -> tuple[float, float]:
        """The interval that has a share of the draws of one schedule's end, as many above as below."""
        order = self.ends[:, schedule].argsort()
        below = np.cumsum(self.weights[order])
        places = np.searchsorted(below, [(1 - share) / 2, (1 + share) / 2]).clip(max=len(order) - 1)
        low, high = self.ends[order[places], schedule].tolist()
        return low, high

    def gains(self, over: int) -> Floats:
        """How much lower each schedule is expected to end than another one where it ends lower, (schedules,)."""
        return self.weights @ np.maximum(self.ends[:, [over]] - self.ends, 0.0)


class Belief:
    """Belief of a task, by a model and the runs of it that are known.

    Each member of the model forecasts how schedules end. How far such forecasts are off on tasks that a member was not
    fitted to is a Gaussian process, of which the task's code is a part. Runs of the task tell what it is here, and
    which member to believe.

    Args:
        model: the model.
        task: what is known of the task, with its runs so far.
    """

    @isolating
    def __init__(self, model: TransferModel, task: TaskRuns) -> None:
        self._fitted = model.fitted
        self.task = task
        self._context = self._fitted.context([task])
        self._posterior: Posterior | None = None
        if len(task):
            forecast, slopes = self._fitted.ends(self._context, task.log_rates)
            schedules = Schedules(features(task.log_rates), slopes)
            self._posterior = Posterior(self._fitted.spread, schedules, task.ends, forecast, np.array(task.seeds))

    @isolating
    def outlook(self, log_rates: Floats, seen: Floats | None = None) -> Outlook:
        """How runs would end.

        Args:
            log_rates: of schedules, (schedules, STEPS).
            seen: log losses of the run that they are considered for, NaN where it has not been, (STEPS,); up to there
                the schedules are all alike.
        """
        mean, slopes = self._fitted.ends(self._having_seen(log_rates, seen), log_rates)
        schedules = Schedules(features(log_rates), slopes)
        if self._posterior is None:
            covariance = self._fitted.spread.between(schedules, schedules)
            return Outlook.of(mean, covariance, np.full(len(mean), 1 / len(mean)))
        mean = mean + self._posterior.mean(schedules)
        return Outlook.of(mean, self._posterior.covariance(schedules), self._posterior.weights)

    @isolating
    def curves(self, log_rates: Floats, seen: Floats | None = None) -> Floats:
        """Log losses along runs by each member, (members, schedules, STEPS); arguments as for `outlook`.

        What runs of the task told of errors at the end is taken to grow over the run.
        """
        curves = self._fitted.curves(self._having_seen(log_rates, seen), log_rates)
        if self._posterior is None:
            return curves
        _, slopes = self._fitted.ends(self._context, log_rates)
        shift = self._posterior.mean(Schedules(features(log_rates), slopes))
        return curves + shift[..., None] * (np.arange(STEPS) + 1) / STEPS

    @torch.no_grad()
    def _having_seen(self, log_rates: Floats, seen: Floats | None) -> torch.Tensor:
        """The context of the task, with what was seen of a run."""
        if seen is None or not np.isfinite(seen).any():
            return self._context
        first = torch.tensor(log_rates[:1], dtype=torch.float32)[None]
        curves = torch.tensor(seen, dtype=torch.float32)[None, None]
        return self._context + self._fitted.model.of_seen(self._context, first, curves)

    @isolating
    def first_guess(self, log_rates: Floats) -> Floats:
        """How runs would end, (schedules,): quick, for the task's code is left out."""
        mean, slopes = self._fitted.ends(self._context, log_rates, with_slopes=False)
        if self._posterior is None:
            return mean.mean(0)
        return self._posterior.weights @ (mean + self._posterior.mean(Schedules(features(log_rates), slopes)))


@lru_cache(maxsize=8)
def _normal(members: int, schedules: int) -> Floats:
    """Draws from a normal distribution in pairs of opposite ones, (members, DRAWS, schedules): always the same."""
    half = np.random.Generator(np.random.PCG64(0xC0DE)).standard_normal((members, DRAWS // 2, schedules))
    return np.concatenate([half, -half], 1)

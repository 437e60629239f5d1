"""What is believed of a task: how runs of it would end, by the model, and by the runs of it so far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from lr_env.isolation import isolating
from planners.transfer.artifact import TransferModel
from planners.transfer.grid import STEPS, Floats
from planners.transfer.runs import TaskRuns

DRAWS = 16
"""Task codes that are drawn for each member of the ensemble."""

WORST = 1.0
"""Largest regret, log loss over that of the best schedule: beyond, it does not matter by how much a run fails."""

_NOISE, _FAR = 0.05, 0.3
"""Standard deviation of the end of a run around what a member forecasts for the right code: this, plus this times its
distance from the best end."""

_ROUNDS = 4
"""Gauss-Newton steps by which codes are found."""

_HUBER = 1.5
"""Errors of more standard deviations than this count as if they were linear."""

_AMPLITUDES = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Standard deviations that are tried for what schedules of a task differ in besides."""

_REACH = 0.7
"""Distance between schedules, in logs of rates, over which that is alike."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """How runs under some schedules would end.

    Attributes:
        ends: draws of the log of the final loss over that of a model that has learned nothing, (draws, schedules).
        deviations: standard deviation of what the draws leave out, (schedules,).
    """

    ends: Floats
    deviations: Floats

    @property
    def regrets(self) -> Floats:
        """Expected regret of each schedule, at most `WORST`, (schedules,)."""
        return np.minimum(self.ends - self.ends.min(1, keepdims=True), WORST).mean(0)

    def gains(self, best: int) -> Floats:
        """Expected improvement of a run under each schedule over another one of them, log loss, (schedules,)."""
        difference = self.ends[:, [best]] - self.ends
        deviation = np.sqrt(self.deviations**2 + self.deviations[best] ** 2) + 1e-6
        scaled = difference / deviation
        density = np.exp(-(scaled**2) / 2) / np.sqrt(2 * np.pi)
        expected = (deviation * density + difference * ndtr(scaled)).mean(0)
        expected[best] = 0.0
        return expected


class Belief:
    """Belief of a task, by a model and the runs of it that are known.

    Each member has a posterior of the task's code (Laplace's approximation). Draws of it forecast how schedules end. A
    Gaussian process over schedules models what remains of the ends that are known.

    Args:
        model: the model.
        task: what is known of the task, with its runs so far.
        draws: see `DRAWS`.
    """

    @isolating
    def __init__(self, model: TransferModel, task: TaskRuns, draws: int = DRAWS) -> None:
        self._fitted = model.fitted
        self.task = task
        context = self._fitted.context([task])
        mean, covariance = self._posterior(context)
        normal = _normal(len(mean), draws, mean.shape[-1])
        codes = mean[:, None] + normal @ torch.linalg.cholesky(covariance).transpose(1, 2)
        with torch.no_grad():
            self._contexts = context + self._fitted.model.of_code(codes)
        self._residual = Residual(task, self._ends(task.log_rates).mean(0)) if len(task) else None

    @isolating
    def outlook(self, log_rates: Floats, seen: Floats | None = None, draws: int | None = None) -> Outlook:
        """How runs would end.

        Args:
            log_rates: of schedules, (schedules, STEPS).
            seen: log losses of the run that they are considered for, NaN where it has not been, (STEPS,); up to there
                the schedules are all alike.
            draws: of the task's code, for each member; by default all.
        """
        ends = self._ends(log_rates, seen, draws)
        if self._residual is None:
            return Outlook(ends, np.zeros(len(log_rates)))
        mean, deviation = self._residual(log_rates)
        return Outlook(ends + mean, deviation)

    @torch.no_grad()
    def _ends(self, log_rates: Floats, seen: Floats | None = None, draws: int | None = None) -> Floats:
        rates = torch.tensor(log_rates, dtype=torch.float32)
        contexts = self._contexts[:, :draws]
        if seen is not None and np.isfinite(seen).any():
            curves = torch.tensor(seen, dtype=torch.float32).expand(1, contexts.shape[1], -1)
            first = rates[:1].expand(1, contexts.shape[1], -1)
            contexts = contexts + self._fitted.model.of_seen(contexts, first, curves)
        members, count, size = contexts.shape
        every = contexts[:, :, None].expand(-1, -1, len(rates), -1).reshape(members, -1, size)
        _, ends = self._fitted.model(every, rates.repeat(count, 1)[None])
        return ends.reshape(members * count, len(rates)).numpy().astype(np.float64)

    @torch.no_grad()
    def _posterior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of each member's code, (members, code) and (members, code, code)."""
        members, size = self._fitted.model.sizes.members, self._fitted.model.sizes.code
        mean, covariance = torch.zeros(members, size), torch.eye(size).expand(members, size, size)
        if not len(self.task):
            return mean, covariance
        rates = torch.tensor(self.task.log_rates, dtype=torch.float32)
        ends = torch.tensor(self.task.ends, dtype=torch.float32)
        deviation = _NOISE + _FAR * (ends - ends.min())
        for _ in range(_ROUNDS):
            forecast, slopes = self._slopes(context, mean, rates)
            error = (ends - forecast) / deviation
            weight = (_HUBER / (error.abs() + 1e-9)).clamp(max=1.0)
            scaled = slopes / deviation
            precision = torch.einsum("mur,mr,mvr->muv", scaled, weight, scaled) + torch.eye(size)
            gradient = torch.einsum("mur,mr->mu", scaled, weight * error) - mean
            mean = mean + torch.linalg.solve(precision, gradient[..., None])[..., 0].clamp(-1, 1)
            covariance = torch.linalg.inv(precision)
        return mean, covariance

    def _slopes(self, context: Tensor, code: Tensor, rates: Tensor, step: float = 1e-2) -> tuple[Tensor, Tensor]:
        """Ends, (members, runs), and their slopes along each dimension of the code, (members, code, runs)."""
        members, size = code.shape
        moved = torch.cat([code[:, None], code[:, None] + step * torch.eye(size)], 1)
        contexts = (context + self._fitted.model.of_code(moved))[:, :, None].expand(-1, -1, len(rates), -1)
        _, ends = self._fitted.model(contexts.reshape(members, -1, context.shape[-1]), rates.repeat(size + 1, 1)[None])
        ends = ends.reshape(members, size + 1, len(rates))
        return ends[:, 0], (ends[:, 1:] - ends[:, :1]) / step


class Residual:
    """A Gaussian process over schedules, of what a model leaves unexplained of known ends.

    Args:
        task: the runs.
        forecast: their ends as the model forecasts them, (runs,).
    """

    def __init__(self, task: TaskRuns, forecast: Floats) -> None:
        self._at = features(task.log_rates)
        error = task.ends - forecast
        noise = np.diag((_NOISE / 2 + _FAR * (task.ends - task.ends.min())) ** 2)
        alike = _alike(self._at, self._at)
        fits = [(_likelihood(amplitude**2 * alike + noise, error), amplitude) for amplitude in _AMPLITUDES]
        self._amplitude = max(fits)[1]
        self._inverse = np.linalg.inv(self._amplitude**2 * alike + noise)
        self._weights = self._inverse @ error

    def __call__(self, log_rates: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at schedules, (schedules,) each."""
        cross = self._amplitude**2 * _alike(features(log_rates), self._at)
        variance = self._amplitude**2 - ((cross @ self._inverse) * cross).sum(1)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 0.0))


def features(log_rates: Floats) -> Floats:
    """Logs of the peak, and of the mean rate of the run, of its last fifth and of its first fifth, (..., 4)."""
    rates, fifth = np.exp(log_rates), STEPS // 5
    parts = (rates.max(-1), rates.mean(-1), rates[..., -fifth:].mean(-1), rates[..., :fifth].mean(-1))
    return np.log(np.stack(parts, -1))


def _alike(one: Floats, other: Floats) -> Floats:
    return np.exp(-((one[:, None] - other[None]) ** 2).sum(-1) / (2 * _REACH**2))


def _likelihood(covariance: Floats, error: Floats) -> float:
    """Log likelihood of errors, up to a constant."""
    _, volume = np.linalg.slogdet(covariance)
    return float(-(error @ np.linalg.solve(covariance, error) + volume) / 2)


@lru_cache(maxsize=4)
def _normal(members: int, draws: int, size: int) -> Tensor:
    """Draws from a normal distribution in pairs of opposite ones, (members, draws, size): always the same."""
    half = torch.randn(members, -(-draws // 2), size, generator=torch.Generator().manual_seed(0xC0DE))
    return torch.stack([half, -half], 2).flatten(1, 2)[:, :draws]

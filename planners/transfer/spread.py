"""How runs of a task end elsewhere than a model forecasts: a Gaussian process over schedules, learned from tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from planners.transfer.grid import STEPS, Floats

_MOST_RUNS = 24
"""Runs of each task that the process is fitted to."""

_UPDATES, _RATE = 150, 0.1
"""Steps of Adam, and their rate in the logs of the settings."""


@dataclass(frozen=True)
class Spread:
    """Covariance of the errors of forecasts for one task, as logs of losses.

    Attributes:
        offset: standard deviation of what all runs of a task have in common.
        amplitude: of what schedules that are alike have in common.
        lengths: distance over which schedules are alike, in each of `features`.
        code: size of the task's code along each of its dimensions.
        noise: of a single run, however good.
        far: of a single run, relative to its distance from the best one.
    """

    offset: float = 0.2
    amplitude: float = 0.3
    lengths: tuple[float, ...] = (2.0, 1.0, 5.0, 3.0)
    code: float = 0.3
    noise: float = 0.06
    far: float = 0.17

    def between(self, one: Schedules, other: Schedules) -> Floats:
        """Covariance of the errors of schedules, (members, schedules, others)."""
        lengths = np.array(self.lengths)
        apart = ((one.at[:, None] - other.at[None]) / lengths) ** 2
        alike = self.offset**2 + self.amplitude**2 * np.exp(-apart.sum(-1) / 2)
        return alike + self.code**2 * np.einsum("mus,muo->mso", one.slopes, other.slopes)

    def variances(self, ends: Floats) -> Floats:
        """Variances of what single runs that end so have besides, (runs,)."""
        return (self.noise + self.far * (ends - ends.min())) ** 2

    def to_json(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The settings that were saved."""
        return cls(**{**saved, "lengths": tuple(saved["lengths"])})

    @classmethod
    def of(cls, tasks: Sequence[Errors]) -> Self:
        """Settings with the largest likelihood of errors of forecasts for tasks that the model was not fitted to."""
        count = min(_MOST_RUNS, *(len(task.errors) for task in tasks))
        stack = lambda parts: torch.tensor(np.stack(list(parts)))  # noqa: E731
        at = stack(task.schedules.at[:count] for task in tasks)
        slopes = stack(task.schedules.slopes[0, :, :count] for task in tasks)
        errors, gaps = stack(task.errors[:count] for task in tasks), stack(task.gaps[:count] for task in tasks)
        start = cls()
        logs = torch.tensor(
            np.log([start.offset, start.amplitude, start.code, start.noise, start.far, *start.lengths]),
            requires_grad=True,
        )
        optimizer = torch.optim.Adam([logs], _RATE)
        for _ in range(_UPDATES):
            optimizer.zero_grad()
            _surprise(logs.exp(), at, slopes, errors, gaps).backward()
            optimizer.step()
        offset, amplitude, code, noise, far, *lengths = logs.detach().exp().tolist()
        return cls(offset, amplitude, tuple(lengths), code, noise, far)


def _surprise(settings: Tensor, at: Tensor, slopes: Tensor, errors: Tensor, gaps: Tensor) -> Tensor:
    """Minus the log likelihood of a run, up to a constant."""
    offset, amplitude, code, noise, far = settings[:5]
    scaled = at / settings[5:]
    alike = torch.exp(-((scaled[:, :, None] - scaled[:, None]) ** 2).sum(-1) / 2)
    covariance = offset**2 + amplitude**2 * alike + code**2 * slopes.transpose(1, 2) @ slopes
    covariance = covariance + torch.diag_embed((noise + far * gaps) ** 2)
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, errors[..., None], upper=False)[..., 0]
    return ((white**2).sum(1) / 2 + factor.diagonal(dim1=1, dim2=2).log().sum(1)).mean() / errors.shape[1]


@dataclass(frozen=True, eq=False)
class Schedules:
    """What errors under schedules depend on.

    Attributes:
        at: features, (schedules, 4).
        slopes: of the forecast ends along each dimension of the task's code, (members, code, schedules).
    """

    at: Floats
    slopes: Floats


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of forecasts for one task.

    Attributes:
        schedules: of its runs; one member.
        errors: logs of losses less those that were forecast, (runs,).
        gaps: logs of losses less the lowest of the task, (runs,).
    """

    schedules: Schedules
    errors: Floats
    gaps: Floats


class Posterior:
    """What is known of the errors of forecasts, given runs.

    Args:
        spread: the process.
        schedules: of the runs.
        ends: of the runs, (runs,).
        forecast: the ends that members forecast, (members, runs).

    Attributes:
        weights: of the members, by how likely each finds the runs, (members,).
    """

    def __init__(self, spread: Spread, schedules: Schedules, ends: Floats, forecast: Floats) -> None:
        self._spread, self._schedules = spread, schedules
        noise = np.diag(spread.variances(ends))
        errors = ends - forecast
        self._factors = [cho_factor(part + noise, lower=True) for part in spread.between(schedules, schedules)]
        pairs = list(zip(self._factors, errors, strict=True))
        self._pulls = np.stack([cho_solve(factor, error) for factor, error in pairs])
        volumes = np.array([np.log(np.diag(factor[0])).sum() for factor in self._factors])
        likelihoods = -(errors * self._pulls).sum(1) / 2 - volumes
        weights = np.exp(likelihoods - likelihoods.max())
        self.weights: Floats = weights / weights.sum()

    def mean(self, schedules: Schedules) -> Floats:
        """Mean of errors under schedules, (members, schedules)."""
        return np.einsum("msr,mr->ms", self._spread.between(schedules, self._schedules), self._pulls)

    def covariance(self, schedules: Schedules) -> Floats:
        """Covariance of errors under schedules, (members, schedules, schedules)."""
        cross = self._spread.between(schedules, self._schedules)
        explained = [part @ cho_solve(factor, part.T) for factor, part in zip(self._factors, cross, strict=True)]
        return self._spread.between(schedules, schedules) - np.stack(explained)


def features(log_rates: Floats) -> Floats:
    """Logs of the peak, and of the mean rate of the run, of its last fifth and of its first fifth, (..., 4)."""
    rates, fifth = np.exp(log_rates), STEPS // 5
    parts = (rates.max(-1), rates.mean(-1), rates[..., -fifth:].mean(-1), rates[..., :fifth].mean(-1))
    return np.log(np.stack(parts, -1))

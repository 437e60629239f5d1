"""How runs of a task end elsewhere than a model forecasts: a Gaussian process over schedules, learned from tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from planners.transfer.grid import STEPS, Floats, Ints

_MOST_RUNS = 24
"""Runs of each task that the process is fitted to."""

_UPDATES, _RATE = 150, 0.1
"""Steps of Adam, and their rate in the logs of the settings."""

_PASSES = 3
"""How often noise follows from how far runs are believed to be from the best one; at first, from how far they were."""


@dataclass(frozen=True)
class Spread:
    """Covariance of the errors of forecasts for one task, as logs of losses.

    Attributes:
        offset: standard deviation of what all runs of a task have in common.
        amplitude: of what schedules that are alike have in common.
        lengths: distance over which schedules are alike, in each of `features`.
        code: size of the task's code along each of its dimensions.
        seed: of what runs of a task with the same seed have in common.
        noise: of a single run, however good.
        far: of a single run, relative to its distance from the best one.
    """

    offset: float = 0.2
    amplitude: float = 0.3
    lengths: tuple[float, ...] = (2.0, 1.0, 5.0, 3.0)
    code: float = 0.3
    seed: float = 0.1
    noise: float = 0.06
    far: float = 0.17

    def between(self, one: Schedules, other: Schedules) -> Floats:
        """Covariance of the errors of schedules, (members, schedules, others)."""
        lengths = np.array(self.lengths)
        apart = ((one.at[:, None] - other.at[None]) / lengths) ** 2
        alike = self.offset**2 + self.amplitude**2 * np.exp(-apart.sum(-1) / 2)
        return alike + self.code**2 * np.einsum("mus,muo->mso", one.slopes, other.slopes)

    def besides(self, gaps: Floats, seeds: Ints) -> Floats:
        """Covariance of what runs have besides, (runs, runs): the luck of each, and of each seed.

        Args:
            gaps: how much higher runs end than the best one, (runs,).
            seeds: of the runs, (runs,).
        """
        return np.diag((self.noise + self.far * gaps) ** 2) + self.seed**2 * (seeds[:, None] == seeds)

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
        tasks = [task.first(count) for task in tasks]
        found = cls()._likeliest(tasks, [task.ends for task in tasks])
        for _ in range(_PASSES - 1):
            found = found._likeliest(tasks, [found._believed(task) for task in tasks])
        return found

    def _believed(self, task: Errors) -> Floats:
        """Ends of the runs of a task without their luck, (runs,)."""
        forecast = (task.ends - task.errors)[None]
        return Posterior(self, task.schedules, task.ends, forecast, task.seeds).believed

    def _likeliest(self, tasks: Sequence[Errors], believed: Sequence[Floats]) -> Self:
        """Settings with the largest likelihood, where the ends without their luck are known, (runs,) for each task."""
        stack = lambda parts: torch.tensor(np.stack(list(parts)))  # noqa: E731
        at = stack(task.schedules.at for task in tasks)
        slopes, errors = stack(task.schedules.slopes[0] for task in tasks), stack(task.errors for task in tasks)
        gaps = stack(ends - ends.min() for ends in believed)
        same = stack(task.seeds[:, None] == task.seeds for task in tasks)
        numbers = [self.offset, self.amplitude, self.code, self.seed, self.noise, self.far, *self.lengths]
        logs = torch.tensor(np.log(numbers), requires_grad=True)
        optimizer = torch.optim.Adam([logs], _RATE)
        for _ in range(_UPDATES):
            optimizer.zero_grad()
            _surprise(logs.exp(), at, slopes, errors, gaps, same).backward()
            optimizer.step()
        offset, amplitude, code, seed, noise, far, *lengths = logs.detach().exp().tolist()
        return type(self)(offset, amplitude, tuple(lengths), code, seed, noise, far)


def _surprise(settings: Tensor, at: Tensor, slopes: Tensor, errors: Tensor, gaps: Tensor, same: Tensor) -> Tensor:
    """Minus the log likelihood of a run, up to a constant."""
    offset, amplitude, code, seed, noise, far = settings[:6]
    scaled = at / settings[6:]
    alike = torch.exp(-((scaled[:, :, None] - scaled[:, None]) ** 2).sum(-1) / 2)
    covariance = offset**2 + amplitude**2 * alike + code**2 * slopes.transpose(1, 2) @ slopes
    covariance = covariance + seed**2 * same + torch.diag_embed((noise + far * gaps) ** 2)
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
        errors: ends less those that were forecast, (runs,).
        ends: of the runs, (runs,).
        seeds: of the runs, (runs,).
    """

    schedules: Schedules
    errors: Floats
    ends: Floats
    seeds: Ints

    def first(self, count: int) -> Errors:
        """Those of the first runs."""
        schedules = Schedules(self.schedules.at[:count], self.schedules.slopes[..., :count])
        return Errors(schedules, self.errors[:count], self.ends[:count], self.seeds[:count])


class Posterior:
    """What is known of the errors of forecasts, given runs.

    Args:
        spread: the process.
        schedules: of the runs.
        ends: of the runs, (runs,).
        forecast: the ends that members forecast, (members, runs).
        seeds: of the runs, (runs,).

    Attributes:
        weights: of the members, by how likely each finds the runs, (members,).
        believed: ends of the runs without their luck, (runs,).
    """

    weights: Floats
    believed: Floats

    def __init__(self, spread: Spread, schedules: Schedules, ends: Floats, forecast: Floats, seeds: Ints) -> None:
        self._spread, self._schedules = spread, schedules
        self._between = spread.between(schedules, schedules)
        self.believed = ends
        for _ in range(_PASSES):  # a run that was lucky is not one that luck plays no part in
            self._condition(ends - forecast, spread.besides(self.believed - self.believed.min(), seeds))
            self.believed = self.weights @ (forecast + self.mean(schedules))

    def _condition(self, errors: Floats, besides: Floats) -> None:
        self._factors = [cho_factor(part + besides, lower=True) for part in self._between]
        pairs = list(zip(self._factors, errors, strict=True))
        self._pulls = np.stack([cho_solve(factor, error) for factor, error in pairs])
        volumes = np.array([np.log(np.diag(factor[0])).sum() for factor in self._factors])
        likelihoods = -(errors * self._pulls).sum(1) / 2 - volumes
        weights = np.exp(likelihoods - likelihoods.max())
        self.weights = weights / weights.sum()

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

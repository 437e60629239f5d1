"""A Gaussian-process bandit whose rewards drift with time (Bogunovic, Scarlett & Cevher 2016, as PB2 uses it)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from planners.settings import Array

_LENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Length scales that are tried, in a cube of side 1."""

_FORGETTING = (0.0, 0.05, 0.1, 0.2, 0.4)
"""How much less related rewards are at the next time, of what is tried."""

_NOISES = (0.01, 0.1, 0.5)
"""Variances of the noise that are tried, where that of the rewards is 1."""

_MOST = 400
"""Rewards that are kept, the latest."""

_OFFERED = 256
"""Points among which the next one is chosen."""

_C1, _C2 = 0.2, 0.4
"""Of the upper confidence bound, whose width at time t is sqrt(c1 + log(max(1, c2 t))); the constants of PB2's code."""


class TimeVaryingBandit:
    """Chooses points whose rewards may be high, from rewards of earlier times.

    The covariance of two rewards is exp(-|x - x'|^2 / (2 length^2)) (1 - forgetting)^(|t - t'| / 2). Its three numbers
    are those of a grid with the highest likelihood.

    Args:
        times: of the rewards, (rewards,).
        points: in the unit cube, (rewards, dimensions).
        rewards: (rewards,); their mean and deviation do not matter.

    Attributes:
        length, forgetting, noise: the numbers that were chosen.
    """

    def __init__(self, times: Array, points: Array, rewards: Array) -> None:
        self._times, self._points = times[-_MOST:], points[-_MOST:]
        kept = rewards[-_MOST:]
        spread = float(kept.std())
        self._rewards = (kept - kept.mean()) / (spread if spread > 0 else 1.0)
        grid = [(length, forget, noise) for length in _LENGTHS for forget in _FORGETTING for noise in _NOISES]
        self.length, self.forgetting, self.noise = max(grid, key=lambda numbers: self._log_likelihood(*numbers))

    def posterior(self, time: float, points: Array, tried: Array | None = None) -> tuple[Array, Array]:
        """Means and standard deviations of rewards at a time, (points,) each.

        Args:
            time: when.
            points: (points, dimensions).
            tried: points of the same time whose rewards are not known yet: they make deviations smaller.
        """
        numbers = self.length, self.forgetting
        factor = cho_factor(self._noisy(covariance(self._times, self._points, self._times, self._points, *numbers)))
        across = covariance(np.full(len(points), time), points, self._times, self._points, *numbers)
        means = across @ cho_solve(factor, self._rewards)
        times, known = self._times, self._points
        if tried is not None and len(tried):
            times, known = np.append(times, np.full(len(tried), time)), np.concatenate([known, tried])
            factor = cho_factor(self._noisy(covariance(times, known, times, known, *numbers)))
            across = covariance(np.full(len(points), time), points, times, known, *numbers)
        variances = 1 - np.einsum("ij,ji->i", across, cho_solve(factor, across.T))
        return means, np.sqrt(np.maximum(variances, 0.0))

    def choose(self, time: float, count: int, random: np.random.Generator) -> Array:
        """Points to try next, (count, dimensions), each by the upper confidence bound given those before it."""
        offered = random.random((_OFFERED, self._points.shape[1]))
        width = np.sqrt(_C1 + np.log(max(1.0, _C2 * time)))
        chosen: list[Array] = []
        for _ in range(count):
            means, deviations = self.posterior(time, offered, np.array(chosen) if chosen else None)
            chosen.append(offered[int(np.argmax(means + width * deviations))])
        return np.array(chosen)

    def _noisy(self, matrix: Array) -> Array:
        return matrix + self.noise * np.eye(len(matrix))

    def _log_likelihood(self, length: float, forgetting: float, noise: float) -> float:
        matrix = covariance(self._times, self._points, self._times, self._points, length, forgetting)
        factor = cho_factor(matrix + noise * np.eye(len(matrix)))
        fitted = float(self._rewards @ cho_solve(factor, self._rewards))
        return -0.5 * fitted - float(np.log(np.diag(factor[0])).sum())


def covariance(
    times: Array, points: Array, others_times: Array, others: Array, length: float, forgetting: float
) -> Array:
    """The covariances of rewards, (points, others)."""
    squares = ((points[:, None, :] - others[None, :, :]) ** 2).sum(-1)
    apart = np.abs(times[:, None] - others_times[None, :])
    return np.exp(-squares / (2 * length**2)) * (1 - forgetting) ** (apart / 2)

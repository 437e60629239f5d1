"""Bayesian search for the rate with the lowest loss, one trial after another."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

_POINTS = 201
_BAD = 2.0


class Search:
    """Minimises a noisy loss over the logarithm of a rate in few trials.

    A Gaussian process (Matern 5/2 kernel, with noise) is fitted to what has been told; the next rate is that with the
    smallest mean - kappa * standard deviation (lower confidence bound; Srinivas et al., ICML 2010, arXiv:0912.3995) of
    201 rates in equal ratios that has not been tried yet. The first rate is drawn at random. While all that was tried
    is infinite, the next is the smallest not tried.

    Args:
        low, high: range of the rates.
        kappa: 0 trusts the mean; large values fill the largest gap.
        generator: where all that is random is drawn from.
    """

    def __init__(self, low: float, high: float, kappa: float, generator: np.random.Generator) -> None:
        self.rates = np.geomspace(low, high, _POINTS)
        self.kappa = kappa
        self._x = np.linspace(0.0, 1.0, _POINTS)
        self._first = int(generator.integers(_POINTS))
        self._random_state = int(generator.integers(2**31))
        self._tried: list[int] = []
        self._losses: list[float] = []

    def ask(self) -> float:
        """The rate to try next."""
        self._tried.append(self._next())
        return float(self.rates[self._tried[-1]])

    def tell(self, loss: float) -> None:
        """What the rate last asked for gave; infinite where it diverged."""
        self._losses.append(loss)

    @property
    def best(self) -> float:
        """The rate with the lowest loss; of equals the smallest."""
        return float(self.rates[min(zip(self._losses, self._tried, strict=True))[1]])

    def _next(self) -> int:
        if not self._tried:
            return self._first
        free = np.ones(_POINTS, dtype=bool)
        free[self._tried] = False
        losses = np.array(self._losses)
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            score = self._x
        elif len(losses) == 1:  # nothing to fit yet: as far away as can be
            score = -np.abs(self._x - self._x[self._tried[0]])
        else:
            # Told as they are, a few rates that nearly explode would make all others look alike.
            worst = min(float(finite.max()), _BAD * float(np.median(finite)))
            mean, deviation = self._posterior(np.minimum(losses, worst))
            score = mean - self.kappa * deviation
        return int(np.flatnonzero(free)[np.argmin(score[free])])

    def _posterior(self, losses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the loss at all rates, each (_POINTS,)."""
        kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(0.3, (0.05, 3.0), nu=2.5) + WhiteKernel(1e-2, (1e-6, 1.0))
        process = GaussianProcessRegressor(
            kernel, normalize_y=True, n_restarts_optimizer=1, random_state=self._random_state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a setting at its bound is as good as any
            process.fit(self._x[self._tried, None], losses)
            mean, deviation = process.predict(self._x[:, None], return_std=True)
        return np.asarray(mean), np.asarray(deviation)


def no_finite(losses: list[float]) -> bool:
    """Whether nothing that was tried went well."""
    return not any(map(math.isfinite, losses))

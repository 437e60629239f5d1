"""Bayesian optimization of one rate: a Gaussian process proposes the next trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from planners.settings import Array

_POINTS = 201
_BAD = 2.0
# Of the Gaussian process: length scales as shares of the range, and noise variances as shares of the losses' variance.
_LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
_NOISES = (1e-4, 1e-2, 0.1)


class GaussianProcessSearch:
    """Minimise a noisy loss over the log of a rate in few trials.

    The candidates are 201 rates at equal ratios. A Gaussian process (Matern 5/2 kernel, with noise) is fitted to the
    losses so far. The next rate is the untried one with the smallest mean - kappa * standard deviation (lower
    confidence bound; Srinivas et al., ICML 2010, arXiv:0912.3995). The first rate is drawn at random. As long as all
    losses are infinite, the next rate is the smallest untried one.

    Args:
        low, high: range of the rates.
        kappa: weight of the uncertainty. 0 trusts the mean; a large value fills the largest gap.
        generator: generator of the first rate.
    """

    def __init__(self, low: float, high: float, kappa: float, generator: np.random.Generator) -> None:
        self.rates = np.geomspace(low, high, _POINTS)
        self.kappa = kappa
        self._x = np.linspace(0.0, 1.0, _POINTS)
        self._first = int(generator.integers(_POINTS))
        self._tried: list[int] = []
        self._losses: list[float] = []

    def ask(self) -> float:
        """Return the rate to try next."""
        self._tried.append(self._next())
        return float(self.rates[self._tried[-1]])

    def tell(self, loss: float) -> None:
        """Report the loss of the rate that `ask` returned last; infinite if the trial diverged."""
        self._losses.append(loss)

    @property
    def best(self) -> float:
        """The rate with the lowest loss; the smallest one if several are equal."""
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
        elif len(losses) == 1:  # too few to fit: take the rate that is farthest away
            score = -np.abs(self._x - self._x[self._tried[0]])
        else:
            # Without this limit, a few rates that nearly diverge would make all others look alike.
            worst = min(float(finite.max()), _BAD * float(np.median(finite)))
            mean, deviation = self._posterior(np.minimum(losses, worst))
            score = mean - self.kappa * deviation
        return int(np.flatnonzero(free)[np.argmin(score[free])])

    def _posterior(self, losses: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the loss at all rates, each (_POINTS,)."""
        # Here, because importing scikit-learn takes two seconds.
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern, WhiteKernel

        kernel = Matern(_LENGTHS[0], nu=2.5) + WhiteKernel(_NOISES[0])
        optimizer: Any = _likeliest  # scikit-learn's own hint knows names only
        process = GaussianProcessRegressor(kernel, optimizer=optimizer, normalize_y=True)
        process.fit(self._x[self._tried, None], losses)
        mean, deviation = process.predict(self._x[:, None], return_std=True)
        return np.asarray(mean, dtype=np.float64), np.asarray(deviation, dtype=np.float64)


def _likeliest(negative: Callable[..., float], initial: Array, bounds: Array) -> tuple[Array, float]:
    """Choose the likeliest of a few length scales and noise variances, as an optimizer for scikit-learn.

    Ten points cannot support a finer choice, gradient ascent from several starts takes ten times as long, and unbounded
    noise explains anything.
    """
    settings = [np.log([length, noise]) for length in _LENGTHS for noise in _NOISES]
    scores = [negative(theta, eval_gradient=False) for theta in settings]
    best = int(np.argmin(scores))
    return settings[best], scores[best]

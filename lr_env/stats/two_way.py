"""Intervals over two kinds of luck: that of the procedure (its repeats) and that of the final seeds.

A difference d[r, s] between what two procedures chose in repeat r, on seed s, is taken for mean + repeat + seed + rest,
each of the last three a random number with a variance of its own: a random-effects model of two crossed factors. The
variance of the grand mean is then estimated by mean squares,

    (MS_repeats + MS_seeds - MS_rest) / (repeats seeds),

and its degrees of freedom after Satterthwaite (Biometrics Bulletin 1946; Searle, Casella & McCulloch, *Variance
Components*, chapter 4). With three repeats there are about two of them: such intervals are wide, and have to be.

How often a nominal 95 % interval held the true mean, in percent, in 4,000 simulated studies of 20 seeds each; the test
of this file simulates some of them again. Variances of repeats, seeds and rest:

                            1, 0.1, 1     0.1, 1, 1     0, 0, 1
    3 repeats                  94.1          95.4         97.4
    5 repeats                  95.0          95.6         97.8
    10 repeats                 95.3          95.4         97.3
    over seeds alone, 3        38.7          89.0         95.0

The last row is what an interval says that ignores the luck of the procedure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lr_env.errors import UserError
from lr_env.stats.intervals import LEVEL, Estimate

Told = Literal["better", "worse", "equivalent", "not told apart"]


@dataclass(frozen=True)
class Mean:
    """A mean with what its interval and its tests follow from.

    Attributes:
        value: the mean.
        error: its standard error; NaN where one value allows none.
        freedom: degrees of freedom of the error.
    """

    value: float
    error: float
    freedom: float

    def interval(self, level: float = LEVEL) -> Estimate:
        """The interval in which the true mean lies with that probability."""
        if not np.isfinite(self.value):  # runs diverged: on one side, or on both
            return Estimate(self.value, *((self.value,) * 2 if not np.isnan(self.value) else (-np.inf, np.inf)))
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error if self.error > 0 else self.error
        return Estimate(self.value, self.value - half, self.value + half)

    @property
    def p_value(self) -> float:
        """Of a two-sided test that the true mean is 0; NaN where there is no error."""
        if self.error == 0:
            return float(self.value == 0)
        if not np.isfinite(self.value):
            return np.nan
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def told(self, margin: float) -> Told:
        """What can be said of a difference in loss, where less is better.

        "equivalent": two one-sided tests at 5 % show that it is smaller than the margin (Schuirmann 1987), which is to
        be fixed beforehand. "better" and "worse": the 95 % interval is on one side of 0. A difference that is both told
        apart from 0 and smaller than the margin is equivalent.

        Args:
            margin: the largest difference that does not matter, > 0; 0 for none.
        """
        inner, outer = self.interval(2 * LEVEL - 1), self.interval()
        if -margin < inner.low <= inner.high < margin:
            return "equivalent"
        if outer.high < 0:
            return "better"
        return "worse" if outer.low > 0 else "not told apart"


def two_way_mean(values: ArrayLike) -> Mean:
    """The mean of differences over repeats and seeds, whose error counts both.

    With one repeat it is over seeds alone, and with one seed over repeats alone.

    Args:
        values: (repeats, seeds), finite.

    Raises:
        UserError: another shape, no values, or one that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise UserError(f"values of shape {table.shape}: give finite ones, (repeats, seeds)")
    repeats, seeds = table.shape
    mean = float(table.mean())
    if min(table.shape) == 1:
        line = table.ravel()
        if len(line) == 1:
            return Mean(mean, np.nan, np.nan)
        return Mean(mean, float(line.std(ddof=1) / np.sqrt(len(line))), len(line) - 1)
    by_repeat, by_seed = table.mean(1), table.mean(0)
    rest = table - by_repeat[:, None] - by_seed[None, :] + mean
    freedom = repeats - 1, seeds - 1, (repeats - 1) * (seeds - 1)
    squares = (
        seeds * float(((by_repeat - mean) ** 2).sum()) / freedom[0],
        repeats * float(((by_seed - mean) ** 2).sum()) / freedom[1],
        float((rest**2).sum()) / freedom[2],
    )
    # Where neither factor has an effect, luck can make the sum of mean squares less than either: then the larger one
    # is the estimate, which is never too small.
    total = squares[0] + squares[1] - squares[2]
    if total <= (larger := max(squares[:2])):
        return Mean(mean, float(np.sqrt(larger / table.size)), float(freedom[int(squares[1] > squares[0])]))
    parts = sum(square**2 / count for square, count in zip(squares, freedom, strict=True))
    return Mean(mean, float(np.sqrt(total / table.size)), max(1.0, total**2 / parts))


def two_way_difference(a: ArrayLike, b: ArrayLike) -> Mean:
    """The mean of a - b, (repeats, seeds) each in the same order.

    It is infinite where only a, or only b, has infinite values in pairs whose other value is finite; NaN where both do.

    Raises:
        UserError: different shapes, or see `two_way_mean`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"losses are compared pair by pair, but there are {a.shape} and {b.shape}")
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, a - b)
    if (difference == np.inf).any() and (difference == -np.inf).any():
        return Mean(np.nan, np.inf, 1.0)
    if not np.isfinite(difference).all():
        return Mean(float(difference.mean()), np.inf, 1.0)
    return two_way_mean(difference)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for the number of comparisons (Holm 1979): name -> p-value.

    A comparison without a p-value (NaN) is not one of them.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    order = sorted((name for name, value in p_values.items() if not np.isnan(value)), key=lambda name: p_values[name])
    adjusted, highest = dict(p_values), 0.0
    for rank, name in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def exchange_rate(losses: Sequence[float], shares: Sequence[float], loss: float) -> float:
    """How many steps a schedule needs for some loss, as a share of the budget, by its losses after other shares.

    Between measured losses the logarithm of the share is linear in the loss.

    Args:
        losses: mean losses of the schedule after each share of the budget, each tuned for it or stretched to it.
        shares: of the budget, rising.
        loss: that is to be reached.

    Returns:
        The share; infinite where no measured one reaches the loss, 0 where all do.
    """
    best = np.minimum.accumulate(np.asarray(losses, dtype=np.float64))
    at = np.log(np.asarray(shares, dtype=np.float64))
    if loss < best[-1]:
        return np.inf
    if loss >= best[0]:
        return 0.0
    return float(np.exp(np.interp(-loss, -best, at)))

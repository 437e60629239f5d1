"""Estimates with 95 % intervals over seeds, and what is said of differences.

Why these intervals. How often a nominal 95 % interval held the true value, in percent, in 2000 simulated
comparisons each (1999 resamples, fixed seed; a standard error of 0.5 to 1 point). The populations: normal;
Student t with 3 degrees of freedom; log-normal with sigma 1; standard normal with 10 added to one value in
20, as when a run goes wrong now and then.

                                        n = 10                          n = 20
    mean                     normal   t3  log-n  outlier    normal   t3  log-n  outlier
      Student t                95.0  95.3   83.8     83.0      94.6  95.8   86.2     80.5
      bootstrap, percentile    89.8  87.8   79.5     74.6      92.8  92.5   85.5     77.2
      bootstrap, BCa           89.8  85.2   82.6     74.6      93.0  89.2   87.4     75.9
      bootstrap, studentised   95.0  92.2   90.5     84.0      95.0  93.3   92.2     79.7
    interquartile mean
      bootstrap, percentile    93.2  93.0   93.5     94.8      93.8  94.4   94.8     95.5
      bootstrap, BCa           92.8  92.3   93.0     94.5      93.8  94.1   95.1     95.3

So the mean and the paired difference have the Student t interval: at n = 10 the bootstrap intervals of a
mean that scipy offers are too narrow (90 % for 95 % on normal data, worse elsewhere) and would call ties
differences. The studentised bootstrap gains on skewed data only, for intervals 13 to 32 % wider there. No
interval of a mean is to be trusted where one run in 20 goes wrong: look at the interquartile mean and at the
count of diverged runs. The interquartile mean has the percentile bootstrap, which is as good as BCa and has
no degenerate cases.

The probability of improvement has the percentile bootstrap over seeds, a seed's two runs drawn together.
Normal data, 999 resamples, true probability 0.5, 0.7, 0.9: 95, 93, 86 % at n = 10 and 94, 93, 92 % at n =
20; the same to 2 points where the runs of a seed are correlated by 0.7 (drawn apart, 100, 99, 88 % at n =
10: too wide). Where every run of one planner beats every run of the other the interval has no width, which
says more than n seeds can know.

An infinite loss, of a run that diverged, is allowed; NaN is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lr_env.errors import UserError
from lr_env.files import json_number

LEVEL = 0.95
"""Nominal coverage of every interval."""

RESAMPLES = 9999
DRAWS = 1000
"""Bootstrap samples of the seeds where numbers are computed from all seeds together."""

SEED = 0
"""Seed of the bootstrap: the same values always have the same interval."""

Seeds = NDArray[np.int64]
"""Indices of seeds."""

Verdict = Literal["better", "worse", "equivalent", "not told apart"]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, in the unit of what was measured.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN where one run allows no interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2 if self.high != self.low else 0.0

    def to_json(self) -> list[float | None]:
        """Value, low and high; None for what JSON cannot hold."""
        return [json_number(self.value), json_number(self.low), json_number(self.high)]


def iqm(values: ArrayLike, axis: int = -1) -> Any:
    """Interquartile mean along an axis: the mean without the lowest and the highest quarter (rounded down) of values.

    Raises:
        UserError: on NaN, or no values.
    """
    values = _checked(values)
    with np.errstate(all="ignore"):
        mean = stats.trim_mean(values, 0.25, axis=axis)
    return float(mean) if np.ndim(mean) == 0 else mean


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean over seeds, (n,), and its Student t interval: NaN for one seed, infinite where a value is.

    Raises:
        UserError: on NaN, or no values.
    """
    values = _checked(values)
    with np.errstate(all="ignore"):
        mean = float(values.mean())
        if len(values) == 1:
            return Estimate(mean, np.nan, np.nan)
        if np.all(values == values[0]):
            return Estimate(*[float(values[0])] * 3)
        if not np.all(np.isfinite(values)):
            return Estimate(mean, *((mean, mean) if not np.isnan(mean) else (-np.inf, np.inf)))
        error = values.std(ddof=1) / np.sqrt(len(values))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error)
        if not np.isfinite(half) or not np.isfinite(mean):  # finite losses whose squares are not
            return Estimate(mean, -np.inf, np.inf)
    return Estimate(mean, mean - half, mean + half)


def iqm_interval(values: ArrayLike) -> Estimate:
    """Interquartile mean over seeds, (n,), and its percentile bootstrap interval: NaN for one seed.

    Raises:
        UserError: on NaN, or no values.
    """
    return _bootstrap(_checked(values), iqm)


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Mean of a - b over seeds, (n,) each in the same order, and its Student t interval.

    A seed where only one of the two is infinite makes it infinite. Where both are infinite the difference is not
    defined, and its interval is the whole line.

    Raises:
        UserError: on NaN, no values, or different lengths.
    """
    a, b = _pair(a, b)
    with np.errstate(all="ignore"):
        difference = np.where(a == b, 0.0, a - b)
    if np.any(np.isinf(a) & np.isinf(b)):
        return Estimate(np.nan, -np.inf, np.inf) if len(a) > 1 else Estimate(np.nan, np.nan, np.nan)
    return mean_interval(difference)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> Estimate:
    """P(a < b) + P(a = b) / 2 over all n * n pairs of runs, with a percentile bootstrap interval over seeds.

    It is the Mann-Whitney statistic of b divided by n * n: the chance that a run of the first planner has a
    lower loss than a run of the second, each on a seed of its own. Arguments as for `win_matrix`.
    """
    wins = win_matrix(a, b)
    return _bootstrap(
        np.arange(len(wins), dtype=np.float64), lambda seeds: share_won(wins, seed_counts(seeds, len(wins)))
    )


def win_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compare all pairs of runs of two planners: (n, n), 1 where a[i] < b[j], 1/2 where they are equal, else 0.

    Args:
        a: (n,) losses of the first planner, one a seed.
        b: (n,) losses of the second planner, of the same seeds in the same order.

    Raises:
        UserError: on NaN, no values, or different lengths.
    """
    a, b = _pair(a, b)
    return (a[:, None] < b[None, :]) + 0.5 * (a[:, None] == b[None, :])


def seed_counts(draws: ArrayLike, n: int) -> NDArray[np.float64]:
    """Count how often each of n seeds was drawn: (..., draws) indices -> (..., n) counts."""
    return np.apply_along_axis(np.bincount, -1, np.asarray(draws).astype(int), minlength=n).astype(np.float64)


def share_won(wins: NDArray[np.float64], counts: NDArray[np.float64]) -> Any:
    """The probability of improvement on drawn seeds, the two runs of a seed drawn together, (...,).

    Args:
        wins: see `win_matrix`, (n, n).
        counts: see `seed_counts`, (..., n). They weigh the rows and columns: exact, and cheaper than gathering.
    """
    return ((counts @ wins) * counts).sum(-1) / counts.sum(-1) ** 2


def verdict(difference: Estimate) -> Verdict:
    """The verdict on a paired difference in loss: not told apart where the interval contains 0, or there is none."""
    if difference.high < 0:
        return "better"
    return "worse" if difference.low > 0 else "not told apart"


def steps_to_target(steps: ArrayLike, val_loss: ArrayLike, target: float) -> float:
    """The first step at which a run's validation loss is at or below the target; infinity for never.

    Args:
        steps: (segments,) optimizer steps at the segment ends, ascending.
        val_loss: (segments,) nats per example at these steps; NaN does not reach the target.
        target: nats per example.

    Raises:
        UserError: when the curves differ in length or the target is NaN.
    """
    steps, loss = np.asarray(steps), np.asarray(val_loss, dtype=np.float64)
    if steps.shape != loss.shape or steps.ndim != 1:
        raise UserError(f"steps {steps.shape} and val_loss {loss.shape} must be of one shape, (segments,)")
    if np.isnan(target):
        raise UserError("the target validation loss is NaN; give a number of nats per example")
    reached = np.flatnonzero(loss <= target)
    return float(steps[reached[0]]) if len(reached) else np.inf


def median_steps(steps: Iterable[float]) -> float:
    """Median over seeds of the steps to a target; infinity where half of the runs or more never reach it."""
    return float(np.median(_checked(list(steps))))


def _bootstrap(values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], Any]) -> Estimate:
    """A statistic over the last axis of (n,) values, with its percentile interval over resampled seeds."""
    with np.errstate(all="ignore"):
        value = float(statistic(values))
        if len(values) == 1:
            return Estimate(value, np.nan, np.nan)
        (drawn,) = resampled([len(values)])
        return percentile_interval(value, statistic(values[drawn]))


def resampled(counts: Sequence[int], draws: int | None = None) -> list[NDArray[np.int64]]:
    """Draw seeds with replacement within each of several sets of seeds: indices (draws, seeds), the same every time.

    Args:
        counts: seeds of each set.
        draws: bootstrap samples; None for `RESAMPLES`.
    """
    random = np.random.default_rng(SEED)
    return [random.integers(n, size=(RESAMPLES if draws is None else draws, n)) for n in counts]


def bootstrap(statistics: Callable[[Seeds], Sequence[float]], count: int) -> list[tuple[float, float]]:
    """95 % intervals of numbers computed from `count` seeds: expanded percentiles (Hesterberg, arXiv:1411.5279).

    Percentiles are taken further out, as far as Student's t with sqrt(n / (n - 1)) widens the interval of a mean; plain
    percentiles hold the truth too seldom where seeds are few.

    Args:
        statistics: computes the numbers from the indices of drawn seeds, (count,).
        count: seeds, shared by all that the numbers are computed from.

    Returns:
        Low and high end of the interval of each number.
    """
    tail = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1)))
    (draws,) = resampled([count], DRAWS)
    low, high = np.quantile(np.array([statistics(seeds) for seeds in draws]), [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def percentile_interval(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """An estimate with the percentile bootstrap interval.

    Args:
        value: the estimate on all seeds.
        resampled: the estimate on resampled seeds, (resamples,); may be infinite.
    """
    # Without interpolation, which gives NaN between two infinite losses.
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Estimate(value, float(low), float(high))


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.size == 0:
        raise UserError("no values: give at least one run")
    if np.isnan(values).any():
        raise UserError("a value is NaN; give a run without a score an infinite loss, or leave its planner out")
    return values


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"runs are compared seed by seed, but there are {a.shape} and {b.shape} values")
    return a, b


@dataclass(frozen=True)
class Versus:
    """A planner compared with another one on the same seeds.

    Attributes:
        difference: paired difference in test loss, nats per example; negative where the planner is better.
        verdict: "better", "worse", "equivalent" (smaller than a margin that was given beforehand) or "not told apart".
        p_value: of a two-sided test that the difference is 0, adjusted for the number of comparisons where that is
            said; NaN where there is none.
    """

    difference: Estimate
    verdict: Verdict
    p_value: float = np.nan

    @classmethod
    def of(cls, difference: Estimate) -> Versus:
        """The comparison with that difference."""
        return cls(difference, verdict(difference))

    @property
    def tone(self) -> Literal["better", "worse", "tie"]:
        """How it is drawn: neither better nor worse in one tone."""
        return self.verdict if self.verdict in ("better", "worse") else "tie"

    @property
    def short(self) -> str:
        """The verdict in one word, for narrow tables."""
        return "unclear" if self.verdict == "not told apart" else self.verdict

"""Bootstrap intervals over seeds of numbers that are found from all seeds together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lr_env.stats.intervals import LEVEL

Seeds = NDArray[np.int64]
DRAWS = 1000
"""Bootstrap samples of the seeds."""


def resampled(count: int) -> Seeds:
    """Numbers of `count` seeds drawn with replacement, (DRAWS, count); the same every time."""
    return np.random.default_rng(0).integers(count, size=(DRAWS, count))


def bootstrap(of: Callable[[Seeds], Sequence[float]], count: int) -> list[tuple[float, float]]:
    """95 % intervals of numbers found from `count` seeds: expanded percentiles (Hesterberg, arXiv:1411.5279).

    Percentiles are taken further out, as far as Student's t with sqrt(n / (n - 1)) widens the interval of a mean; plain
    ones hold the truth too seldom where seeds are few.

    Args:
        of: the numbers of the seeds drawn, (count,) -> the numbers.
        count: seeds, shared by all that they are found from.
    """
    tail = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - LEVEL) / 2, count - 1)))
    found = np.array([of(seeds) for seeds in resampled(count)])
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))

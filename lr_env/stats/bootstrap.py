"""Bootstrap intervals over seeds of numbers that are computed from all seeds together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lr_env.stats.intervals import LEVEL, resampled

Seeds = NDArray[np.int64]

DRAWS = 1000
"""Bootstrap samples of the seeds."""


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

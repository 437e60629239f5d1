"""Mean ranks over tasks, and performance profiles of how soon targets are reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lr_env.stats import intervals as st

Floats = NDArray[np.float64]
Draws = NDArray[np.int64]
LARGEST_RATIO = 4.0
"""Runs whose cost is this many times that of the fastest planner, or more, add nothing to the score; AlgoPerf's."""


def mean_ranks(losses: Sequence[Floats], draws: Sequence[Draws]) -> Floats:
    """Mean over tasks of the planners' ranks by mean loss, (draws, planners), 1 is best; equal means share their ranks.

    Args:
        losses: (planners, seeds) for each task; may be infinite.
        draws: (draws, seeds) indices of seeds for each task, the same for all planners.
    """
    # Each planner's mean is summed in the same order, so that planners with equal losses tie to the last bit.
    means = [np.stack([row[drawn].mean(-1) for row in of], -1) for of, drawn in zip(losses, draws, strict=True)]
    return np.mean([stats.rankdata(of, axis=-1) for of in means], axis=0)


def improvements(losses: Sequence[Floats], reference: int, draws: Sequence[Draws]) -> Floats:
    """Mean over tasks of `intervals.probability_of_improvement` over the planner `reference`, (draws, planners).

    `losses` and `draws` are those of `mean_ranks`.
    """
    shares = []
    for of, drawn in zip(losses, draws, strict=True):
        counts = st.seed_counts(drawn, of.shape[1])
        shares.append(np.stack([st.share_won(st.win_matrix(row, of[reference]), counts) for row in of], -1))
    return np.mean(shares, axis=0)


def cost_ratios(costs: Floats) -> Floats:
    """Costs of runs over the lowest median cost of a planner on the task, (planners, seeds).

    Costs are child steps to the target, infinite for a miss. All ratios are infinite where no planner gets there in
    more than half of its runs.
    """
    fastest = np.median(costs, axis=1).min()
    return costs / fastest if np.isfinite(fastest) else np.full(costs.shape, np.inf)


def profile(ratios: Sequence[Floats], taus: Floats) -> Floats:
    """The performance profile: the share of runs within tau times the fastest planner, tasks weighing alike.

    `ratios` are those of `cost_ratios` for each task; the shares are (planners, taus).
    """
    return np.mean([(of[:, :, None] <= taus).mean(1) for of in ratios], axis=0)


def scores(costs: Sequence[Floats], draws: Sequence[Draws]) -> Floats:
    """Mean of the performance profile over ratios from 1 to `LARGEST_RATIO`, (draws, planners), in [0, 1].

    A run of ratio r is within tau for the part (4 - r) / 3 of the interval, or all of it where r is below 1, so that
    the integral is a mean over runs and needs no grid.

    Args:
        costs: child steps to the target, (planners, seeds) for each task; infinite for a miss.
        draws: (draws, seeds) indices of seeds for each task. Each draw has its own fastest planner.
    """
    parts = []
    for of, drawn in zip(costs, draws, strict=True):
        fastest = np.min([np.median(row[drawn], axis=-1) for row in of], axis=0)[:, None]  # (draws, 1)
        share = []
        for row in of:
            ratios = np.where(np.isfinite(fastest), row[drawn] / np.where(np.isfinite(fastest), fastest, 1), np.inf)
            share.append(np.clip((LARGEST_RATIO - ratios) / (LARGEST_RATIO - 1), 0, 1).mean(-1))
        parts.append(np.stack(share, -1))
    return np.mean(parts, axis=0)

"""LRTuner: the rate at the minimum of a parabola through the losses of three forks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.planner import Probe, State
from planners.forking.base import ForkingPlanner
from planners.settings import COUNT, FRACTION, POSITIVE, Array, Rules, TuningVariants


@dataclass(frozen=True)
class LRTuner(ForkingPlanner):
    """Fit the loss as a parabola in the rate, from three forks, and take its minimum (Iyer et al. 2021).

    Every `every` segments three forks are trained for `horizon` segments: at the smallest rate, `span` decades below
    the peak, at the current rate, and at twice the current rate. The next rate is at the minimum of a parabola through
    their validation losses, or, if it has no minimum, on the side where it falls; but it is at least half and at most
    twice the current rate. In the first `explore` of the budget the rate may only rise. A rate is not taken if its fork
    loses more than `tolerance` of what training has gained: then the rate does not rise to it, and a current rate of
    that kind is halved, even while exploring. (Otherwise a loss that is low by chance at too large a rate would raise
    the rate for good: three of twenty runs on the digits ended untrained.)

    Origin: arXiv:2105.14526, without public code. The paper measures the loss along the direction of one step on a
    large batch, and takes an update back if the loss rises. Here the loss is measured after whole segments on forks, so
    that no update must be taken back.

    Training steps of the forks: 3 * horizon / every times those of the run.

    Attributes:
        peak: the initial rate; the rate may rise above it.
        every: number of segments between two choices.
        horizon: number of segments that a fork is trained.
        explore: fraction of the budget in which the rate does not fall.
        tolerance: largest rise of the loss above the lowest so far, as a fraction of its fall since the start.
    """

    name = "lrtuner"
    rules: ClassVar[Rules] = {"every": COUNT, "horizon": COUNT, "explore": FRACTION, "tolerance": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"horizon": 2}, {"explore": 0.2})
    every: int = 5
    horizon: int = 5
    explore: float = 0.5
    tolerance: float = 0.1

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """Choose the rate at the minimum of the parabola, every few segments."""
        if now % self.every:
            return None
        lr, low, high = state["lr"], self.low(state), state["range"][1]
        horizon = min(self.horizon, state["num_segments"] - now)
        tried = np.clip(np.column_stack([np.full(len(lr), low), lr, 2 * lr]), low, high)
        losses = probe(tried, horizon)["val_loss"][:, :, -1]
        # The fork at the smallest rate has hardly moved: its loss is that of the run now.
        first = losses[:, 0] if now == 0 else state["first"]
        lowest = np.minimum(losses[:, 0], first if now == 0 else state["lowest"])
        with np.errstate(invalid="ignore"):  # the losses of a run that has ended are all infinite
            rises = losses > (lowest + self.tolerance * (first - lowest))[:, None]
        smallest = lr if now < self.explore * state["num_segments"] else lr / 2
        largest = np.where(rises[:, 2], lr, 2 * lr)
        chosen = np.where(rises[:, 1], lr / 2, np.clip(parabola_minimum(tried, losses), smallest, largest))
        return {"lr": np.clip(chosen, low, high), "first": first, "lowest": lowest}


def parabola_minimum(rates: Array, losses: Array) -> Array:
    """Find the minimum of each parabola through three points, (runs,).

    Args:
        rates: rates that do not decrease along a row, (runs, 3).
        losses: losses, (runs, 3); infinite where a fork diverged.

    Returns:
        The rate at the minimum. If there is no minimum, or the two smaller rates are equal: infinity if the loss falls
        with the rate, else 0. If the largest rate diverged: the middle rate if it is better than the smallest, else 0.
    """
    a, b, c = rates.T
    finite = np.where(np.isfinite(losses), losses, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (finite[:, 1] - finite[:, 0]) / (b - a), (finite[:, 2] - finite[:, 1]) / (c - b)
        curvature = (right - left) / (c - a)
        minimum = np.where(curvature > 0, (a + b) / 2 - left / (2 * curvature), np.where(right < 0, np.inf, 0.0))
        # If the largest rate diverged, nothing is known beyond the middle one.
        minimum = np.where(np.isnan(curvature), np.where(left < 0, b, 0.0), minimum)
        return np.where(a == b, np.where(right < 0, np.inf, 0.0), minimum)

"""LRTuner: the rate at the bottom of a parabola through the losses of three forks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.planner import Probe, State
from planners.forking.base import Probing
from planners.settings import COUNT, FRACTION, POSITIVE, Array, Rules, Shapes


@dataclass(frozen=True)
class LRTuner(Probing):
    """Fits the loss as a parabola in the rate, from forks, and goes to its bottom (Iyer, Thejas, Kwatra et al. 2021).

    Every `every` segments three forks are trained for `horizon` segments: at the smallest rate, `span` decades below
    the peak, at the present one and at twice that. A parabola through their validation losses gives the next rate, at
    its bottom where it has one and otherwise on the side that falls, never less than half or more than twice the
    present rate. Until `explore` of the budget is spent the rate may only rise. No rate is taken whose fork loses more
    than `tolerance` of what training has won: a rise to it is left out, and where the present rate does so it is
    halved, exploring or not. (A chance low loss at too large a rate would otherwise raise it for good: three of twenty
    runs on the digits ended untrained.)

    Origin: arXiv:2105.14526, of which no code is public. There the loss is measured along one step's direction on a
    large batch, and an update is taken back where the loss rises; here, where forks are at hand, the loss is that after
    the segments that follow, and what would rise is not begun.

    Child steps: 3 * horizon / every times those of the run.

    Attributes:
        peak: where the rate starts; it may rise above that.
        every: segments for which a rate is held.
        horizon: segments that a fork is trained.
        explore: fraction of the budget in which the rate does not fall.
        tolerance: how far the loss may rise above the lowest that was seen, as a fraction of its fall since the start.
    """

    name = "lrtuner"
    rules: ClassVar[Rules] = {"every": COUNT, "horizon": COUNT, "explore": FRACTION, "tolerance": POSITIVE}
    shapes: ClassVar[Shapes] = ({}, {"horizon": 2}, {"explore": 0.2})
    every: int = 5
    horizon: int = 5
    explore: float = 0.5
    tolerance: float = 0.1

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """The bottom of the parabola, every few segments."""
        if now % self.every:
            return None
        lr, low, high = state["lr"], self.low(state), state["range"][1]
        horizon = min(self.horizon, state["num_segments"] - now)
        tried = np.clip(np.column_stack([np.full(len(lr), low), lr, 2 * lr]), low, high)
        losses = probe(tried, horizon)["val_loss"][:, :, -1]
        # The fork at the smallest rate has hardly moved: its loss is where the run is now.
        first = losses[:, 0] if now == 0 else state["first"]
        lowest = np.minimum(losses[:, 0], first if now == 0 else state["lowest"])
        with np.errstate(invalid="ignore"):  # all infinite, where a run has ended
            rises = losses > (lowest + self.tolerance * (first - lowest))[:, None]
        smallest = lr if now < self.explore * state["num_segments"] else lr / 2
        largest = np.where(rises[:, 2], lr, 2 * lr)
        wanted = np.where(rises[:, 1], lr / 2, np.clip(bottom(tried, losses), smallest, largest))
        return {"lr": np.clip(wanted, low, high), "first": first, "lowest": lowest}


def bottom(rates: Array, losses: Array) -> Array:
    """Where parabolas through three points each have their bottom, (runs,).

    Args:
        rates: not decreasing along a row, (runs, 3).
        losses: (runs, 3); infinite where a fork diverged.

    Returns:
        The rate at the bottom. Where there is none, infinity if the loss falls with the rate and else 0; so, too, where
        the two smaller rates are one. 0 where the largest rate diverged and the middle one is no better than the
        smallest.
    """
    a, b, c = rates.T
    finite = np.where(np.isfinite(losses), losses, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (finite[:, 1] - finite[:, 0]) / (b - a), (finite[:, 2] - finite[:, 1]) / (c - b)
        curvature = (right - left) / (c - a)
        found = np.where(curvature > 0, (a + b) / 2 - left / (2 * curvature), np.where(right < 0, np.inf, 0.0))
        # Without the largest, the middle is as far as one can see.
        found = np.where(np.isnan(curvature), np.where(left < 0, b, 0.0), found)
        return np.where(a == b, np.where(right < 0, np.inf, 0.0), found)

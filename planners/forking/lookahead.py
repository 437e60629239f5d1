"""Look ahead on the real thing: try a grid of rates on forks, keep the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.planner import Probe, State
from planners.forking.base import Probing
from planners.settings import COUNT, FROM_0, Array, Rules, Shapes


@dataclass(frozen=True)
class Lookahead(Probing):
    """Grid search on forks every few segments: shows how much a schedule could gain, at many times its cost.

    Every `every` segments each run is forked over a grid of rates, the forks are trained for `horizon` segments, and
    the rate of the fork with the lowest validation loss at its end is held until the next decision. Of equal rates the
    smallest wins, so that it is taken where all forks diverge.

    A short horizon prefers rates that are too small too early: they take out noise at once, which pays now and costs
    progress later (short-horizon bias, Wu et al., ICLR 2018, arXiv:1803.02021). A longer horizon helps, or a cool-down,
    which takes the noise out of every fork before it is judged: after the horizon the fork's rate falls linearly,
    as (D - j) / (D + 1) of it for j = 0 .. D-1, in D further segments.

    Near the end of the budget forks do not go beyond it: first the horizon is cut, to no less than the segments for
    which the rate will be held, then the cool-down. Where the horizon is not shorter than `every`, the last decision
    is therefore exact: what is measured on a fork is the end of the run, but for the batches.

    Child steps: about count * (horizon + cooldown) / every times those of the run.

    Attributes:
        count: rates in the grid, equal ratios apart.
        every: segments for which a rate is held.
        horizon: segments that a fork is trained under its rate; 1 is greedy.
        cooldown: segments for which its rate then falls before it is judged.
    """

    name = "lookahead"
    rules: ClassVar[Rules] = {"count": COUNT, "every": COUNT, "horizon": COUNT, "cooldown": FROM_0}
    shapes: ClassVar[Shapes] = ({}, {"cooldown": 0}, {"horizon": 20, "cooldown": 0})
    count: int = 9
    every: int = 5
    horizon: int = 5
    cooldown: int = 20

    def course(self, left: int) -> Array:
        """The rate of a fork in each of its segments as a share of the rate that it tries, (segments,).

        Args:
            left: segments left in the budget.
        """
        held = min(self.horizon, left, max(self.every, left - self.cooldown))
        D = min(self.cooldown, left - held)
        return np.concatenate([np.ones(held), np.arange(D, 0, -1) / (D + 1)])

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """The best of the grid, every few segments."""
        if now % self.every:
            return None
        rates = np.geomspace(self.low(state), self.peak, self.count) if self.count > 1 else np.array([self.peak])
        course = self.course(state["num_segments"] - now)
        ahead = np.maximum(rates[:, None] * course, state["range"][0])
        found = probe(np.broadcast_to(ahead, (len(state["lr"]), *ahead.shape)), len(course))
        return {"lr": rates[found["val_loss"][:, :, -1].argmin(axis=1)]}

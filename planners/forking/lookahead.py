"""Lookahead: try a grid of rates on forks and keep the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.planner import Probe, State
from planners.forking.base import ForkingPlanner
from planners.settings import COUNT, NON_NEGATIVE_INT, Array, Rules, TuningVariants


@dataclass(frozen=True)
class Lookahead(ForkingPlanner):
    """Every few segments, try a grid of rates on forks of the run, and take the rate with the lowest loss.

    This shows how much a schedule could gain, at many times the cost of a run. Every `every` segments each run is
    forked, once for each rate in the grid. The forks are trained for `horizon` segments at their rates, and then for
    `cooldown` segments in which the rate falls linearly, to (D - j) / (D + 1) of it for j = 0 .. D-1 (D segments). The
    rate of the fork with the lowest validation loss is used until the next choice. If several are equal, or all forks
    diverge, the smallest rate is taken.

    Without a cool-down, a short horizon prefers rates that are too small: a smaller rate reduces noise at once, which
    lowers the loss now and costs progress later (short-horizon bias, Wu et al., ICLR 2018, arXiv:1803.02021). A
    cool-down removes the noise from every fork before it is judged.

    Forks do not go beyond the budget. Near its end the horizon is cut first, to no less than the segments for which the
    rate will be used, then the cool-down. If the horizon is at least `every`, the last choice is exact: the fork
    measures the end of the run, but with other batches.

    Training steps of the forks: about count * (horizon + cooldown) / every times those of the run.

    Attributes:
        count: number of rates in the grid, at equal ratios.
        every: number of segments between two choices.
        horizon: number of segments that a fork is trained at its rate; 1 is greedy.
        cooldown: number of further segments in which its rate falls, before its loss is compared.
    """

    name = "lookahead"
    rules: ClassVar[Rules] = {"count": COUNT, "every": COUNT, "horizon": COUNT, "cooldown": NON_NEGATIVE_INT}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"cooldown": 0}, {"horizon": 20, "cooldown": 0})
    count: int = 9
    every: int = 5
    horizon: int = 5
    cooldown: int = 20

    def course(self, left: int) -> Array:
        """Return the rate of a fork in each of its segments, as a share of the rate that it tries, (segments,).

        `left` is the number of segments left in the budget.
        """
        held = min(self.horizon, left, max(self.every, left - self.cooldown))
        D = min(self.cooldown, left - held)
        return np.concatenate([np.ones(held), np.arange(D, 0, -1) / (D + 1)])

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """Choose the best rate of the grid, every few segments."""
        if now % self.every:
            return None
        rates = np.geomspace(self.low(state), self.peak, self.count) if self.count > 1 else np.array([self.peak])
        course = self.course(state["num_segments"] - now)
        ahead = np.maximum(rates[:, None] * course, state["range"][0])
        measured = probe(np.broadcast_to(ahead, (len(state["lr"]), *ahead.shape)), len(course))
        return {"lr": rates[measured["val_loss"][:, :, -1].argmin(axis=1)]}

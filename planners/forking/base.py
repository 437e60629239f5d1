"""The base class of planners that try rates on forks of the children."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.capabilities import require_probe
from lr_env.planner import Probe, RunSpec, Signals, State, require, step_after
from planners.schedule import current_segments
from planners.settings import Array, PeakRatePlanner, Rule, Rules

DECADES = Rule(lambda v: 0 < v <= 12, "a number above 0 and at most 12")


@dataclass(frozen=True)
class ForkingPlanner(PeakRatePlanner, ABC):
    """A planner that tries rates on forks of the children before it chooses one.

    Attributes:
        peak: the largest rate that is tried.
        span: the smallest rate that is tried is this number of decades below the peak, or the smallest rate of the
            task.
    """

    span: float = 2.0

    needs = frozenset({"step"})
    needs_forks: ClassVar[bool] = True
    rules: ClassVar[Rules] = {"span": DECADES}

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state before the first segment.

        Raises:
            UserError: the run has no segment, or the peak is outside the task's range.
        """
        self.check_run(run)
        return {
            "lr": np.full(len(seeds), self.peak),
            "seeds": np.array(seeds, dtype=np.int64),
            "range": list(run.lr_range),
            "segment": run.segment,
            "num_segments": run.num_segments,
        }

    def plan(self, state: State, signals: Signals, probe: Probe | None = None) -> tuple[Array, State]:
        """Return the rate of each run, (num_runs,), a new one where it is time to choose.

        Raises:
            UserError: the training loop has no forks, or a run has no segment left.
        """
        require(self, signals)
        state = {**state, "step": step_after(self, state, signals)}
        # All running runs are at the same step; runs that have ended are behind.
        now = current_segments(self, signals, state["num_segments"], state["segment"]).max()
        chosen = self.decide(state, require_probe(self, probe), int(now))
        if chosen is not None:
            state = {**state, **chosen}
        return state["lr"].copy(), state

    def with_budget(self, state: State, run: RunSpec) -> State:
        """Return the state of runs whose budget has changed."""
        return {**state, "num_segments": run.num_segments}

    @abstractmethod
    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """Choose the rates from segment `now` on.

        Returns:
            The changed entries of the state, among them "lr", (num_runs,); None if the rates stay as they are.
        """

    def low(self, state: State) -> float:
        """Return the smallest rate that is tried."""
        return max(self.peak / 10.0**self.span, state["range"][0])

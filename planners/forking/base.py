"""What planners that look ahead with forks share: a range of rates below a peak, checked settings, and the clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.capabilities import require_probe
from lr_env.planner import Probe, RunSpec, Signals, State, require, step_after
from planners.schedule import decisions_of
from planners.settings import Array, Peaked, Rule, Rules

DECADES = Rule(lambda v: 0 < v <= 12, "a number above 0 and at most 12")


@dataclass(frozen=True)
class Probing(Peaked, ABC):
    """A planner that tries rates on forks before it answers.

    Attributes:
        peak: the largest rate that is tried, in the optimizer's own unit.
        span: decades below the peak down to the smallest; cut off at the smallest rate that the task accepts.
    """

    span: float = 2.0

    needs = frozenset({"step"})
    needs_forks: ClassVar[bool] = True
    rules: ClassVar[Rules] = {"span": DECADES}

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: there is no decision to make, or the peak is outside the task's range.
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
        """The rate of each run, (num_runs,), chosen anew where a decision is due.

        Raises:
            UserError: there are no forks, or a run has no segment left.
        """
        require(self, signals)
        state = {**state, "step": step_after(self, state, signals)}
        chosen = self.decide(state, require_probe(self, probe), self._now(state, signals))
        if chosen is not None:
            state = {**state, **chosen}
        return state["lr"].copy(), state

    def rebudgeted(self, state: State, run: RunSpec) -> State:
        """The state of runs whose budget has changed."""
        return {**state, "num_segments": run.num_segments}

    @abstractmethod
    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """What changes of the state: "lr", the rates from segment `now` on, (num_runs,), and more; None: nothing."""

    def low(self, state: State) -> float:
        """The smallest rate that is tried."""
        return max(self.peak / 10.0**self.span, state["range"][0])

    def _now(self, state: State, signals: Signals) -> int:
        """Segments done by the runs that go on, which are all at the same step; those that have ended lag behind."""
        return int(decisions_of(self, signals, state["num_segments"], state["segment"]).max())

"""What planners that look ahead with forks share: a range of rates below a peak, checked settings, and the clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import PROBE, RunSpec, Signals, State, require
from planners.schedule import POSITIVE, Array, Rule, Rules, Shapes

DECADES = Rule(lambda v: 0 < v <= 12, "a number above 0 and at most 12")
FROM_0 = Rule(lambda v: 0 <= v <= 1000, "a whole number from 0 to 1000", whole=True)


@dataclass(frozen=True)
class Probing(ABC):
    """A planner that tries rates on forks before it answers.

    Attributes:
        peak: the largest rate that is tried, in the optimizer's own unit.
        span: decades below the peak down to the smallest; cut off at the smallest rate that the task accepts.
    """

    peak: float
    span: float = 2.0

    name = ""  # these two without ClassVar, which would not match the properties of `Planner`
    needs = frozenset({"step", PROBE})
    rules: ClassVar[Rules] = {}
    """Setting -> what it may be, for those besides peak and span."""
    shapes: ClassVar[Shapes] = ({},)
    """Settings besides the peak that a sweep goes through, one after the other along the grid of peaks."""

    def __post_init__(self) -> None:
        for setting, rule in {"peak": POSITIVE, "span": DECADES, **self.rules}.items():
            # A frozen dataclass allows it only this way.
            object.__setattr__(self, setting, rule.apply(self.name, setting, getattr(self, setting)))

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: there is no decision to make, or the peak is outside the task's range.
        """
        low, high = run.lr_range
        if run.num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment")
        if not low <= self.peak <= high:
            raise UserError(
                f"planner {self.name!r}: the peak {self.peak:g} is outside the task's range, {low:g} to {high:g}"
            )
        return {
            "lr": np.full(len(seeds), self.peak),
            "seeds": np.array(seeds, dtype=np.int64),
            "floor": low,
            "segment": run.segment,
            "num_segments": run.num_segments,
        }

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,), chosen anew where a decision is due.

        Raises:
            UserError: there are no forks, or a run has no segment left.
        """
        require(self, signals)
        chosen = self.decide(state, signals, self._now(state, signals))
        if chosen is not None:
            state = {**state, "lr": chosen}
        return state["lr"].copy(), state

    @abstractmethod
    def decide(self, state: State, signals: Signals, now: int) -> Array | None:
        """The rates from segment `now` on, (num_runs,); None to keep those that there are."""

    def low(self, state: State) -> float:
        """The smallest rate that is tried."""
        return max(self.peak / 10.0**self.span, state["floor"])

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """One setting for each peak rate; the i-th takes the i-th of the planner's shapes, cyclically."""
        return [cls(peak=rate, **cls.shapes[i % len(cls.shapes)]) for i, rate in enumerate(rates)]

    def _now(self, state: State, signals: Signals) -> int:
        """Segments done by the runs that go on, which are all at the same step; those that have ended lag behind."""
        step = np.asarray(signals["step"])
        if not ((step >= 0) & (step < state["num_segments"] * state["segment"])).all():
            raise UserError(
                f"planner {self.name!r}: no rate for step {step.max()}, "
                f"the budget has steps 0 to {state['num_segments'] * state['segment'] - 1}"
            )
        return int(step.max()) // state["segment"]

"""The base class of open-loop schedules: a table of rates, one for each segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import RunSpec, Signals, State, require
from planners.settings import Array, PeakRatePlanner

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Schedule(PeakRatePlanner, ABC):
    """A planner whose rates follow from time alone: a peak times a function of the segment."""

    @abstractmethod
    def _at(self, k: Index, n: int) -> Array:
        """Return f(k), in (0, 1], for all segments k = 0 .. n-1 in order."""

    def factors(self, num_segments: int) -> Array:
        """Return the rates of a whole run as fractions of the peak, (num_segments,)."""
        if num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment, not {num_segments}")
        return self._at(np.arange(num_segments), num_segments)

    def preview(self, num_segments: int) -> Array:
        """Return the learning rates of a whole run, (num_segments,), without training anything.

        Raises:
            UserError: the run has no segment, or a rate is so small that it underflows to 0.
        """
        rates = self.peak * self.factors(num_segments)
        if not rates.min() > 0:
            raise UserError(
                f"planner {self.name!r}: the rate at segment {int(rates.argmin())} of {num_segments} "
                f"underflows to 0; take a larger peak than {self.peak!r} or a slower decay"
            )
        return rates

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the table of rates. It is the same for every run, because nothing is random."""
        return {"rates": self.preview(run.num_segments), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rate of each run for its next segment, (num_runs,), and the unchanged state.

        Raises:
            UserError: a run has no segment left.
        """
        require(self, signals)
        rates = state["rates"]
        return rates[current_segments(self, signals, len(rates), state["segment"])], state


def current_segments(planner: PeakRatePlanner, signals: Signals, num_segments: int, segment: int) -> Index:
    """Return the index of the segment that each run trains next, (num_runs,), from 0; `segment` is in optimizer steps.

    Raises:
        UserError: a run has no segment left.
    """
    step = np.asarray(signals["step"])
    outside = ~((step >= 0) & (step < num_segments * segment))
    if outside.any():
        raise UserError(
            f"planner {planner.name!r}: no rate for step {step[outside][0]}, "
            f"the budget has steps 0 to {num_segments * segment - 1}"
        )
    return (step // segment).astype(np.int64)

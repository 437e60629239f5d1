"""What all open-loop schedules share: checked settings, and a table of rates looked up by decision."""

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
    """What all schedules share: the peak, checked settings, and a table of rates looked up by decision."""

    @abstractmethod
    def _at(self, k: Index, n: int) -> Array:
        """f(k), in (0, 1], for all decisions k = 0 .. n-1 in order."""

    def factors(self, num_decisions: int) -> Array:
        """The rates of a whole run as fractions of the peak, (num_decisions,)."""
        if num_decisions < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment, not {num_decisions}")
        return self._at(np.arange(num_decisions), num_decisions)

    def preview(self, num_decisions: int) -> Array:
        """The learning rates of a whole run, (num_decisions,), without training anything.

        Raises:
            UserError: if there is no decision to make, or if a rate is too small to be told from 0.
        """
        rates = self.peak * self.factors(num_decisions)
        if not rates.min() > 0:
            raise UserError(
                f"planner {self.name!r}: the rate at decision {int(rates.argmin())} of {num_decisions} "
                f"underflows to 0; take a larger peak than {self.peak!r} or a slower decay"
            )
        return rates

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The table of rates, the same for every run: nothing here is random."""
        return {"rates": self.preview(run.num_segments), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run at its own decision, (num_runs,), and the unchanged state.

        Raises:
            UserError: if a run has no decision left.
        """
        require(self, signals)
        rates = state["rates"]
        return rates[decisions_of(self, signals, len(rates), state["segment"])], state


def decisions_of(planner: PeakRatePlanner, signals: Signals, num_decisions: int, segment: int) -> Index:
    """Number of the decision that each run is at, (num_runs,), from 0.

    Raises:
        UserError: if a run has no decision left.
    """
    step = np.asarray(signals["step"])
    outside = ~((step >= 0) & (step < num_decisions * segment))
    if outside.any():
        raise UserError(
            f"planner {planner.name!r}: no rate for step {step[outside][0]}, "
            f"the budget has steps 0 to {num_decisions * segment - 1}"
        )
    return (step // segment).astype(np.int64)

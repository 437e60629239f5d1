"""The cumulative rate: schedules of different shapes at equal sums of rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lr_env.runs.options import Names, OptionalRates, Settings, TuneSeeds
from lr_env.seeds import TUNING
from lr_env.studies.comparison.study import Sweep

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.cumulative_rate.result import CumulativeRateResult


@dataclass(frozen=True)
class CumulativeRate(Sweep):
    """Sweep schedules over the same cumulative rates; do their best ones share that rate or the peak?"""

    label: ClassVar[str] = "cumulative-rate"

    planners: Names = ("constant", "cosine", "linear", "one-cycle", "wsd", "exponential", "inverse-sqrt")
    """Schedules; the others take their rate from the first."""
    set: Settings = ()
    """Settings in place of the schedules' defaults, e.g. wsd.cooldown=0.5."""
    rates: OptionalRates = None
    """Mean rates over a run: LOW:HIGH:COUNT for a log grid, or a list. Default: 12 over the task's range."""
    tune_seeds: TuneSeeds = tuple(TUNING[:5])
    """Seeds for every rate: how many, or a list."""

    def run(self, lab: Lab) -> CumulativeRateResult:  # type: ignore[override] (another result)
        """Make the sweeps, and say how far the schedules agree."""
        from lr_env.studies.cumulative_rate.result import cumulative

        return cumulative(self.plan(lab.task), lab)

"""Data scaling: how the best rate moves with the amount of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.runs.options import OptionalRates, Settings, Shares, TuneSeeds
from lr_env.seeds import TUNING
from lr_env.studies.comparison.study import plan_of

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.data_scaling.result import ScalingResult
    from lr_env.tasks import Task


@dataclass(frozen=True)
class DataScaling:
    """Tune on nested subsets of the data, fit how the best rate scales, and extrapolate to all data: at what regret?"""

    planner: Annotated[str, arg(metavar="NAME")] = "constant"
    """The planner that is tuned."""
    set: Settings = ()
    """Settings of the planner in place of its defaults, e.g. wsd.cooldown=0.5."""
    rates: OptionalRates = None
    """Peak rates to try: LOW:HIGH:COUNT for a log grid, or a list 0.01,0.1,1. Default: 12 over the task's range."""
    tune_seeds: TuneSeeds = tuple(TUNING[:5])
    """Seeds for every rate: how many, or a list."""
    fractions: Shares = (0.1, 0.2, 0.4)
    """Shares of the training data, at least three below 1; each subset holds the smaller ones."""
    fixed: Annotated[str, arg(metavar="WHAT")] = "steps"
    """What runs on different subsets share: steps, or epochs (fewer steps on less data)."""

    @property
    def label(self) -> str:
        """By what is fixed, studies differ."""
        return f"data-scaling-{self.fixed}"

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs, about."""
        steps = plan_of(task, (self.planner,), self.set, self.rates, self.tune_seeds).child_steps
        return round(steps * (len(self.fractions) + 1 if self.fixed == "steps" else 1 + sum(self.fractions)))

    def run(self, lab: Lab) -> ScalingResult:
        """Sweep on the subsets and on all data, and extrapolate."""
        from lr_env.studies.data_scaling.result import scaling

        plan = plan_of(lab.task, (self.planner,), self.set, self.rates, self.tune_seeds)
        return scaling(plan, lab, self.fractions, self.fixed)

"""Start rates: what a planner gains from several rates that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.runs.options import PlannerSettings, Rates, Seeds, parse_setting

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.start_rates.result import StartRatesResult
    from lr_env.tasks import Task


@dataclass(frozen=True)
class StartRates:
    """Run a planner from several start rates, and constant runs at these rates on the same seeds."""

    planner: Annotated[str, arg(metavar="NAME")] = "ppo"
    """A planner that changes the rate as training goes; `lr-env planners` lists them."""
    set: PlannerSettings = ()
    """Settings of the planner, e.g. policy=policy.safetensors."""
    rates: Rates = (0.1, 0.03, 0.01)
    """Rates to start from: a list, or LOW:HIGH:COUNT for a log grid."""
    seeds: Seeds = tuple(range(20))
    """Seeds of the runs: how many (from 0 up), or a list."""

    @property
    def label(self) -> str:
        """By their planner, studies differ."""
        return f"{self.planner}-start-rates"

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return 2 * len(self.rates) * len(self.seeds) * task.budget

    def run(self, lab: Lab) -> StartRatesResult:
        """Make the runs, and compare them rate by rate."""
        from lr_env.studies.start_rates.result import start_rates

        return start_rates(lab, self.planner, self.rates, self.seeds, dict(parse_setting(text) for text in self.set))

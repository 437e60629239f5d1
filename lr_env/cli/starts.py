"""`lr-env starts`: what a planner gains from several start rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_rates, parse_seeds, parse_setting, progress_bar, writable
from lr_env.terminal import console


@dataclass(frozen=True)
class Starts(ReportOptions):
    """Run a planner from several start rates, and constant runs at these rates on the same seeds."""

    planner: Annotated[str, arg(metavar="NAME")] = "ppo"
    """A planner that changes the rate as training goes; `lr-env planners` lists them."""
    set: Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE...")] = ()
    """Settings of the planner, e.g. policy=policy.safetensors."""
    rates: Annotated[str, arg(metavar="RATES")] = "0.1,0.03,0.01"
    """Rates to start from: a list, or LOW:HIGH:COUNT for a log grid."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Seeds of the runs: how many (from 0 up), or a list."""

    def default_name(self) -> str:
        """The name of the task and of the planner."""
        return f"{self.task}-{self.planner}-starts"

    def run(self) -> None:
        """Make the runs, write the figure and print the table."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.start_rates import start_rates

        task, folder = self.varied_task(), self.folder
        rates, seeds = parse_rates(self.rates), parse_seeds(self.seeds)
        settings = dict(parse_setting(text) for text in self.set)
        writable(folder)
        with progress_bar(2 * len(rates) * len(seeds) * task.budget) as progress:
            result = start_rates(self.lab(task, progress), self.planner, rates, seeds, settings)
        result.write(folder, self.provenance(task))
        print_document(result.document(), console(), folder)

"""`lr-env starts`: what a planner gains from several start rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.parsing import parse_name, parse_rates, parse_seeds, parse_setting, progress_bar, writable
from lr_env.cli.task_options import TaskOptions
from lr_env.terminal import console


@dataclass(frozen=True)
class Starts(TaskOptions):
    """Run a planner from several start rates, and constant runs at these rates on the same seeds."""

    planner: Annotated[str, arg(metavar="NAME")] = "ppo"
    """A planner that changes the rate as training goes; `lr-env planners` lists them."""
    set: Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE...")] = ()
    """Settings of the planner, e.g. policy=policy.safetensors."""
    rates: Annotated[str, arg(metavar="RATES")] = "0.1,0.03,0.01"
    """Rates to start from: a list, or LOW:HIGH:COUNT for a log grid."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Seeds of the runs: how many (from 0 up), or a list."""
    results: Path = Path("results")
    """Folder for the report; this one goes to its subfolder NAME."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the report. Default: those of the task and of the planner."""

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.results / parse_name(f"{self.task}-{self.planner}-starts" if self.name is None else self.name)

    def run(self) -> None:
        """Make the runs, write the figure and print the table."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.start_rates import starts

        task, numerics = self.varied_task(), self.numerics()
        rates, seeds = parse_rates(self.rates), parse_seeds(self.seeds)
        folder = self.folder
        writable(folder)
        with progress_bar(2 * len(rates) * len(seeds) * task.budget) as progress:
            result = starts(
                task,
                self.planner,
                rates,
                seeds,
                settings=dict(parse_setting(text) for text in self.set),
                progress=progress,
                device=self.device,
                backend=self.backend,
                numerics=numerics,
            )
        result.write(folder, self.how_made(task))
        print_document(result.document(), console(), folder)

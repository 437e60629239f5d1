"""`lr-env cumulative`: schedules of different shapes at equal cumulative rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.compare import Common
from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import progress_bar, writable
from lr_env.terminal import console


@dataclass(frozen=True)
class Cumulative(Common, ReportOptions):
    """Sweep schedules over the same cumulative rates; do their best ones share that rate or the peak?"""

    suffix = "-cumulative"

    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = (
        "constant",
        "cosine",
        "linear",
        "one-cycle",
        "wsd",
        "exponential",
        "inverse-sqrt",
    )
    """Schedules; the others take their rate from the first."""
    rates: Annotated[str | None, arg(metavar="RATES")] = None
    """Mean rates over a run: LOW:HIGH:COUNT for a log grid, or a list. Default: 12 over the task's range."""
    tune_seeds: Annotated[str, arg(metavar="SEEDS")] = "5"
    """Seeds for every rate: how many, or a list."""

    def run(self) -> None:
        """Run the sweeps and print how far the schedules agree."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.cumulative_rate import cumulative

        plan, folder = self.plan(()), self.folder
        writable(folder)
        with progress_bar(plan.child_steps) as progress:
            result = cumulative(plan, self.lab(plan.task, progress))
        result.write(folder, self.provenance(plan.task))
        print_document(result.document(), console(), folder)

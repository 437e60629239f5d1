"""`lr-env scaling`: how the best rate moves with the amount of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.compare import Common
from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import progress_bar, writable
from lr_env.errors import UserError
from lr_env.terminal import console


@dataclass(frozen=True)
class Scaling(Common, ReportOptions):
    """Tune on nested subsets of the data, fit how the best rate scales, and extrapolate to all data: at what regret?"""

    planners: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("constant",)
    """The planner that is tuned."""
    tune_seeds: Annotated[str, arg(metavar="SEEDS")] = "5"
    """Seeds for every rate: how many, or a list."""
    fractions: Annotated[str, arg(metavar="SHARES")] = "0.1,0.2,0.4"
    """Shares of the training data, at least three below 1; each subset holds the smaller ones."""
    fixed: Annotated[str, arg(metavar="WHAT")] = "steps"
    """What runs on different subsets share: steps, or epochs (fewer steps on less data)."""

    def default_name(self) -> str:
        """The name of the task, of what is done, and of what is fixed, by which studies differ."""
        return f"{self.task}-scaling-{self.fixed}"

    def run(self) -> None:
        """Run the sweeps and print the scaling."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.data_scaling import scaling

        plan, folder = self.plan(()), self.folder
        try:
            fractions = [float(part) for part in self.fractions.split(",")]
        except ValueError:
            raise UserError(f"fractions {self.fractions!r}: give a list, e.g. 0.1,0.25,0.5") from None
        writable(folder)
        steps = plan.child_steps * (len(fractions) + 1 if self.fixed == "steps" else 1 + sum(fractions))
        with progress_bar(round(steps)) as progress:
            result = scaling(plan, self.lab(plan.task, progress), fractions, self.fixed)
        result.write(folder, self.provenance(plan.task))
        print_document(result.document(), console(), folder)

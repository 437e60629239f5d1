"""`lr-env scaling`: how the best rate moves with the amount of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.compare import Common
from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import progress_bar, writable
from lr_env.errors import UserError


@dataclass(frozen=True)
class Scaling(Common, ReportOptions):
    """Tune on nested subsets of the data, fit how the best rate scales, extrapolate to all data, and say the regret."""

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
        """Run the sweeps and print what they say."""
        from lr_env.records.store import Store
        from lr_env.studies.data_scaling import scaling

        job, name, folder = self.job(()), self.experiment_name(), self.folder
        try:
            fractions = [float(part) for part in self.fractions.split(",")]
        except ValueError:
            raise UserError(f"fractions {self.fractions!r}: give a list, e.g. 0.1,0.25,0.5") from None
        writable(folder)
        steps = job.child_steps * (len(fractions) + 1 if self.fixed == "steps" else 1 + sum(fractions))
        with progress_bar(round(steps)) as progress:
            found = scaling(job, Store(self.store), name, fractions, self.fixed, fresh=self.fresh, progress=progress)
        found.write(folder, self.provenance(job.task))
        print(f"{'examples':>10} {'steps':>8} {'best rate':>10} {'validation loss':>16}")
        for part in found.subsets:
            print(
                f"{part.size:10,} {part.budget:8,} {part.sweep.best():10.4g} {part.sweep.mean().min():16.4f}",
                end="",
            )
            print("  (near the end of the grid)" if part.sweep.at_edge else "")
        low, high = found.interval
        print(f"best rate ~ (training examples) ^ {found.exponent:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
        print(found.verdict)
        low, high = found.predicted_interval
        regret = found.regret
        print(
            f"extrapolated to all data: {found.predicted:.4g} ({low:.3g} to {high:.3g}), tried at {found.tried:.4g};",
            end=" ",
        )
        print(f"the full sweep's best: {found.subsets[-1].sweep.best():.4g};", end=" ")
        print("to its lowest mean loss, which is picked by the same runs, a", end=" ")
        print(f"regret of {regret.value:+.4f} nats/example, 95 % interval {regret.low:+.4f} to {regret.high:+.4f}")
        print(f"Figure: {folder / 'scaling.png'}")

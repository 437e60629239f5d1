"""`lr-env cumulative`: schedules of different shape at equal cumulative rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.compare import Common
from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import progress_bar, writable


@dataclass(frozen=True)
class Cumulative(Common, ReportOptions):
    """Sweep schedules over the same cumulative rates, and say whether their best ones share that rate or the peak."""

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
        """Run the sweeps and print what they say."""
        import numpy as np

        from lr_env.records.store import Store
        from lr_env.studies.cumulative_rate import cumulative

        job, name, folder = self.job(()), self.experiment_name(), self.folder
        writable(folder)
        with progress_bar(job.child_steps) as progress:
            found = cumulative(job, Store(self.store), name, fresh=self.fresh, progress=progress)
        found.write(folder, self.provenance(job.task))
        first = found.shapes[0]
        print(
            f"{'schedule':15} {'mean/peak':>9} {'best peak':>10} {'best sum of rates':>17} {'validation loss':>15}",
            end="",
        )
        print(f" {f'with the sum of {first.planner}':>25} {'with its peak':>15}")
        for shape in found.shapes:
            best, low = shape.sweep.best(), shape.sweep.mean().min()
            print(f"{shape.planner:15} {shape.mean_factor:9.3f} {best / shape.mean_factor:10.4g}", end=" ")
            print(f"{best * found.steps:17.4g} {low:15.4f}", end=" ")
            print(f"{shape.sweep.mean()[found.row]:25.4f} {shape.at_peak.mean():15.4f}", end="")
            print("  (near the end of the grid)" if shape.sweep.at_edge else "")
        spreads, regrets = found.spreads(), found.regrets()
        low, high = found.spread_difference
        print(
            f"spread of the best over shapes: sum of rates {spreads[0]:.2f}, peak {spreads[1]:.2f} (standard", end=" "
        )
        print(
            f"deviations of the log; difference {np.subtract(*spreads):+.2f}, 95 % interval {low:+.2f} to {high:+.2f})"
        )
        low, high = found.regret_difference
        print(
            f"loss given away by taking {first.planner}'s best: its sum {regrets[0]:.4f}, its peak {regrets[1]:.4f}",
            end=" ",
        )
        print(f"(difference {np.subtract(*regrets):+.4f}, 95 % interval {low:+.4f} to {high:+.4f})")
        low, high = found.disagreement_difference
        apart = found.disagreements()
        print(f"below every optimum, losses of shapes differ by {100 * apart[0]:.1f} % at equal sums,", end=" ")
        print(f"by {100 * apart[1]:.1f} % at equal peaks (difference {100 * np.subtract(*apart):+.1f},", end=" ")
        print(f"95 % interval {100 * low:+.1f} to {100 * high:+.1f})")
        print(f"{found.verdict}.")
        print(f"Figure: {folder / 'cumulative.png'}")

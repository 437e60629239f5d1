"""`lr-env range-test`: between which rates a task learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.parsing import parse_ends, parse_seeds, writable
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError

_MEANING = {
    "lr_min": "the loss begins to fall",
    "lr_steepest": "it falls fastest along the log of the rate",
    "lr_max": "up to there the mean loss still falls",
}


@dataclass(frozen=True)
class RangeTest(TaskOptions):
    """Raise the rate through a short run of fresh children, and see where the loss falls and where it rises."""

    budget: Annotated[int | None, arg(metavar="STEPS")] = None
    """Not for this test, which has --steps."""
    segment: Annotated[int | None, arg(metavar="STEPS")] = None
    """Not for this test, in which nothing is decided."""
    rates: Annotated[str | None, arg(metavar="LOW:HIGH")] = None
    """First and last rate. Default: 3 decades below the task's tuning range to its largest rate."""
    steps: Annotated[int, arg(metavar="STEPS")] = 300
    """Optimizer steps of the test."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "4"
    """Seeds of the children: how many, or a list."""
    results: Path = Path("results")
    """Folder for the report; this one goes to its subfolder TASK-range-test."""

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.results / f"{self.task}-range-test"

    def run(self) -> None:
        """Run the test, write its figure and print the rates."""
        import numpy as np

        from lr_env.report.formatting import seeds_text
        from lr_env.studies.range_test import range_test

        for name in ("budget", "segment"):
            if getattr(self, name) is not None:
                raise UserError(f"{name} {getattr(self, name)}: a range test has none, give its length with --steps")
        task, numerics = self.varied_task(), self.numerics()
        usual = max(task.tuning_range[0] / 1000, task.lr_range[0]), task.lr_range[1]
        low, high = usual if self.rates is None else parse_ends(self.rates)
        folder = self.folder
        writable(folder)
        found = range_test(
            task,
            parse_seeds(self.seeds),
            low,
            high,
            self.steps,
            device=self.device,
            backend=self.backend,
            numerics=numerics,
        )
        found.write(folder, self.provenance(task))
        for name, rate in found.rates.items():
            print(f"{name:11} = {rate:.3g}: {_MEANING[name]}")
        if "lr_max" in found.rates and len(found.seeds) > 1:
            own = found.lr_max_of_children
            print(f"lr_max of each child alone: {own.min():.3g} to {own.max():.3g}, median {np.median(own):.3g}")
        for remark in found.remarks:
            print(remark)
        print(f"{seeds_text(len(found.seeds))}, {len(found.lr)} steps from {found.lr[0]:.3g} to {found.lr[-1]:.3g}")
        print(f"Figure: {folder / 'range-test.png'}")

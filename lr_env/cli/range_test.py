"""`lr-env range-test`: the range of rates in which a task learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.parsing import writable
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError
from lr_env.runs.options import parse_ends, parse_seeds
from lr_env.terminal import console


@dataclass(frozen=True)
class RangeTest(TaskOptions):
    """Raise the rate through a short run of fresh children: where does the loss fall, and where does it rise?"""

    budget: Annotated[int | None, arg(metavar="STEPS")] = None
    """Not for this test, which has --steps."""
    segment: Annotated[int | None, arg(metavar="STEPS")] = None
    """Not for this test, which has no segments."""
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
        return self.results / f"{self.short_name}-range-test"

    def run(self) -> None:
        """Run the test, write its figure and print the rates."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.range_test import range_test

        for name in ("budget", "segment"):
            if getattr(self, name) is not None:
                raise UserError(f"{name} {getattr(self, name)}: a range test has none, give its length with --steps")
        task = self.varied_task()
        default = max(task.tuning_range[0] / 1000, task.lr_range[0]), task.lr_range[1]
        low, high = default if self.rates is None else parse_ends(self.rates)
        folder = self.folder
        writable(folder)
        result = range_test(
            task,
            parse_seeds(self.seeds),
            low,
            high,
            self.steps,
            execution=self.execution(),
            checkpoint=folder / "checkpoint",
        )
        result.write(folder, self.provenance(task))
        print_document(result.document(), console(), folder)

"""`lr-env range-test`: between which rates a task learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lr_env.commands.arguments import parse_ends, parse_seeds, writable
from lr_env.commands.task_options import TaskOptions


@dataclass(frozen=True)
class RangeTest(TaskOptions):
    """Raise the rate through a short run of fresh children, and see where the loss falls and where it rises."""

    rates: Annotated[str, arg(metavar="LOW:HIGH")] = ""
    """First and last rate. Default: 3 decades below the task's tuning range to its largest rate."""
    steps: Annotated[int, arg(metavar="STEPS")] = 300
    """Optimizer steps of the test."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "4"
    """Seeds of the children: how many, or a list."""
    results: Path = Path("results")
    """Folder for the report; this one goes to its subfolder TASK-range-test."""

    def run(self) -> None:
        """Run the test, write its figure and print the rates."""
        from lr_env.range_test import range_test

        task, numerics = self.varied_task(), self.numerics()
        low, high = parse_ends(self.rates) if self.rates else (task.tuning_range[0] / 1000, task.lr_range[1])
        folder = self.results / f"{self.task}-range-test"
        writable(folder)
        found = range_test(
            task,
            parse_seeds(self.seeds),
            max(low, task.lr_range[0]) if not self.rates else low,
            high,
            self.steps,
            device=self.device,
            backend=self.backend,
            numerics=numerics,
        )
        found.write(folder, self.how_made(task))
        print(f"the loss begins to fall at a rate of {found.lr_min:.3g} and falls fastest at {found.lr_steepest:.3g};")
        where = f"{len(found.seeds)} seeds, {len(found.lr)} steps"
        print(f"lr_max = {found.lr_max:.3g}: up to there it still falls ({where})")
        print(f"Figure: {folder / 'range-test.png'}")

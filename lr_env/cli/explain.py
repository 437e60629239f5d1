"""`lr-env explain`: what a planner believed on the way through a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.parsing import parse_name, writable
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError, check_seeds
from lr_env.runs.options import parse_settings


@dataclass(frozen=True)
class Explain(TaskOptions):
    """Make a run under a planner that looks ahead by a model, and draw what it believed at each plan and what came."""

    planner: Annotated[str, arg(metavar="NAME")] = "latent-ode"
    """The planner: one that has `explain`."""
    set: Annotated[tuple[str, ...], arg(metavar="PLANNER.SETTING=VALUE")] = field(default=())
    """Its settings, e.g. latent-ode.model=results/fit/FashionMLP-fit/model.safetensors."""
    backend: Annotated[str, arg(metavar="NAME")] = "loop"
    """auto, loop, stacked or compiled; for one child there is nothing to gain from measuring which is fastest."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the run."""
    out: Path = Path("explain.png")
    """Figure to write, a .png file."""
    results: Path = Path("results")
    """Folder for reports. What was believed is kept in its subfolder NAME, where lr-env report finds it."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: TASK)")] = None
    """Name of the comparison in whose report the planner's page shows what it believed."""

    def run(self) -> None:
        """Make the run, write the figure, and print how good the forecasts were."""
        from lr_env.registry import check_settings, find_planner, make_planner, task_settings
        from lr_env.report.files import draw_into
        from lr_env.studies.belief_page import write_beliefs
        from lr_env.studies.beliefs import check_explains, explained

        if self.out.suffix.lower() != ".png":
            raise UserError(f"out {str(self.out)!r}: the figure is written as PNG, give a name that ends in .png")
        if self.out.is_dir():
            raise UserError(f"out {str(self.out)!r} is a folder: give the name of a .png file")
        check_explains(find_planner(self.planner), self.planner)
        task = self.varied_task()
        settings = dict(task_settings(self.planner, task) or {}) | parse_settings(self.set, [self.planner]).get(
            self.planner, {}
        )
        check_settings(self.planner, settings)
        writable(self.out.parent, "--out")
        folder = self.results / parse_name(self.short_name if self.name is None else self.name)
        writable(folder)
        execution = self.execution()
        check_seeds([self.seed])
        planner = make_planner(self.planner, settings)
        result = explained(planner, task, self.seed, execution, self.out.with_suffix(".checkpoint"))
        print(
            f"Run of seed {self.seed}: {len(result.lr)} segments, validation loss at the end {result.val_loss[-1]:.4f} "
            f"on the subset, {result.final_val_loss:.4f} on the whole split"
        )
        for belief in result.beliefs:
            at = belief.segment * task.segment
            if not len(belief.rates):
                print(f"at step {at:6}: kept its plan")
                continue
            ends = belief.losses[:, 0, -1]
            note = f"; {belief.note}" if belief.note else ""
            until = f" for step {belief.steps[-1]:.0f}" if belief.steps[-1] < task.budget else ""
            whole = (
                ""
                if belief.final_interval is None
                else f", on the whole split with 90 % {_between(belief.final_interval)}"
            )
            print(
                f"at step {at:6}: forecast {ends.mean():.4f} ({_between((ends.min(), ends.max()))}){until}{whole}{note}"
            )
        print(f"Kept for the report: {write_beliefs(folder, result, planner, task)}")
        if draw_into(self.out, result.draw):
            print(f"Figure: {self.out}")


def _between(ends: tuple[float, float]) -> str:
    return "{:.4f} to {:.4f}".format(*ends)

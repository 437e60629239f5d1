"""`lr-env conditions`: what tuned planners lose where something is otherwise than when they were tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_names, parse_seeds, progress_bar, writable
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.tasks import Task


@dataclass(frozen=True)
class Conditions(ReportOptions):
    """Tune on a task; then start too low or too high, change budget, data, labels, width or batch, and say the regret.

    The regret is to a WSD schedule that is tuned for each condition. A schedule whose budget changes goes through what
    was left of it in the steps that are left; planners may plan anew.
    """

    suffix = "-conditions"

    tuners: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("latent-ode", "wsd", "random", "tpe")
    """Who tunes, see `lr-env budget`."""
    runs: Annotated[int, arg(metavar="N")] = 100
    """Runs that each may make."""
    oracle: Annotated[int, arg(metavar="N")] = 60
    """Runs by which a schedule is tuned for each condition."""
    conditions: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Conditions, such as "low start". Default: all that the task can be put under."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Fresh seeds that all are run on: how many (from 0 up), or a list 3,5,8."""

    def run(self) -> None:
        """Tune, run all under each condition, and print regrets."""
        from lr_env.studies.robustness.robustness import Conditions as Wanted
        from lr_env.studies.robustness.robustness import run_conditions

        folder, task = self.folder, self.varied_task()
        tuners, seeds = tuple(parse_names(self.tuners)), parse_seeds(self.seeds)
        wanted = Wanted(tuners, self.runs, self.oracle, seeds, self._conditions(task))
        writable(folder)
        runs = len(tuners) * self.runs + len(wanted.names) * (wanted.most_tuning + len(tuners) * len(seeds))
        with progress_bar(runs * task.budget) as progress:
            found = run_conditions(wanted, self.study(task, progress), folder)
        found.write(folder, self.provenance(task))
        print(found.heading())
        print(found.text())
        print(f"Report: {folder / 'summary.md'}")

    def _conditions(self, task: Task) -> tuple[str, ...]:
        """Those that are asked for; by default all that the task can be put under."""
        from lr_env.studies.robustness.robustness import CONDITIONS

        if self.conditions:
            return tuple(parse_names(self.conditions))
        found = []
        for name, condition in CONDITIONS.items():
            try:
                condition.vary(task)
            except UserError as error:
                print(f"Without {name!r}: {error}")
            else:
                found.append(name)
        return tuple(found)

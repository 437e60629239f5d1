"""`lr-env conditions`: robustness of tuned planners under shifted conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_names, parse_seeds, progress_bar, writable
from lr_env.errors import UserError
from lr_env.terminal import console

if TYPE_CHECKING:
    from lr_env.tasks import Task


@dataclass(frozen=True)
class Conditions(ReportOptions):
    """Measure robustness: tune planners on a task, then run them under shifted conditions.

    The rate starts too low or too high, or budget, data, labels, width or batch size change. Reported is the regret
    relative to a WSD schedule that is tuned for each condition. A schedule whose budget changes goes through its
    remainder in the steps that are left; planners may plan anew.
    """

    suffix = "-conditions"

    tuners: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("latent-ode", "wsd", "random", "tpe")
    """Who tunes, see `lr-env budget`."""
    runs: Annotated[int, arg(metavar="N")] = 100
    """Runs that each tuner may make."""
    oracle: Annotated[int, arg(metavar="N")] = 60
    """Runs that a schedule is tuned with for each condition."""
    conditions: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Conditions, such as "low start". Default: all that the task can be put under."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Fresh seeds that all planners are run on: how many (from 0 up), or a list 3,5,8."""

    def run(self) -> None:
        """Tune, run the tuned planners under each condition, and print their regrets."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.robustness.robustness import Conditions as Wanted
        from lr_env.studies.robustness.robustness import run_conditions

        folder, task = self.folder, self.varied_task()
        tuners, seeds = tuple(parse_names(self.tuners)), parse_seeds(self.seeds)
        wanted = Wanted(tuners, self.runs, self.oracle, seeds, self._conditions(task))
        writable(folder)
        runs = len(tuners) * self.runs + len(wanted.names) * (wanted.most_tuning + len(tuners) * len(seeds))
        with progress_bar(runs * task.budget) as progress:
            result = run_conditions(wanted, self.lab(task, progress), folder)
        result.write(folder, self.provenance(task))
        print_document(result.document(), console())
        print(f"Report: {folder / 'summary.md'}")

    def _conditions(self, task: Task) -> tuple[str, ...]:
        """The names given; by default all conditions that the task can be put under."""
        from lr_env.studies.robustness.robustness import CONDITIONS

        if self.conditions:
            return tuple(parse_names(self.conditions))
        names = []
        for name, condition in CONDITIONS.items():
            try:
                condition.vary(task)
            except UserError as error:
                print(f"Without {name!r}: {error}")
            else:
                names.append(name)
        return tuple(names)

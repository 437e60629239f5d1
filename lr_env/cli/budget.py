"""`lr-env budget`: what tuners reach with so many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_names, parse_seeds, progress_bar, writable
from lr_env.errors import UserError


@dataclass(frozen=True)
class Budget(ReportOptions):
    """Let tuners spend 10, 20, 40 ... runs on choosing a planner, several times, and run what they chose.

    Tuners: wsd and random (Sobol sequences over one or all families of schedules), wsd-tpe and tpe (Optuna's
    tree-structured Parzen estimator over the same), latent-ode (an adaptive sweep, the planner, and its controls), and
    direct (a search over knots of the rate by real training: the ceiling), latent-ode-generative (the published
    planner). Settings of a tuner follow its name, as in latent-ode:design=paper (also random, mixed, wsd).
    """

    suffix = "-budget"

    tuners: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("latent-ode", "wsd", "wsd-tpe", "random", "tpe")
    """Who tunes."""
    variants: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("controls",)
    """Further planners made of the same runs: controls, or ablations (which show what each part is worth)."""
    runs: Annotated[str, arg(metavar="RUNS")] = "10,20,40,100"
    """Numbers of runs after which each is asked. A later start under the same name may add larger ones."""
    repeats: Annotated[int, arg(metavar="N")] = 5
    """Repeats of each procedure from the start."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Fresh seeds that answers are run on: how many (from 0 up), or a list 3,5,8."""
    ceiling: Annotated[int | None, arg(metavar="RUNS")] = None
    """Runs of the direct search to which regret is told. Default: regret to the best of all answers."""

    def run(self) -> None:
        """Tune, run the answers, and print regrets."""
        from lr_env.studies.tuning_budget.tuning_budget import Budgets, run_budgets

        folder, task = self.folder, self.varied_task()
        try:
            budgets = tuple(int(part) for part in self.runs.split(","))
        except ValueError:
            raise UserError(f"runs {self.runs!r}: give numbers of runs, e.g. 10,20,40") from None
        tuners = tuple(parse_names(self.tuners))
        seeds = parse_seeds(self.seeds)
        variants = tuple(parse_names(self.variants))
        ceiling = ("", 0) if self.ceiling is None else ("direct", self.ceiling)
        wanted = Budgets(tuners, budgets, self.repeats, seeds, variants, *ceiling)
        writable(folder)
        with progress_bar(wanted.most_runs * task.budget) as progress:
            found = run_budgets(wanted, self.study(task, progress), folder)
        found.write(folder, self.how_made(task))
        print(found.heading())
        print(found.text())
        print(f"Figure: {folder / 'budget.png'}")

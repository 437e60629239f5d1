"""`lr-env budget`: how good the planners are that tuners choose after given numbers of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_names, parse_seeds, progress_bar, writable
from lr_env.errors import UserError
from lr_env.terminal import console


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
    """Numbers of runs after which each tuner chooses. A later start under the same name may add larger ones."""
    repeats: Annotated[int, arg(metavar="N")] = 5
    """Repeats of each procedure from the start."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "20"
    """Fresh seeds that the tuned planners are run on: how many (from 0 up), or a list 3,5,8."""
    ceiling: Annotated[int | None, arg(metavar="RUNS")] = None
    """Also run the direct search with this many runs, and report regret relative to it. Default: regret relative to the
    best tuned planner."""

    def run(self) -> None:
        """Tune, run the tuned planners, and print their regrets."""
        from lr_env.report.terminal import print_document
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
            curve = run_budgets(wanted, self.lab(task, progress), folder)
        curve.write(folder, self.provenance(task))
        print_document(curve.document(), console(), folder)

"""`lr-env fit`: fit a model of training to the runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_ends, progress_bar, writable
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.tasks import Task
    from planners.latent_ode.fit_report import Report

_SEEDS = 10
"""Of a comparison by default."""

_OF_A_SWEEP = ("design", "runs", "rates")
"""Options that say nothing of runs that there are."""


def on_fresh_seeds(used: set[int]) -> str:
    """The option of a comparison for seeds that were not used; empty where those by default were not."""
    if not used & set(range(_SEEDS)):
        return ""
    fresh = [str(seed) for seed in range(len(used) + _SEEDS) if seed not in used]
    return f" --seeds {','.join(fresh[:_SEEDS])}"


@dataclass(frozen=True)
class Fit(ReportOptions):
    """Make a sweep, fit the model of the latent-ODE planner to it (arXiv:2509.23052), and say how well it foresees.

    With --records it takes runs that there are in place of a sweep.
    """

    suffix = "-fit"

    design: Annotated[str, arg(metavar="NAME")] = "adaptive"
    """Which runs: paper, random, mixed, wsd, or adaptive (a model of the runs so far proposes the next)."""
    runs: Annotated[int, arg(metavar="N")] = 100
    """Runs of the sweep."""
    records: Annotated[Path | None, arg(metavar="FILE")] = None
    """Instead of a sweep runs that there are: runs.parquet of a fit or a comparison. Plan on other seeds."""
    rates: Annotated[str | None, arg(metavar="LOW:HIGH")] = None
    """Peak rates of the sweep. Default: the task's range."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the design, of the children and of the fit."""
    kind: Annotated[str, arg(metavar="NAME")] = "controlled"
    """Of model: controlled (for latent-ode) or generative (the published one, for latent-ode-generative)."""
    members: Annotated[int, arg(metavar="N")] = 5
    """Models of the ensemble; the generative kind has one."""

    @property
    def folder(self) -> Path:
        """Where the model and the report go."""
        return self.results / "fit" / self.experiment()

    def run(self) -> None:
        """Sweep, fit, and print how well ends of runs are foreseen."""
        from lr_env.records.tables import check_task, read_runs
        from planners.latent_ode import fit_report

        folder, task = self.folder, self.varied_task()
        how = {"kind": self.kind, "members": self.members}
        of_a_sweep = [f"--{option}" for option in _OF_A_SWEEP if getattr(self, option) != getattr(Fit, option)]
        if self.records is not None and of_a_sweep:
            raise UserError(f"{of_a_sweep[0]} is of a sweep, and --records takes runs that there are: leave out one")
        if self.records is None:
            made, seeds = self._swept(task, folder, how), ""
        else:
            fit_report.check_kind(**how)
            known = read_runs(self.records)
            check_task(self.records, task)
            writable(folder)
            self.numerics()
            about = {**self.how_made(task), "records": str(self.records)}
            made = fit_report.fit_records(known, task, seed=self.seed, about=about, **how)
            seeds = on_fresh_seeds({run.seed for run in known})
        made.write(folder)
        print(made.text())
        model, planner = folder / "model.safetensors", made.planner
        print(f"Model: {model}; see what it makes of the task with")
        print(
            f"  lr-env compare {self.task}{self.variation} --planners {planner} wsd constant "
            f"--set {planner}.model={model}{seeds}"
        )

    def _swept(self, task: Task, folder: Path, how: Mapping[str, Any]) -> Report:
        """A fit to the runs of a sweep."""
        from planners.latent_ode.fit_report import fit_sweep
        from planners.latent_ode.sweep.sweep import Sweep

        rates = task.tuning_range if self.rates is None else parse_ends(self.rates)
        wanted = Sweep(self.design, self.runs, rates, self.seed)
        writable(folder)
        with progress_bar(self.runs * task.budget) as progress:
            return fit_sweep(wanted, self.study(task, progress), about=self.how_made(task), **how)

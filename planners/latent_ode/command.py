"""`lr-env fit`: fit a model of training to the runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import progress_bar, writable
from lr_env.errors import UserError
from lr_env.runs.options import parse_ends

if TYPE_CHECKING:
    from lr_env.tasks import Task
    from planners.latent_ode.fit_report import Report

_SEEDS = 10
"""Number of seeds of a comparison by default: 0, 1, ..."""

_SWEEP_OPTIONS = ("design", "runs", "rates", "log")
"""Options that do not apply to existing runs."""


def on_fresh_seeds(used: set[int]) -> str:
    """Return the option that makes a comparison use other seeds; empty if its default seeds were not used."""
    if not used & set(range(_SEEDS)):
        return ""
    fresh = [str(seed) for seed in range(len(used) + _SEEDS) if seed not in used]
    return f" --seeds {','.join(fresh[:_SEEDS])}"


@dataclass(frozen=True)
class Fit(ReportOptions):
    """Fit a model of training, for the planner latent-ode, to a sweep, and report how well it forecasts held-out runs.

    The method is that of arXiv:2509.23052. With --records, existing runs take the place of the sweep.
    """

    suffix = "-fit"

    design: Annotated[str, arg(metavar="NAME")] = "adaptive"
    """Schedules of the sweep: wsd (warm-up, stable, decay), paper (those of the paper), random (random lines), mixed
    (common and random ones), or adaptive (first wsd, then what a model of the runs so far proposes)."""
    runs: Annotated[int, arg(metavar="N")] = 100
    """Number of runs of the sweep."""
    records: Annotated[Path | None, arg(metavar="FILE")] = None
    """Fit to existing runs instead of a sweep: runs.parquet of a fit or a comparison. Compare on other seeds then."""
    rates: Annotated[str | None, arg(metavar="LOW:HIGH")] = None
    """Range of the peak rates of the sweep. Default: the task's range."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the schedules, of the children and of the fit."""
    kind: Annotated[str, arg(metavar="NAME")] = "controlled"
    """Kind of model: controlled (for latent-ode) or generative (the published one, for latent-ode-generative)."""
    members: Annotated[int, arg(metavar="N")] = 5
    """Number of models in the ensemble; the generative kind always has one."""

    @property
    def folder(self) -> Path:
        """Folder of the model and the report."""
        return self.results / "fit" / self.experiment_name()

    def run(self) -> None:
        """Run the sweep, fit the model, and print how well it forecasts the ends of runs."""
        from lr_env.records.tables import check_task, read_runs
        from planners.latent_ode import fit_report

        folder, task = self.folder, self.varied_task()
        model = {"kind": self.kind, "members": self.members}
        options = [f"--{option}" for option in _SWEEP_OPTIONS if getattr(self, option) != getattr(Fit, option)]
        if self.records is not None and options:
            raise UserError(f"{options[0]} is of a sweep, and --records takes existing runs: leave out one of them")
        if self.records is None:
            report, seeds = self._fit_sweep(task, folder, model), ""
        else:
            fit_report.check_kind(**model)
            runs = read_runs(self.records)
            check_task(self.records, task)
            writable(folder)
            self.numerics()
            about = {**self.provenance(task), "records": str(self.records)}
            report = fit_report.fit_records(runs, task, seed=self.seed, about=about, **model)
            seeds = on_fresh_seeds({run.seed for run in runs})
        report.write(folder)
        print(report.text())
        file, planner = folder / "model.safetensors", report.planner
        print(f"Model: {file}; compare the planner that uses it with others by")
        print(
            f"  lr-env compare {self.task}{self.variation} --planners {planner} wsd constant "
            f"--set {planner}.model={file}{seeds}"
        )

    def _fit_sweep(self, task: Task, folder: Path, model: Mapping[str, Any]) -> Report:
        """Run the sweep, and fit the model to its runs."""
        from planners.latent_ode.fit_report import fit_sweep
        from planners.latent_ode.sweep.sweep import Sweep

        rates = task.tuning_range if self.rates is None else parse_ends(self.rates)
        settings = Sweep(self.design, self.runs, rates, self.seed)
        self.check_log()
        writable(folder)
        lab = self.lab(task, self.experiment_name(), folder)
        with progress_bar(self.runs * task.budget) as progress:
            report = fit_sweep(settings, replace(lab, progress=progress), about=self.provenance(task), **model)
        self.write_log(lab)
        return report

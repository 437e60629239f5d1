"""`lr-env fit`: fit a model of training to the runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import beyond, progress_bar, writable
from lr_env.errors import UserError
from lr_env.runs.options import Names, parse_ends

if TYPE_CHECKING:
    from lr_env.tasks import Task
    from planners.latent_ode.fit_report import Report

_SEEDS = 10
"""Number of seeds of a comparison by default: 0, 1, ..."""

_SWEEP_RUNS = 100
"""Runs of a sweep by default."""

_SWEEP_OPTIONS = ("design", "runs", "rates", "log")
"""Options that do not apply to existing runs."""

_ONLY_FAMILY_OPTIONS = ("tasks", "encoder", "shuffled")
"""Options that apply to task families alone."""

_FAMILY_OPTIONS = (
    "family", "tasks", "runs", "encoder", "shuffled", "members", "seed", "threads", "store", "name", "results", "fresh",
    "device", "backend", "engine", "workers", "ray_address",
)  # fmt: skip
"""Options that apply to task families."""

_IMPORTED_OPTIONS = ("runs_of", "budget", "segment", "members", "seed", "threads", "store", "name", "results")
"""Options that apply to imported runs, which have no task."""


def on_fresh_seeds(used: set[int]) -> str:
    """Return the option that makes a comparison use other seeds; empty if its default seeds were not used."""
    if not used & set(range(_SEEDS)):
        return ""
    fresh = [str(seed) for seed in range(len(used) + _SEEDS) if seed not in used]
    return f" --seeds {','.join(fresh[:_SEEDS])}"


@dataclass(frozen=True)
class Fit(ReportOptions):
    """Fit a model of training, for the planner latent-ode, to a sweep, and report how well it forecasts held-out runs.

    The method is that of arXiv:2509.23052. With --records, existing runs take the place of the sweep. With --runs-of,
    the model is fitted to runs of your own training, which `lr-env import` has read from its logs, without a TASK.
    """

    suffix = "-fit"

    task: Annotated[str, Positional, arg(metavar="TASK", help_behavior_hint="(not with --runs-of)")] = ""
    """Name of the task (data set, network, optimizer, batch size, budget); `lr-env tasks` lists them."""
    design: Annotated[str, arg(metavar="NAME")] = "adaptive"
    """Schedules of the sweep: wsd (warm-up, stable, decay), paper (those of the paper), random (random lines), mixed
    (common and random ones), or adaptive (first wsd, then what a model of the runs so far proposes)."""
    runs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 100; with --family 32)")] = None
    """Number of runs of the sweep; with --family, of each task."""
    family: Names = ()
    """Fit a model across tasks of these families, for latent-ode-transfer, without a TASK. Settings may follow a name,
    as in CNNFamily:tasks=40,runs=24."""
    tasks: Annotated[int, arg(metavar="N")] = 200
    """With --family: number of tasks of each."""
    encoder: Annotated[str, arg(metavar="NAME")] = "summary"
    """With --family: what the model is told of networks: summary (numbers), none, or what a learned encoder makes of
    the graph: gcn, summary+gcn, set, gru or paper (arXiv:2412.15554)."""
    shuffled: bool = False
    """With --family: tell each task the network of another one, as a control."""
    records: Annotated[Path | None, arg(metavar="FILE")] = None
    """Fit to existing runs instead of a sweep: runs.parquet of a fit or a comparison. Compare on other seeds then."""
    runs_of: Annotated[str | None, arg(metavar="NAME")] = None
    """Fit to the runs that were imported under this name; --budget and --segment are found in them unless given."""
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

    def default_name(self) -> str:
        """Return the name of the imported runs, or that of the task and the suffix."""
        if self.family:
            return "-".join(name.partition(":")[0] for name in self.family)
        return super().default_name() if self.runs_of is None else self.runs_of

    def run(self) -> None:
        """Run the sweep, fit the model, and print how well it forecasts the ends of runs."""
        if self.family:
            return self._fit_families()
        if self.runs_of is not None:
            return self._fit_imported(self.runs_of)
        if not self.task:
            raise UserError(
                "give the TASK to make a sweep of, or --runs-of NAME for imported runs (see lr-env fit --help)"
            )
        return self._fit_task()

    def _fit_task(self) -> None:
        """Fit a model to a sweep of a task, or to existing runs of it."""
        from lr_env.records.tables import check_task, read_runs
        from planners.latent_ode import fit_report

        folder, task = self.folder, self.varied_task()
        model = {"kind": self.kind, "members": self.members}
        if foreign := [option for option in _ONLY_FAMILY_OPTIONS if getattr(self, option) != getattr(Fit, option)]:
            raise UserError(
                f"--{foreign[0]} is of a model across tasks: leave it out, or give --family in place of TASK"
            )
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
        runs = _SWEEP_RUNS if self.runs is None else self.runs
        settings = Sweep(self.design, runs, rates, self.seed)
        self.check_log()
        writable(folder)
        lab = self.lab(task, self.experiment_name(), folder)
        with closing(lab.engine), progress_bar(runs * task.budget) as progress:
            about = self.provenance(task, lab.engine.call)
            report = fit_sweep(settings, replace(lab, progress=progress), about=about, **model)
        self.write_log(lab)
        return report

    def _fit_imported(self, name: str) -> None:
        """Fit a model to imported runs."""
        from lr_env.provenance import command_line, versions
        from lr_env.records.store import Store
        from planners.latent_ode.fit_imported import fit_imported

        if which := beyond(self, _IMPORTED_OPTIONS):
            raise UserError(f"{which} is of runs of a task, and --runs-of takes imported ones: leave out one of them")
        folder = self.folder
        if not self.store.is_file():
            raise UserError(
                f"there is no record store {str(self.store)!r}: import runs with `lr-env import`, or give --store"
            )
        with closing(Store(self.store)) as store:
            runs = store.imported(name)
        writable(folder)
        self.numerics()
        about = {"command": command_line(), "versions": versions(), "store": str(self.store)}
        sizes = {"budget": self.budget, "segment": self.segment, "members": self.members}
        report = fit_imported(runs, name, seed=self.seed, about=about, **sizes)
        report.write(folder)
        print(report.text())
        file = folder / "model.safetensors"
        print(f"Model: {file}; use it in your training by")
        print("\n".join(f"  {line}" for line in report.usage(file).splitlines()))

    def _fit_families(self) -> None:
        """Train runs of task families, and fit a model across them."""
        from lr_env.children import Backend, Execution
        from lr_env.provenance import command_line, versions
        from planners.transfer import fit_family
        from planners.transfer.fit import Fitting

        if which := beyond(self, _FAMILY_OPTIONS):
            raise UserError(f"{which} does not apply to task families: leave it or --family out")
        from planners.latent_ode.fitting.fit import check_members

        check_members(self.members)
        runs = fit_family.DEFAULT_RUNS if self.runs is None else self.runs
        searches = fit_family.searches_of(self.family, self.tasks, runs)
        folder, threads = self.folder, self.set_threads()
        writable(folder)
        backend = Backend("loop") if self.backend == "loop" else Backend("stacked", block=runs)
        with (
            closing(self.find_engine(self.device, threads)) as engine,
            progress_bar(sum(search.runs for search in searches)) as progress,
        ):
            names = fit_family.collected(
                searches,
                self.store,
                self.experiment_name(),
                Execution(self.device, backend),
                engine,
                self.fresh,
                lambda done: progress("runs", done),
            )
        about = {"command": command_line(), "versions": versions(), "families": list(self.family)}
        fitting = Fitting(self.members, encoder=self.encoder, shuffled=self.shuffled, seed=self.seed)
        report = fit_family.fit_families(self.store, names, fitting, about)
        file = folder / "model.safetensors"
        report.model.save(file)
        print(report.text())
        print(f"Model: {file}; compare the planner that uses it with others, on any task, by")
        print(f"  lr-env compare TASK --planners latent-ode-transfer wsd --set latent-ode-transfer.model={file}")

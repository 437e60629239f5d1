"""`lr-env sweep` and `lr-env compare`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from lr_env.cli.experiment_options import ExperimentOptions, ReportOptions
from lr_env.cli.parsing import (
    command_line,
    log_grid,
    parse_names,
    parse_rates,
    parse_seeds,
    parse_settings,
    progress_bar,
    writable,
)
from lr_env.terminal import console

if TYPE_CHECKING:
    from lr_env.studies.comparison.comparison import ComparisonPlan
    from lr_env.tasks import Task

_TUNE_SEED = 1_000_000  # tuning seeds count up from here, far from the seeds people choose


@dataclass(frozen=True)
class Common(ExperimentOptions):
    """Options of a sweep and of a comparison."""

    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ("all",)
    """Planners, by name; "all" are those without forks, optimizers of their own or models that are missing."""
    set: Annotated[tuple[str, ...], arg(metavar="PLANNER.SETTING=VALUE...")] = ()
    """Settings in place of planners' own defaults and grids, e.g. ppo.policy=policy.safetensors lookahead.horizon=1."""
    rates: Annotated[str | None, arg(metavar="RATES")] = None
    """Peak rates to try: LOW:HIGH:COUNT for a log grid, or a list 0.01,0.1,1. Default: 12 over the task's range."""
    tune_seeds: Annotated[str, arg(metavar="SEEDS")] = "2"
    """Seeds for every setting: how many, or a list 1000000,1000001."""

    def plan(self, seeds: tuple[int, ...]) -> ComparisonPlan:
        """The comparison that the options ask for."""
        from lr_env.registry import find_planner, in_default_set, planner_names
        from lr_env.studies.comparison.comparison import ComparisonPlan

        task = self.varied_task()
        names: list[str] = []
        for name in parse_names(self.planners):
            if name != "all":
                find_planner(name)
            names += [other for other in planner_names() if in_default_set(other, task)] if name == "all" else [name]
        return ComparisonPlan(
            task=task,
            planners=tuple(names),
            settings=self._settings(names, task),
            rates=log_grid(*task.tuning_range, 12) if self.rates is None else parse_rates(self.rates),
            tune_seeds=parse_seeds(self.tune_seeds, first=_TUNE_SEED),
            seeds=seeds,
        )

    def _settings(self, names: list[str], task: Task) -> dict[str, dict[str, Any]]:
        """Settings that were given, and those that suit planners to the task."""
        from lr_env.registry import task_settings

        given = parse_settings(self.set, names)
        suits = {name: dict(task_settings(name, task) or {}) for name in names}
        return {name: own for name in names if (own := suits[name] | given.get(name, {}))}


@dataclass(frozen=True)
class Sweep(Common):
    """Run planners x a grid of peak rates x seeds, in lockstep, into the record store."""

    suffix = "-sweep"

    def run(self) -> None:
        """Run the sweep and print each planner's best setting."""
        from lr_env.planner import planner_settings
        from lr_env.report.document import plain_table
        from lr_env.report.formatting import setting_text
        from lr_env.report.terminal import print_table
        from lr_env.studies.comparison.comparison import run_comparison, tuning_steps

        plan, name = self.plan(()), self.experiment_name()
        with progress_bar(plan.child_steps) as progress:
            result = run_comparison(plan, self.lab(plan.task, progress))
        steps = tuning_steps(result.tuning, result.chosen)
        best = {planner: planner_settings(chosen) for planner, chosen in result.chosen.items()}
        rows = []
        for planner, settings in best.items():
            loss, cost = f"as {plan.controls.get(planner)}", ""
            if planner not in plan.controls:
                runs = [r for r in result.tuning if (r.planner, r.settings) == (planner, settings)]
                loss = f"{sum(r.scores['final_val_loss'] for r in runs) / len(runs):.4f}"
                cost = f"{steps[planner]:,}"
            rows.append((planner, setting_text(settings), loss, cost))
        head = ("planner", "best setting", "validation loss", "child steps")
        print_table(plain_table(head, rows, words=2), console())
        print(f"{len(result.tuning)} runs in {self.store}, experiment {name!r}")


@dataclass(frozen=True)
class Compare(Common, ReportOptions):
    """Tune every planner with the same number of runs, then run all on the same fresh seeds and say who won.

    What a planner was trained or fitted with before is not among these runs; the table tells it.
    """

    seeds: Annotated[str, arg(metavar="SEEDS")] = "10"
    """Fresh seeds of the comparison: how many (from 0 up), or a list 3,5,8."""
    flatness: bool = False
    """Measure the training loss's Hessian at the end of the final runs: its largest eigenvalue and its trace. Takes as
    long as training a run on some 25,000 examples."""

    def run(self) -> None:
        """Run the comparison, write its report and print the table."""
        from lr_env.report.terminal import print_document
        from lr_env.studies.comparison.comparison import manifest, run_comparison, tuning_steps
        from lr_env.studies.comparison.report import ComparisonReport
        from lr_env.studies.comparison.spent import spent
        from lr_env.studies.comparison.summary import summarise

        plan = replace(self.plan(parse_seeds(self.seeds)), flatness=self.flatness)
        folder = self.folder
        writable(folder)
        with progress_bar(plan.child_steps) as progress:
            result = run_comparison(plan, self.lab(plan.task, progress))
        steps = tuning_steps(result.tuning, result.chosen)
        target = plan.task.target_val_loss
        had = spent(result.tuning, result.chosen, plan.task.budget)
        summary = summarise(result.final, target_val_loss=target, tuning_steps=steps, controls=plan.controls, spent=had)
        report = ComparisonReport(summary, result.final, result.tuning, manifest(plan, result, command_line()))
        report.write(folder)
        print_document(report.document(), console())
        print(f"Report: {folder / 'summary.md'}")

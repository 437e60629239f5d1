"""A head-to-head comparison, and the sweep that it tunes planners by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lr_env.runs.options import Names, OptionalRates, Seeds, Settings, TuneSeeds, log_grid, parse_names, parse_settings
from lr_env.seeds import TUNING

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.comparison.comparison import ComparisonPlan
    from lr_env.studies.comparison.report import ComparisonReport
    from lr_env.studies.comparison.sweep import SweepResult
    from lr_env.tasks import Task

RATES = 12
"""Peak rates of a sweep by default, over the task's tuning range."""


@dataclass(frozen=True)
class Sweep:
    """Run planners x a grid of peak rates x seeds, in lockstep, into the record store."""

    label: ClassVar[str] = "sweep"

    planners: Names = ("all",)
    """Planners, by name. "all" = every installed planner except those that need forks, replace the optimizer, or have
    no fitted model for this task."""
    set: Settings = ()
    """Settings in place of planners' own defaults and grids, e.g. ppo.policy=policy.safetensors lookahead.horizon=1."""
    rates: OptionalRates = None
    """Peak rates to try: LOW:HIGH:COUNT for a log grid, or a list 0.01,0.1,1. Default: 12 over the task's range."""
    tune_seeds: TuneSeeds = (TUNING[0], TUNING[1])
    """Seeds for every setting: how many, or a list 1000000,1000001."""

    def plan(self, task: Task) -> ComparisonPlan:
        """The runs of this study for a task.

        Raises:
            UserError: see `ComparisonPlan`; or a planner is unknown.
        """
        return plan_of(task, self.planners, self.set, self.rates, self.tune_seeds)

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return self.plan(task).child_steps

    def run(self, lab: Lab) -> SweepResult:
        """Make the runs, and find each planner's best setting."""
        from lr_env.studies.comparison.comparison import run_comparison
        from lr_env.studies.comparison.sweep import SweepResult

        plan = self.plan(lab.task)
        return SweepResult(plan, run_comparison(plan, lab), str(lab.store.path), lab.name)


@dataclass(frozen=True)
class Comparison(Sweep):
    """Tune every planner with the same number of runs, then run all on the same fresh seeds and say who won.

    What a planner was trained or fitted with before is not among these runs; the table tells it.
    """

    label: ClassVar[str] = ""

    seeds: Seeds = tuple(range(10))
    """Fresh seeds of the comparison: how many (from 0 up), or a list 3,5,8."""
    flatness: bool = False
    """Measure the training loss's Hessian at the end of the final runs: its largest eigenvalue and its trace. Takes as
    long as training a run on some 25,000 examples."""

    def plan(self, task: Task) -> ComparisonPlan:
        """The runs of this study for a task."""
        return replace(super().plan(task), seeds=self.seeds, flatness=self.flatness)

    def run(self, lab: Lab) -> ComparisonReport:  # type: ignore[override] (another result)
        """Make the runs, and summarise them."""
        from lr_env.studies.comparison.comparison import run_comparison
        from lr_env.studies.comparison.report import report_of

        plan = self.plan(lab.task)
        return report_of(plan, run_comparison(plan, lab))


def plan_of(
    task: Task,
    planners: tuple[str, ...],
    settings: tuple[str, ...],
    rates: tuple[float, ...] | None,
    tune_seeds: tuple[int, ...],
) -> ComparisonPlan:
    """The sweep of some planners on a task.

    Args:
        task: what is trained.
        planners: names; "all" stands for the default set.
        settings: texts PLANNER.SETTING=VALUE.
        rates: peak rates; None for the default grid.
        tune_seeds: seeds for every setting.

    Raises:
        UserError: there is no such planner, it has no such setting, or the plan makes no sense.
    """
    from lr_env.registry import find_planner, in_default_set, planner_names, task_settings
    from lr_env.studies.comparison.comparison import ComparisonPlan

    names: list[str] = []
    for name in parse_names(planners):
        if name == "all":
            names += [other for other in planner_names() if in_default_set(other, task)]
        else:
            find_planner(name)
            names.append(name)
    given = parse_settings(settings, names)
    of_all: dict[str, dict[str, Any]] = {
        name: {**(task_settings(name, task) or {}), **given.get(name, {})} for name in names
    }
    return ComparisonPlan(
        task=task,
        planners=tuple(names),
        settings={name: of for name, of in of_all.items() if of},
        rates=log_grid(*task.tuning_range, RATES) if rates is None else rates,
        tune_seeds=tune_seeds,
    )

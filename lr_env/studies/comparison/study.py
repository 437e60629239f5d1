"""A head-to-head comparison, and the sweep that it tunes planners by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

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
    """Planners; "all" leaves out those that need forks, replace the optimizer, or have no fitted model for the task."""
    set: Settings = ()
    """Settings of planners, which are then not tuned, e.g. wsd.cooldown=0.3 ppo.policy=policy.safetensors."""
    rates: OptionalRates = None
    """Peak rates for tuning: LOW:HIGH:COUNT for a log grid, or a list, e.g. 0.01,0.1,1."""
    tune_seeds: TuneSeeds = (TUNING[0], TUNING[1])
    """Seeds on which each setting is tuned: a count, or a list, e.g. 1000000,1000001."""
    stop: Annotated[str, arg(metavar="RULE")] = "none"
    """Which runs of the tuning end early, by the runs of their planner before: none, median, halving, forecast or
    forecast:MODEL; see lr-env search. Every other setting is tried first, without the rule."""

    def plan(self, task: Task) -> ComparisonPlan:
        """The runs of this study for a task.

        Raises:
            UserError: see `ComparisonPlan`; or a planner is unknown.
        """
        return replace(plan_of(task, self.planners, self.set, self.rates, self.tune_seeds), stop=self.stop)

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
    """Tune planners with the same number of runs each, then compare them on the same new seeds.

    Tuning tries a grid of peak rates and chooses by validation loss. Test data is scored once, at the end. The report
    has differences with 95 % intervals, and costs. Runs that a planner was trained or fitted with before are not part
    of the tuning here; the report counts them beside it.
    """

    label: ClassVar[str] = ""

    seeds: Seeds = tuple(range(10))
    """New seeds of the comparison: a count (from 0 up), or a list, e.g. 3,5,8."""
    flatness: bool = False
    """Measure the largest eigenvalue and the trace of the Hessian of the training loss at the end of each run."""

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

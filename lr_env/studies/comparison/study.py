"""A head-to-head comparison, and the sweep that it tunes planners by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from lr_env.capabilities import TunedByItself
from lr_env.errors import UserError
from lr_env.runs.options import Names, OptionalRates, Seeds, Settings, TuneSeeds, log_grid, parse_names, parse_settings
from lr_env.seeds import TUNING
from lr_env.studies.tuning_budget.study import REPEATS, check_margin

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.comparison.comparison import ComparisonPlan
    from lr_env.studies.comparison.report import ComparisonReport
    from lr_env.studies.comparison.sweep import SweepResult
    from lr_env.studies.tuning_budget.report import BudgetCurve
    from lr_env.studies.tuning_budget.study import TuningBudget
    from lr_env.tasks import Task

RATES = 12
"""Peak rates of a sweep by default, over the task's tuning range."""

TUNING_RUNS = 32
"""Runs that each planner is tuned with by default."""


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

    One procedure tunes all: a coarse search of a planner's settings, a finer one around the best, and the best again on
    further seeds. Runs that a planner's model is fitted to are among these; a planner that was trained with more runs
    before is in a class of its own. With --rates, --tune-seeds or --stop it is a grid of peak rates instead. Settings
    are chosen on validation data; test data is scored once, at the end. The report has differences with 95 % intervals,
    and costs.
    """

    label: ClassVar[str] = ""

    tuning_runs: Annotated[int | None, arg(metavar="N", help_behavior_hint=f"(default: {TUNING_RUNS})")] = None
    """Runs that each planner has before the comparison, on which it is tuned and its model is fitted."""
    repeats: int = 1
    """Repeats of the whole procedure, tuning and fits included, on other seeds; intervals count their luck, too."""
    margin: float = 0.0
    """Largest difference of losses that does not matter, to be fixed before: smaller ones are told as equivalent."""
    seeds: Seeds = tuple(range(10))
    """New seeds of the comparison: a count (from 0 up), or a list, e.g. 3,5,8."""
    flatness: bool = False
    """Measure the largest eigenvalue and the trace of the Hessian of the training loss at the end of each run."""

    def __post_init__(self) -> None:
        grid = self._is_grid
        if grid and self.tuning_runs is not None:
            raise UserError("--tuning-runs and a grid of --rates, --tune-seeds or --stop: give one of them")
        if grid and self.repeats > 1:
            raise UserError("--repeats repeats the common procedure: leave out --rates, --tune-seeds and --stop")
        check_margin(self.margin)
        if not 1 <= self.repeats <= REPEATS:
            raise UserError(f"{self.repeats} repeats: give 1 to {REPEATS}")

    @property
    def _is_grid(self) -> bool:
        """Whether planners are tuned by a sweep over a grid."""
        return self.rates is not None or self.tune_seeds != Sweep.tune_seeds or self.stop != "none"

    def plan(self, task: Task) -> ComparisonPlan:
        """The runs of this study for a task.

        Raises:
            UserError: see `ComparisonPlan`; or a planner is unknown.
        """
        runs = 0 if self._is_grid else TUNING_RUNS if self.tuning_runs is None else self.tuning_runs
        rates, seeds = (self.rates, self.tune_seeds) if self._is_grid else ((), ())
        plan = plan_of(task, self.planners, self.set, rates, seeds, runs)
        return replace(plan, stop=self.stop, seeds=self.seeds, flatness=self.flatness, margin=self.margin)

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return self.repeats * self.plan(task).child_steps

    def run(self, lab: Lab) -> ComparisonReport | BudgetCurve:  # type: ignore[override] (other results)
        """Make the runs, and summarise them."""
        from lr_env.studies.comparison.comparison import run_comparison
        from lr_env.studies.comparison.report import report_of

        plan = self.plan(lab.task)
        if self.repeats == 1:
            return report_of(plan, run_comparison(plan, lab))
        swept = [name for name in plan.planners if name not in plan.controls]
        names = {plan.tuning(name).tuner_name: name for name in swept}
        return self._repeated(plan, names).run(lab).renamed(names)

    def _repeated(self, plan: ComparisonPlan, names: Mapping[str, str]) -> TuningBudget:
        """The study that repeats the whole procedure; `names` has its tuners.

        Raises:
            UserError: settings are given, or the Hessian is to be measured.
        """
        from lr_env.studies.tuning_budget.study import TuningBudget

        if self.set or self.flatness:
            given = f"--set {self.set[0]}" if self.set else "--flatness"
            raise UserError(f"{given}: with --repeats all is tuned anew and only losses are measured: leave it out")
        return TuningBudget(tuple(names), (plan.tuning_runs,), self.repeats, self.seeds, margin=self.margin)


def plan_of(
    task: Task,
    planners: tuple[str, ...],
    settings: tuple[str, ...],
    rates: tuple[float, ...] | None,
    tune_seeds: tuple[int, ...],
    tuning_runs: int = 0,
) -> ComparisonPlan:
    """The sweep of some planners on a task, or the runs of the common procedure.

    Args:
        task: what is trained.
        planners: names; "all" stands for the default set.
        settings: texts PLANNER.SETTING=VALUE.
        rates: peak rates; None for the default grid.
        tune_seeds: seeds for every setting.
        tuning_runs: runs of the common procedure; 0 for the sweep.

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

    def of_task(name: str) -> Mapping[str, Any]:
        """Settings that suit a planner to the task, such as a shipped model, unless one is fitted to the runs."""
        fitted = tuning_runs and isinstance(find_planner(name), TunedByItself)
        return {} if fitted else task_settings(name, task) or {}

    of_all: dict[str, dict[str, Any]] = {name: {**of_task(name), **given.get(name, {})} for name in names}
    return ComparisonPlan(
        task=task,
        planners=tuple(names),
        settings={name: of for name, of in of_all.items() if of},
        rates=log_grid(*task.tuning_range, RATES) if rates is None else rates,
        tune_seeds=tune_seeds,
        tuning_runs=tuning_runs,
    )

"""`lr-env search`: an Optuna study over schedules and rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from lr_env.errors import UserError, unknown
from lr_env.runs.options import Names, parse_ends, parse_names

if TYPE_CHECKING:
    from lr_env.pruning import PruningRule
    from lr_env.runs.lab import Lab
    from lr_env.search import SearchSpace
    from lr_env.tasks import Task
    from planners.tuning.search.report import SearchResult

SAMPLERS = ("tpe", "random")
"""Names of samplers: Optuna's tree-structured Parzen estimator, and uniformly random trials."""

MOST_RUNS = 10_000
MOST_SEEDS = 1_000
"""Searches with other seeds have other children; see `lr_env.seeds.SWEEPS`."""


@dataclass(frozen=True)
class Search:
    """Search schedules and peak rates with Optuna: each trial is a run, and each curve is stored.

    Trials are asked for in rounds, whose runs are trained in lockstep. A diverged run counts as the worst. The runs are
    also what a planner learns from: `lr-env fit TASK --records results/NAME/runs.parquet`.
    """

    label: ClassVar[str] = "search"

    planners: Names = ("wsd", "wsd-sqrt", "cosine-warmup", "one-cycle", "linear", "constant")
    """Planners to search; "all" stands for those that say which settings to try. Any with a peak rate can be named."""
    runs: Annotated[int, arg(metavar="N")] = 50
    """Number of runs. A later start under the same name may raise it."""
    round: Annotated[int, arg(metavar="N")] = 8
    """Runs that are proposed at once and trained in lockstep; fewer are more informed, more are faster."""
    rates: Annotated[str | None, arg(metavar="LOW:HIGH", help_behavior_hint="(default: the task's)")] = None
    """Range of the peak rates."""
    sampler: Annotated[str, arg(metavar="NAME")] = "tpe"
    """Sampler: tpe (tree-structured Parzen estimator) or random."""
    stop: Annotated[str, arg(metavar="RULE")] = "none"
    """Which runs end early: none; median (in the second half, those above the median of the earlier runs); halving or
    halving:N (successive halving: a third, or one in N, goes on after a ninth and a third of the budget); forecast or
    forecast:MODEL (those forecast to end above the best so far; see lr-env forecast)."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the sampler and of the children."""
    storage: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: beside the record store)")] = None
    """File for the trials in Optuna's format, for optuna-dashboard and optuna.load_study: SQLite where its name ends in
    .db, .sqlite or .sqlite3, otherwise Optuna's journal."""

    def __post_init__(self) -> None:
        from lr_env.search import searched_families

        names = parse_names(self.planners)
        names = list(dict.fromkeys(one for name in names for one in (searched_families() if name == "all" else [name])))
        object.__setattr__(self, "planners", tuple(names))
        if not 1 <= self.runs <= MOST_RUNS:
            raise UserError(f"{self.runs} runs: give 1 to {MOST_RUNS:,}")
        if not 1 <= self.round <= MOST_RUNS:
            raise UserError(f"round {self.round}: give 1 to {MOST_RUNS:,} runs")
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        _ = self.rule
        if not 0 <= self.seed < MOST_SEEDS:
            raise UserError(f"seed {self.seed}: give a whole number from 0 to {MOST_SEEDS - 1}")

    @cached_property
    def rule(self) -> PruningRule | None:
        """The rule by which runs end early."""
        from lr_env.pruning import find_rule

        return find_rule(self.stop)

    def space(self, task: Task) -> SearchSpace:
        """Return the planners and the range of their peaks.

        Raises:
            UserError: a planner cannot be searched, or a rate is outside the task's range.
        """
        from lr_env.search import SearchSpace

        rates = task.tuning_range if self.rates is None else parse_ends(self.rates)
        low, high = task.lr_range
        if not low <= rates[0] < rates[1] <= high:
            raise UserError(
                f"rates {rates[0]:g}:{rates[1]:g}: give LOW below HIGH within the task's range, {low:g} to {high:g}"
            )
        return SearchSpace(self.planners, rates)

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return self.runs * task.budget

    def run(self, lab: Lab) -> SearchResult:
        """Make the runs that are left, and put them together."""
        from planners.tuning.search.procedure import run_search

        return run_search(self, lab)

"""Robustness: what tuned planners lose where conditions differ from those that they were tuned under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lr_env.errors import UserError, check_seeds, unknown
from lr_env.runs.options import Names, Seeds, parse_names
from lr_env.seeds import COMPARISON
from lr_env.studies.tuning_budget.study import MOST_RUNS

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.robustness.report import RobustnessResult
    from lr_env.tasks import Task


@dataclass(frozen=True)
class Robustness:
    """Measure robustness: tune planners on a task, then run them under shifted conditions.

    The rate starts too low or too high, or budget, data, labels, width or batch size change. Reported is the regret
    relative to a WSD schedule that is tuned for each condition. A schedule whose budget changes goes through its
    remainder in the steps that are left; planners may plan anew.
    """

    label: ClassVar[str] = "robustness"

    tuners: Names = ("latent-ode", "wsd", "random", "tpe")
    """Tuners, by name; see `lr-env tuning-budget --help`."""
    runs: int = 100
    """Runs that each tuner may make."""
    oracle: int = 60
    """Runs that a schedule is tuned with for each condition."""
    seeds: Seeds = tuple(range(20))
    """Fresh seeds that all planners are run on: how many (from 0 up), or a list 3,5,8."""
    conditions: Names = ()
    """Conditions, such as "low start". Default: all that the task can be put under."""
    track: bool = False
    """Run every tuned planner that can be once more, tracked: it divides its rate by the factor by which the last one
    was changed on the way."""

    def __post_init__(self) -> None:
        from lr_env.studies.robustness.conditions import CANDIDATES, CONDITIONS

        for field in ("tuners", "conditions"):
            object.__setattr__(self, field, tuple(parse_names(getattr(self, field))))
        for name in self.conditions:
            if name not in CONDITIONS:
                raise unknown("condition", name, CONDITIONS)
        check_seeds(self.seeds, COMPARISON.stop)
        if not CANDIDATES <= self.oracle <= MOST_RUNS:
            raise UserError(
                f"{self.oracle} runs to tune for a condition: give at least {CANDIDATES}, at most {MOST_RUNS:,}"
            )

    @property
    def tuning_runs(self) -> int:
        """Runs by which a schedule is tuned for a condition."""
        from lr_env.studies.robustness.conditions import CANDIDATES, CHECKS

        return self.oracle + CANDIDATES * CHECKS

    def names(self, task: Task) -> tuple[list[str], dict[str, str]]:
        """The conditions for a task, and, of those that are left out, why."""
        from lr_env.studies.robustness.conditions import applicable

        return (list(self.conditions), {}) if self.conditions else applicable(task)

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        names, _ = self.names(task)
        runs = len(self.tuners) * self.runs + len(names) * (self.tuning_runs + len(self.tuners) * len(self.seeds))
        return runs * task.budget

    def run(self, lab: Lab) -> RobustnessResult:
        """Tune, and run the tuned planners under each condition."""
        from lr_env.studies.robustness.procedure import run_conditions

        return run_conditions(self, lab)

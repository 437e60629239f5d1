"""The runs spent on each planner before its final runs: on choosing its setting, and on training or fitting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lr_env.capabilities import original_of, pretraining_steps
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.studies.comparison.tuning import made_of_runs, tuned_planner

SPENT_MEANING = (
    "runs that the setting was chosen from; after a plus what the planner was trained or fitted with before, in whole "
    "runs of this budget"
)
"""Legend of the text of `Spent`."""


@dataclass(frozen=True)
class Spent:
    """The runs that a planner was tuned, trained or fitted with.

    Attributes:
        runs: runs that its setting was chosen from.
        before: child steps that it was trained or fitted with before, counted in runs of the task's budget.
    """

    runs: int
    before: float = 0.0

    def __str__(self) -> str:
        """The runs, and after a plus those before, if there were any."""
        return f"{self.runs}+{max(1, round(self.before))}" if self.before else str(self.runs)


def spent(tuning: Sequence[RunRecord], chosen: Mapping[str, Planner], budget: int) -> dict[str, Spent]:
    """Count what was spent on each planner of a comparison; a control that takes over a setting shares its planner's.

    Args:
        tuning: runs that settings were chosen from.
        chosen: planner -> its chosen setting.
        budget: optimizer steps of a run.
    """
    runs, fitted = Counter(map(tuned_planner, tuning)), made_of_runs(tuning)
    own = {name: sum(run.child_steps for run in tuning if tuned_planner(run) == name) for name in fitted}
    before = {name: max(0, pretraining_steps(setting) - own.get(name, 0)) for name, setting in chosen.items()}
    counts = {name: Spent(runs[name], before[name] / budget) for name in chosen}
    planners = {name: original_of(setting) for name, setting in chosen.items() if not runs[name]}
    return counts | {name: counts[planner] for name, planner in planners.items() if planner in counts}

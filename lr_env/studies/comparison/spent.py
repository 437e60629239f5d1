"""What was spent on each planner before its final runs: the runs of its sweep, and what it was made of before that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lr_env.capabilities import original_of, pretraining_steps
from lr_env.planner import Planner
from lr_env.records.record import RunRecord

MEANING = (
    "runs that the setting was chosen from; after a plus what the planner was trained or fitted with before, in whole "
    "runs of this budget"
)
"""Of the text of `Spent`."""


@dataclass(frozen=True)
class Spent:
    """What a planner had.

    Attributes:
        runs: of its sweep, from which its setting was chosen.
        before: child steps that it was trained or fitted with before, in runs of the task's budget.
    """

    runs: int
    before: float = 0.0

    def __str__(self) -> str:
        """The runs, and after a plus those before, if there were any."""
        return f"{self.runs}+{max(1, round(self.before))}" if self.before else str(self.runs)


def spent(tuning: Sequence[RunRecord], chosen: Mapping[str, Planner], budget: int) -> dict[str, Spent]:
    """What each planner of a comparison had; a control that takes over a setting had what its planner had.

    Args:
        tuning: the runs of the sweep.
        chosen: planner -> its setting.
        budget: optimizer steps of a run.
    """
    runs = dict.fromkeys(chosen, 0)
    for record in tuning:
        runs[record.planner] = runs.get(record.planner, 0) + 1
    found = {name: Spent(runs[name], pretraining_steps(setting) / budget) for name, setting in chosen.items()}
    shared = {name: original_of(setting) for name, setting in chosen.items() if not runs[name]}
    return found | {name: found[of] for name, of in shared.items() if of in found}

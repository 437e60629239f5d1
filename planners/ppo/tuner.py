"""The tuner `ppo-policy`: a controller that was trained on other tasks, and needs no run of this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.ppo.planner import PPO
from planners.ppo.policy import POLICIES
from planners.tuning.tuners import KnowingTuner


@dataclass(frozen=True)
class PolicyTuner(KnowingTuner):
    """A trained controller from the task's own initial rate, as it is on tasks of a family that it learns on.

    Attributes:
        name: name of the tuner.
        policy: see `planners.ppo.planner.PPO`.
    """

    name: str = "ppo-policy"
    policy: str = "DigitsMLP"

    def check(self, runs: Sequence[int]) -> None:
        """Check that there is such a policy, and that no runs are asked for.

        Raises:
            UserError: there is none, or they are.
        """
        POLICIES.find(self.policy)
        super().check(runs)

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The controller."""
        return PPO(task.lr_start, policy=self.policy)

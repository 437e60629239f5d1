"""`lr-env tune`: let a tuner make some runs of a task, and say what to train with from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from lr_env.errors import UserError
from lr_env.seeds import PER_REPEAT, TUNERS

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.tasks import Task
    from planners.tuning.tune_report import TuneResult

MOST_SEEDS = len(TUNERS) // PER_REPEAT


@dataclass(frozen=True)
class Tune:
    """Let a tuner make runs of a task, and say what to train with from then on.

    By default a model that was fitted to other tasks proposes the runs: few are needed, and it says when more are not
    worth it. A later start under the same name may ask for more runs.
    """

    label: ClassVar[str] = "tune"

    runs: Annotated[int, arg(metavar="N")] = 5
    """Number of runs; 0 for what is known before the first one."""
    tuner: Annotated[str, arg(metavar="NAME")] = "latent-ode-transfer"
    """Tuner; settings follow its name, as in coarse-to-fine:planner=wsd. `lr-env tuners` lists them."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the tuner and of the children."""

    def __post_init__(self) -> None:
        from lr_env.registry import find_tuner
        from lr_env.tuner import Checking, KnowsBefore, SelfTraining

        tuner = find_tuner(self.tuner)
        if isinstance(tuner, SelfTraining):
            raise UserError(f"tuner {self.tuner!r} trains its runs by itself: use `lr-env tuning-budget`")
        fewest = 0 if isinstance(tuner, KnowsBefore) else 1
        if not fewest <= self.runs <= PER_REPEAT:
            raise UserError(f"{self.runs} runs of tuner {self.tuner!r}: give {fewest} to {PER_REPEAT:,}")
        if not 0 <= self.seed < MOST_SEEDS:
            raise UserError(f"seed {self.seed}: give a whole number from 0 to {MOST_SEEDS - 1}")
        if isinstance(tuner, Checking):
            tuner.check([self.runs])

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return self.runs * task.budget

    def run(self, lab: Lab) -> TuneResult:
        """Make the runs that are left, and select."""
        from planners.tuning.tune_report import tune

        return tune(self, lab)

"""The tuner `latent-ode-transfer`: proposes runs of a task by a model that was fitted to other tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np

from lr_env.errors import find
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.tasks import Task
from lr_env.tasks.architecture import of_task
from lr_env.tasks.facts import facts
from lr_env.words import counted
from planners.transfer.artifact import TRANSFER_MODELS
from planners.transfer.knowledge import Knowledge, task_without_runs
from planners.transfer.planner import SHIPPED, TransferredLatentODE
from planners.transfer.runs import TaskRuns
from planners.tuning.tuners import final_val_loss

_ONE_BY_ONE = 5
"""So many runs are proposed one after another; from then on so many at once."""


@dataclass(frozen=True)
class TransferTuner:
    """Proposes runs of a task by a model across tasks, and selects the planner with that model and these runs.

    The first run is the best one as far as other tasks tell. Each later one is that from which most is to be gained.

    Attributes:
        name: name of the tuner.
        model: see `planners.transfer.planner.TransferredLatentODE`.
        planning: when the selected planner plans: "during" the run as well, or only "before" it.
    """

    name: str = TransferredLatentODE.name
    model: str = SHIPPED
    planning: str = "during"

    reads_curves: ClassVar[bool] = True
    most_runs: ClassVar[None] = None

    def batch_size(self, done: int) -> int:
        """One run, and from the sixth on five."""
        return 1 if done < _ONE_BY_ONE else _ONE_BY_ONE - done % _ONE_BY_ONE

    def seed_index(self, run: int) -> int:
        """Five that follow each other share a seed; what a seed does to all of them is told apart from the rest."""
        return run // _ONE_BY_ONE

    @property
    def pretraining_steps(self) -> int:
        """Child steps of the runs of other tasks that the model was fitted to."""
        return int(TRANSFER_MODELS.find(self.model).about.get("child_steps", 0))

    def check(self, runs: Sequence[int]) -> None:
        """Check that there is such a model; any number of runs will do, 0 as well.

        Raises:
            UserError: there is none.
        """
        TRANSFER_MODELS.find(self.model)
        find("planning", self.planning, dict.fromkeys(("during", "before")))

    def knowledge(self, task: Task, records: Sequence[RunRecord]) -> Knowledge:
        """What is known of a task after some runs of it.

        Raises:
            UserError: the task is none that the model can be used for.
        """
        model = TRANSFER_MODELS.find(self.model)
        return Knowledge(model, runs_of(task, records), task.lr_range, task.num_segments)

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The schedules of the next runs; nothing is drawn, so that they do not depend on the seed."""
        return self.knowledge(task, records).next(count)

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The planner with the model, and with these runs, which are saved in the folder."""
        if not records:
            return self._planner(self.model)
        model = TRANSFER_MODELS.find(self.model)
        ends = [(*run_key(run), run.diverged, run.scores.get("final_val_loss")) for run in records]
        mark = sha256(json.dumps([ends, task.settings(), model.fingerprint], default=str).encode()).hexdigest()[:12]
        file = folder / f"model-{len(records)}-{mark}.safetensors"
        if not file.is_file():
            steps = sum(run.child_steps for run in records)
            model.with_runs(runs_of(task, records), steps).save(file)
        return self._planner(str(file))

    def _planner(self, model: str) -> TransferredLatentODE:
        return TransferredLatentODE(model, **({"plan_interval": 1.0} if self.planning == "before" else {}))

    def tell(self, task: Task, seed: int, records: Sequence[RunRecord]) -> str:
        """Whether more runs are worth it, and what of the task lies beyond what the model was fitted to."""
        knowledge = self.knowledge(task, records)
        told = []
        if records:
            gain = f"{100 * knowledge.expected_gain:.1f} %"
            told.append(f"one run more than {counted(len(records), 'run')} is expected to lower the loss by {gain}")
        return "; ".join([*told, knowledge.beyond] if knowledge.beyond else told)


def runs_of(task: Task, records: Sequence[RunRecord]) -> TaskRuns:
    """Runs of a task as a model across tasks reads them; records as `lr_env.tuner.Tuner.propose` has them.

    Raises:
        UserError: the task is none that such a model can be used for.
    """
    about, architecture, segments = facts(task), of_task(task), task.num_segments
    empty = task_without_runs(task.name, about, architecture)
    if not records:
        return empty
    rates, losses = (np.full((len(records), segments), np.nan) for _ in range(2))
    for row, record in enumerate(records):
        curves = record.curves
        measured = min(len(curves["lr"]), segments)
        rates[row, :measured] = np.asarray(curves["lr"], np.float64)[:measured]
        losses[row, :measured] = np.asarray(curves["val_loss"], np.float64)[:measured]
    return TaskRuns.of(
        task.name,
        about,
        architecture,
        empty.chance,
        rates,
        losses,
        np.array([np.inf if record.diverged else final_val_loss(record) for record in records]),
        [record.seed for record in records],
    )

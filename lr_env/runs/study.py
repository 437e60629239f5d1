"""What studies with tuning rounds of their own share: where they are kept, and how they open an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from lr_env.children import Backend
from lr_env.files import only_process
from lr_env.provenance import versions
from lr_env.records.store import Store
from lr_env.runs.execution import Training
from lr_env.runs.experiment import Experiment, lock_of, start_over
from lr_env.runs.own_code import own_code
from lr_env.tasks import Task
from lr_env.tasks.data import data_spec


@dataclass(frozen=True)
class Study:
    """A study of a task, by experiments in a record store.

    Attributes:
        task: what is trained.
        store: where the records are kept.
        name: of the experiment in the store; parts of a study add to it.
        training: how children are trained.
        checkpoint_seconds: wall time between checkpoints.
        fresh: forget what was done under this name before.
        progress: told (what is going on, child steps done since the last call).
    """

    task: Task
    store: Store
    name: str
    training: Training = field(default_factory=Training)
    checkpoint_seconds: float = 60.0
    fresh: bool = False
    progress: Callable[[str, int], None] = lambda what, steps: None

    def telling(self, what: str) -> Callable[[int], None]:
        """What is to be told of steps that are done, while that is going on."""
        return partial(self.progress, what)

    def part(self, name: str, task: Task | None = None) -> Study:
        """A part of the study that is an experiment of its own."""
        return replace(self, name=f"{self.name}-{name}", task=task or self.task)

    @contextmanager
    def opened(self, what: Mapping[str, Any], *, at_once: int, runs: int) -> Iterator[Experiment]:
        """The experiment of that name, begun or gone on with, locked as long as it is open.

        Args:
            what: its results depend on besides, JSON-able. The task's target does not count among it.
            at_once: runs that may be in lockstep at most.
            runs: that are to come.

        Raises:
            UserError: another process works on it, or it was begun otherwise.
        """
        with only_process(lock_of(self.store, self.name), f"{self.name!r} in {str(self.store.path)!r}"):
            known = None if self.fresh else self.store.experiment(self.name)
            settled = self.training.settled(self.task, known, at_once, runs * self.task.budget)
            spec = {
                "task": {**self.task.settings(), "target_val_loss": None},
                **what,
                **({"own_code": code} if (code := own_code(self.task)) else {}),
                "data": data_spec(self.task.data, self.training.device),
                "device": self.training.device,
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "training": settled,
            }
            if self.fresh:  # once it is known to be possible
                start_over(self.store, self.name)
            yield Experiment(
                self.store,
                self.name,
                self.task,
                spec,
                device=self.training.device,
                backend=Backend(**settled["backend"]),
                lockstep=settled["lockstep"],
                numerics=self.training.numerics,
                checkpoint_seconds=self.checkpoint_seconds,
            )

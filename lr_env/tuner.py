"""The contract of tuners: who decides, from a number of runs of a task, what to train it with from then on.

A tuner keeps nothing: what it proposes and answers follows from the task, its seed and the runs so far, so that what
was stopped goes on from the records alone. It is found by name through the entry-point group `lr_env.tuners`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task


@runtime_checkable
class Tuner(Protocol):
    """A way to spend runs on choosing a planner and its settings.

    It may have a method `check(runs)`, which raises `UserError` if it cannot do with such numbers of runs; it is asked
    before anything is trained.
    """

    @property
    def name(self) -> str:
        """The name in the catalogue."""
        ...

    def round(self, done: int) -> int:
        """How many runs it would like to make next at once, after so many; it may be given fewer."""
        ...

    def seed_number(self, run: int) -> int:
        """Which of its seeds, from 0, the run of that number is made on: runs may share one."""
        ...

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """So many planners to run next.

        Args:
            task: what is trained.
            seed: of whatever is drawn; another one is another attempt.
            records: the runs so far, with their curves, round by round; within a round in an order of their own, which
                is the same whenever.
            count: how many.
        """
        ...

    def answers(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Mapping[str, Planner]:
        """What to train with, by the runs so far: its name, and maybe others that follow from the same runs -> planner.

        Args:
            task: what is trained.
            seed: see `propose`.
            records: see `propose`.
            folder: where files of its planners may be kept; it is there, and nobody else's.
        """
        ...

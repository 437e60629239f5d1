"""The contract of tuners: who spends a number of runs of a task on choosing what to train it with from then on.

A tuner keeps nothing: what it proposes and selects follows from the task, its seed and the runs so far, so that what
was stopped goes on from the records alone. It is found by name through the entry-point group `lr_env.tuners`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from lr_env.children import Execution
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task


@runtime_checkable
class Tuner(Protocol):
    """A way to spend runs on choosing a planner and its settings."""

    @property
    def name(self) -> str:
        """The name in the catalogue, with its settings where they are not the default ones."""
        ...

    def batch_size(self, done: int) -> int:
        """How many runs it would make next at once, after `done` runs. It may be given fewer."""
        ...

    def seed_index(self, run: int) -> int:
        """Which of its seeds, from 0, run number `run` is made on. Runs may share a seed."""
        ...

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The planners of the next `count` runs.

        Args:
            task: what is trained.
            seed: of whatever is drawn; another one is another attempt.
            records: the runs so far, with their curves, batch by batch; within a batch in a fixed order.
            count: how many.
        """
        ...

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The planner to train with, by the runs so far.

        Args:
            task: what is trained.
            seed: see `propose`.
            records: see `propose`.
            folder: an empty folder, or that of an earlier call, in which files of the planner may be kept.
        """
        ...


@runtime_checkable
class Checking(Protocol):
    """A tuner that cannot do with any number of runs."""

    def check(self, runs: Sequence[int]) -> None:
        """See that it can do with such numbers of runs; it is asked before anything is trained.

        Raises:
            UserError: it cannot.
        """
        ...


@runtime_checkable
class KnowsBefore(Protocol):
    """A tuner that selects a planner before the first run as well, such as one with a model of other tasks."""

    @property
    def most_runs(self) -> int | None:
        """Runs that it can make use of; None for any number."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A tuner that can tell how well it knows the task, such as one with a law that forecasts held-out runs."""

    def tell(self, task: Task, seed: int, records: Sequence[RunRecord]) -> str:
        """What reports say of it, as a part of a sentence; arguments as for `Tuner.select`."""
        ...


@runtime_checkable
class SelfTraining(Protocol):
    """A tuner that trains by itself, such as a population whose members are copied onto each other.

    `Tuner.propose` and `Tuner.select` are not called.
    """

    def train(self, task: Task, seed: int, seeds: Sequence[int], execution: Execution, folder: Path) -> Planner:
        """Spend the child steps of some runs, and return the planner to train with.

        Args:
            task: what is trained.
            seed: see `Tuner.propose`.
            seeds: of the children, one for each run that it may spend.
            execution: how children are trained.
            folder: an empty folder, or that of an earlier call with the same arguments, whose result it may read.
        """
        ...


class Variants(Protocol):
    """Further planners that follow from the runs of a tuner, beside the one that it selected: controls, ablations.

    They are found by name through the entry-point group `lr_env.variants`.
    """

    def __call__(
        self, selected: Planner, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
    ) -> Mapping[str, Planner]:
        """Label -> planner; empty for a planner of which this knows no variants. Arguments as for `Tuner.select`.

        "{tuner}" in a label stands for the name of the tuner, where several may have such variants.
        """
        ...

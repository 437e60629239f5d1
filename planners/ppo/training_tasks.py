"""What a PPO controller learns on: one task, or the tasks of a family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lr_env.children import Backend, Execution
from lr_env.env import LRFamilyVectorEnv
from lr_env.env.episodes import MakeChildren
from lr_env.errors import UserError
from lr_env.facts import CLASSES
from lr_env.jsonable import to_plain
from lr_env.records.checkpoint import check_fit
from lr_env.runs.own_code import own_code
from lr_env.sb3 import LRVecEnv, make_vec_env
from lr_env.seeds import POLICY_EVALUATION
from lr_env.tasks import Task, TaskFamily
from lr_env.tasks.data import data_spec
from lr_env.tasks.facts import facts
from lr_env.tasks.families import split_seeds

_ROLLOUT = 64
"""Decisions of each child between two updates, where runs differ in their length."""

_JUDGED = "val"
"""Split of a family by whose first tasks a controller is judged."""

_WORST = 1.5
"""A run counts as no worse than this times the loss of a model that has learned nothing: it may have diverged."""


@dataclass(frozen=True)
class Judged:
    """Runs by which a controller is judged: from one initial rate.

    Attributes:
        task: that they train.
        rate: the initial rate.
        seeds: of the runs.
    """

    task: Task
    rate: float
    seeds: range


class TrainingTasks(ABC):
    """What a controller learns on."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the task or family."""

    @property
    @abstractmethod
    def rollout(self) -> int:
        """Decisions of each child between two updates."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What it is, JSON-able."""

    @abstractmethod
    def spec(self, device: str) -> dict[str, Any]:
        """What it is, and what results depend on besides, JSON-able."""

    @abstractmethod
    def environment(self, execution: Execution, make_children: MakeChildren | None, **settings: Any) -> LRVecEnv:
        """The environment in which it learns; settings as for `LREnv`, with `num_envs`.

        Raises:
            UserError: settings that do not fit.
        """

    @abstractmethod
    def judged(self, count: int, rates: Sequence[float]) -> list[Judged]:
        """So many runs by which a controller is judged; `rates` are the initial rates that were asked for."""

    @abstractmethod
    def judging(self, execution: Execution) -> Execution:
        """How these runs are trained."""

    @abstractmethod
    def mean(self, judged: Sequence[Judged], losses: Sequence[Sequence[float]]) -> float:
        """The final validation loss, over all runs by which a controller is judged."""

    @abstractmethod
    def check_snapshot(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Check that a snapshot of the environment is of one like this.

        Raises:
            ValueError: it is not.
        """


@dataclass(frozen=True)
class OneTask(TrainingTasks):
    """A task, from each of some initial rates."""

    task: Task

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def rollout(self) -> int:
        """A whole run."""
        return self.task.num_segments

    @property
    def identity(self) -> dict[str, Any]:
        """See `TrainingTasks.identity`."""
        return {"task": self.task.settings()}

    def spec(self, device: str) -> dict[str, Any]:
        """See `TrainingTasks.spec`."""
        spec = {**self.identity, "data": data_spec(self.task.data, device)}
        return {**spec, **({"own_code": code} if (code := own_code(self.task)) else {})}

    def environment(self, execution: Execution, make_children: MakeChildren | None, **settings: Any) -> LRVecEnv:
        """See `TrainingTasks.environment`."""
        low, high = self.task.lr_range
        outside = [rate for rate in settings["start_rates"] if not low <= rate <= high]
        if outside:
            raise UserError(f"start rate {outside[0]:g} is outside the task's range, {low:g} to {high:g}")
        return make_vec_env(
            self.task,
            device=execution.device,
            backend=execution.backend,
            numerics=execution.numerics,
            make_children=make_children,
            **settings,
        )

    def judged(self, count: int, rates: Sequence[float]) -> list[Judged]:
        """The initial rates take turns; each has the same seeds."""
        counts = [len(range(number, count, len(rates))) for number in range(len(rates))]
        start = POLICY_EVALUATION.start
        return [
            Judged(self.task, rate, range(start, start + own)) for rate, own in zip(rates, counts, strict=True) if own
        ]

    def judging(self, execution: Execution) -> Execution:
        """As those that it learns on."""
        return execution

    def mean(self, judged: Sequence[Judged], losses: Sequence[Sequence[float]]) -> float:
        """The mean."""
        return float(np.mean(np.concatenate([np.asarray(own) for own in losses])))

    def check_snapshot(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """See `TrainingTasks.check_snapshot`."""
        check_fit(saved, now)


@dataclass(frozen=True)
class TasksOfFamily(TrainingTasks):
    """The tasks of a family: each round of runs is of one that is drawn, and begins at the task's own rate."""

    family: TaskFamily
    split: str = "train"

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name

    @property
    def rollout(self) -> int:
        """The same for all tasks, whatever their length: an update sees parts of several runs."""
        return _ROLLOUT

    @property
    def identity(self) -> dict[str, Any]:
        """See `TrainingTasks.identity`."""
        return {"family": to_plain(self.family), "split": self.split}

    def spec(self, device: str) -> dict[str, Any]:
        """See `TrainingTasks.spec`; data follow from the family."""
        return self.identity

    def environment(self, execution: Execution, make_children: MakeChildren | None, **settings: Any) -> LRVecEnv:
        """See `TrainingTasks.environment`; initial rates are those of the tasks."""
        backend = execution.backend
        if backend == "auto":  # would time backends for every task
            backend = Backend("stacked", settings["num_envs"])
        kept = {name: value for name, value in settings.items() if name != "start_rates"}
        env = LRFamilyVectorEnv(
            self.family,
            split=self.split,
            device=execution.device,
            backend=backend,
            numerics=execution.numerics,
            make_children=make_children,
            autoreset_mode="SameStep",
            score=(),
            **kept,
        )
        return LRVecEnv(env)

    def judged(self, count: int, rates: Sequence[float]) -> list[Judged]:
        """One run of each of the first tasks of the validation split."""
        seeds = split_seeds(self.family, _JUDGED)[:count]
        tasks, start = [self.family.sample(seed) for seed in seeds], POLICY_EVALUATION.start
        return [Judged(task, task.lr_start, range(start, start + 1)) for task in tasks]

    def judging(self, execution: Execution) -> Execution:
        """One run after another, for each has a task of its own."""
        return execution.with_backend("loop")

    def mean(self, judged: Sequence[Judged], losses: Sequence[Sequence[float]]) -> float:
        """The geometric mean: tasks differ in their losses."""
        worst = [_WORST * np.log(float(facts(one.task)[CLASSES])) for one in judged]
        own = [np.minimum(each, most) for each, most in zip(losses, worst, strict=True)]
        return float(np.exp(np.mean(np.log(np.concatenate(own)))))

    def check_snapshot(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Nothing is known before its task is made again, which is checked then."""


def training_tasks(on: Task | TaskFamily) -> TrainingTasks:
    """Return what a controller learns on: a task, or the tasks of a family."""
    return OneTask(on) if isinstance(on, Task) else TasksOfFamily(on)

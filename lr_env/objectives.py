"""What training is for: the number by which settings are chosen, models are fitted, and planners are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.signals import AGE
from lr_env.stats.paired_runs import run_steps_to_target
from lr_env.tasks import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Kind:
    """Words for an objective: what is chosen by, what is reported, and their unit."""

    selected: str
    reported: str
    unit: str


_KINDS: Mapping[str, _Kind] = {
    "val_loss": _Kind("validation loss", "test loss", "nats/example"),
    "val_accuracy": _Kind("validation error", "test error", "fraction"),
    "final_train_loss": _Kind("final training loss", "final training loss", "nats/example"),
    "steps_to_target": _Kind("steps to the target", "steps to the target", "steps"),
}


@dataclass(frozen=True)
class Objective:
    """An objective, as a number of a run of which less is better.

    Attributes:
        name: one of `lr_env.tasks.catalogue.OBJECTIVES`.
        target: validation loss that is to be reached, nats per example, for steps to the target.
        budget: optimizer steps of a run.
        measured, scored: validation examples that are measured after each segment, and at the end of a run.
    """

    name: str = "val_loss"
    target: float | None = None
    budget: int = 1
    measured: int = 1
    scored: int = 1

    @classmethod
    def of(cls, task: Task) -> Objective:
        """The objective of a task."""
        if task.objective == "val_loss":
            return cls()
        sizes = task.val_subset, task.source.sizes["val"]
        return cls(task.objective, task.target_val_loss, task.budget, *sizes)

    @property
    def selected_by(self) -> str:
        """In words, what settings are chosen by."""
        return _KINDS[self.name].selected

    @property
    def reported_as(self) -> str:
        """In words, what planners are judged by."""
        return _KINDS[self.name].reported

    @property
    def unit(self) -> str:
        """Unit of both."""
        return _KINDS[self.name].unit

    @property
    def needs_curves(self) -> bool:
        """Whether the number of a run follows from its curves, and not from its scores."""
        return self.name in ("final_train_loss", "steps_to_target")

    @property
    def has_curve(self) -> bool:
        """Whether it has a value after every segment, which a model can be fitted to."""
        return self.name != "steps_to_target"

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals that its values after segments follow from."""
        return frozenset({"final_train_loss": {"train_loss"}}.get(self.name, {self.name}))

    def selected(self, record: RunRecord) -> float:
        """The number of a run that settings are chosen by; infinite if it diverged.

        Raises:
            UserError: the run was not scored, or was read without its curves.
        """
        return self._end(record, "final_val_loss", "final_val_accuracy")

    def reported(self, record: RunRecord) -> float:
        """The number of a run that planners are judged by: on the test split, where the objective is of a split.

        Raises:
            UserError: as for `selected`.
        """
        return self._end(record, "test_loss", "test_accuracy")

    def as_loss(self, record: RunRecord) -> RunRecord:
        """The record with the objective in the place of the validation loss.

        Tuners and models see this one: they lower "val_loss" and "final_val_loss", whatever these are.
        """
        if self.name == "val_loss":
            return record
        end = {} if record.diverged else {"final_val_loss": self._positive(self.selected(record), self.scored)}
        curves = dict(record.curves)
        if self.has_curve and self.needs <= curves.keys():
            curves["val_loss"] = self._as_curve(curves)
        return replace(record, scores={**record.scores, **end}, curves=curves)

    def signals(self, signals: Mapping[str, Any]) -> Mapping[str, Any]:
        """Signals with the objective in the place of the validation loss, for planners with a model of it."""
        if self.name == "val_loss" or not self.needs <= signals.keys():
            return signals
        (name,) = self.needs
        age = {f"val_loss{AGE}": signals[f"{name}{AGE}"]} if f"{name}{AGE}" in signals else {}
        return {**signals, "val_loss": self._as_curve(signals), **age}

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def _end(self, record: RunRecord, loss: str, accuracy: str) -> float:
        if record.diverged:
            return float("inf")
        match self.name:
            case "val_loss":
                return record.score(loss)
            case "val_accuracy":
                return 1.0 - record.score(accuracy)
            case "final_train_loss":
                if "train_loss" not in record.curves:
                    raise UserError(f"the run of {record.planner!r} on seed {record.seed} has no curve of train_loss")
                return float(record.curves["train_loss"][-1])
        assert self.target is not None  # which the task sees to
        steps = run_steps_to_target(record, self.target)
        # Never is more than the whole budget, and the more the farther the run was from the target.
        return steps if np.isfinite(steps) else self.budget * max(1.0, record.score("final_val_loss") / self.target)

    def _as_curve(self, curves: Mapping[str, ArrayLike]) -> Floats:
        if self.name == "final_train_loss":
            return np.asarray(curves["train_loss"], dtype=np.float64)
        return self._positive(1.0 - np.asarray(curves["val_accuracy"], dtype=np.float64), self.measured)

    def _positive(self, values: Any, examples: int) -> Any:
        """Values as above 0 as half an example in error, for models see their logs."""
        return np.maximum(values, 0.5 / examples) if self.name == "val_accuracy" else values


VAL_LOSS = Objective()
"""The objective of tasks that name no other."""


@runtime_checkable
class Aimed(Protocol):
    """A planner that plans for an objective by a model, which was fitted for that one alone."""

    @property
    def objective(self) -> str:
        """Name of the objective."""
        ...


@runtime_checkable
class ReadsCurves(Protocol):
    """A tuner that needs the objective after every segment, such as one that fits a model to curves."""

    reads_curves: bool
    """True."""


def check_can_follow(objective: Objective, who: str, by: object) -> None:
    """Check that a tuner can follow an objective.

    Args:
        objective: the objective.
        who: the tuner, in words.
        by: the tuner.

    Raises:
        UserError: it needs a value after every segment, and the objective has none.
    """
    if isinstance(by, ReadsCurves) and by.reads_curves:
        check_has_curve(objective, who)


def check_has_curve(objective: Objective, who: str) -> None:
    """Check that an objective has a value after every segment, which somebody follows.

    Raises:
        UserError: it has none.
    """
    if not objective.has_curve:
        raise UserError(
            f"{who} follows a curve, and {objective.name} has no value before a run ends: choose another --objective"
        )


def check_planner(planner: Planner, task: Task) -> None:
    """Check that a planner plans for the objective of a task.

    Raises:
        UserError: its model was fitted for another one.
    """
    if isinstance(planner, Aimed) and planner.objective != task.objective:
        raise UserError(
            f"planner {planner.name!r} has a model that was fitted for {planner.objective}, not for {task.objective}: "
            f"fit one with `lr-env fit {task.name} --objective {task.objective}`, and give it with --set"
        )

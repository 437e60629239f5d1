"""The planner contract: two methods, which `lr_env.session.PlannerSession` calls.

A planner is a frozen object. What changes during a run is an explicit state, a tree (dict, list, tuple) of numpy
arrays and plain JSON values, so that a run can be saved, copied and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

Signals = Mapping[str, NDArray[Any]]
"""Signal name -> values at the end of the last segment (before the first: of the untrained child), (num_runs,); see
`lr_env.signals` for what there is."""

ForkMeasurements = Mapping[str, NDArray[np.float64]]
"""What forks measured: "train_loss" and "val_loss" (num_runs, forks, segments), "step_losses" (num_runs, forks, steps);
nats per example, infinite from the segment on in which a fork diverges."""

State = Any
"""A tree of numpy arrays and JSON values; owned by the planner, never looked into by anybody else."""


@dataclass(frozen=True)
class RunSpec:
    """What is known of a run before it starts.

    Attributes:
        task: name of the task.
        budget: optimizer steps in the run.
        segment: optimizer steps trained under one answer of the planner.
        lr_range: smallest and largest learning rate that the environment accepts.
        optimizer: name of the optimizer's class, e.g. "SGD".
        num_parameters: trainable parameters of the child.
    """

    task: str
    budget: int
    segment: int
    lr_range: tuple[float, float]
    optimizer: str
    num_parameters: int

    @property
    def num_segments(self) -> int:
        """Answers that a planner gives in one run."""
        return self.budget // self.segment


class Probe(Protocol):
    """Looks ahead on the real thing: trains forks of the runs, which go on as if nothing had happened.

    Every step that a fork is trained for is booked as a child step of its run. All forks of one run that are asked for
    at the same step see the same batches and the same noise, which are not those that the run will see. A fork that
    diverges, as the environment defines it for runs, ends there.

    The runs that go on are all at the same step; there is no leaving some of them out.
    """

    def __call__(self, lr: NDArray[np.float64], segments: int) -> ForkMeasurements:
        """Train forks.

        Args:
            lr: rates of each run's forks, (num_runs, forks), or (num_runs, forks, segments) to change them between
                segments.
            segments: how long; beyond the end of the budget is allowed.

        Returns:
            What was measured; infinite for runs that have ended, which are not forked, whatever the rates given.

        Raises:
            UserError: wrong shapes, or rates outside the task's range.
        """
        ...


@runtime_checkable
class Planner(Protocol):
    """Anything that turns signals into the next learning rate, for several runs at once.

    To be kept in records it is a frozen dataclass with JSON-able fields. To be found by name it is declared in the
    entry-point group `lr_env.planners`. What else it may be able to do is in `lr_env.capabilities`.
    """

    @property
    def name(self) -> str:
        """The name in the catalogue, e.g. "cosine"."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """The signals that `plan` reads."""
        ...

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment of `len(seeds)` runs.

        Whatever is random is drawn from the seed of its run, so that a run does not depend on its neighbours.
        """
        ...

    def plan(self, state: State, signals: Signals) -> tuple[NDArray[np.float64], State]:
        """The learning rate of the next segment, and the state after that.

        It is called exactly once before each segment, in order; the first time with the signals of the untrained child.
        The same state and signals have the same answer. A planner whose state remembers signals keeps the step too, and
        refuses a second call in one segment, see `step_after`; a schedule, which does not, repeats its answer.

        Returns:
            Rates of shape (num_runs,), or (num_runs, segment) where the rate changes inside the segment.
        """
        ...


def planner_settings(planner: Planner) -> dict[str, Any]:
    """The fields of a planner as they come back from JSON (lists for tuples), so that records compare equal.

    Raises:
        UserError: the planner is not a dataclass, or has a field that JSON does not hold.
    """
    import json

    if not is_dataclass(planner) or isinstance(planner, type):
        raise UserError(f"planner {planner.name!r} is not a dataclass: its settings could not be kept in records")
    try:
        return json.loads(json.dumps(asdict(planner)))
    except TypeError as error:
        raise UserError(f"planner {planner.name!r} has a setting that JSON does not hold ({error})") from None


def step_after(planner: Planner, state: State, signals: Signals) -> int:
    """The step that the runs that go on are at, to be kept in the state as "step"; those that have ended lag behind.

    Args:
        planner: whose state remembers what it was told.
        state: before its answer.
        signals: by which it answers.

    Raises:
        UserError: no segment was trained since its last answer, or the step is no number from 0 up.
    """
    latest, before = float(np.max(signals["step"])), state.get("step")
    if not 0 <= latest < np.inf:
        raise UserError(f"planner {planner.name!r}: no rate for step {latest:g}, steps are counted from 0 up")
    step = int(latest)
    if before is not None and step <= before:  # states from before it was kept have none
        raise UserError(
            f"planner {planner.name!r} is asked at step {step}, and was asked at step {before} before: it remembers "
            "what it is told, so ask it once before each segment, with the state of its last answer"
        )
    return step


def require(planner: Planner, signals: Signals) -> None:
    """Check that every signal that a planner needs is there.

    Raises:
        UserError: naming the signal, the planner, and the signals that there are.
    """
    missing = sorted(planner.needs - signals.keys())
    if missing:
        raise UserError(
            f"planner {planner.name!r} needs the signal {missing[0]!r}, which this loop does not measure "
            f"(it measures: {', '.join(sorted(signals))})"
        )

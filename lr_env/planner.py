"""The planner contract: two methods, which `lr_env.session.PlannerSession` calls.

A planner is a frozen object. What changes during a run is an explicit state, a tree (dict, list, tuple) of numpy
arrays and plain JSON values, so that a run can be saved, copied and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.architecture import Architecture

Signals = Mapping[str, NDArray[Any]]
"""Signal name -> values at the end of the last segment (before the first: of the untrained child), (num_runs,).
`lr_env.signals` lists the names."""

ForkMeasurements = Mapping[str, NDArray[np.float64]]
"""Losses of forks: "train_loss" and "val_loss" (num_runs, forks, segments), "step_losses" (num_runs, forks, steps);
nats per example, infinite from the segment on in which a fork diverges."""

State = Any
"""A tree of numpy arrays and JSON values. Only the planner reads it."""


@dataclass(frozen=True)
class RunSpec:
    """Facts about a run that a planner may know before it starts.

    Attributes:
        task: name of the task.
        budget: optimizer steps in the run.
        segment: optimizer steps trained under one answer of the planner.
        lr_range: smallest and largest learning rate that the environment accepts.
        optimizer: name of the optimizer's class, e.g. "SGD".
        num_parameters: trainable parameters of the child.
        groups: names of the groups of parameters that may have rates of their own, the layers or blocks from the input
            to the output; empty where there is one rate for all.
        architecture_source: the architecture of the child, or a function that returns it; None where it is unknown.
            Planners read `architecture`.
        facts: what is known of the task besides, such as "momentum", "batch_size" and "classes", with the names of
            `lr_env.tasks.facts.facts`; in a training loop of one's own, what was told.
    """

    task: str
    budget: int
    segment: int
    lr_range: tuple[float, float]
    optimizer: str
    num_parameters: int
    groups: tuple[str, ...] = ()
    architecture_source: Architecture | Callable[[], Architecture] | None = field(default=None, repr=False, hash=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @cached_property
    def architecture(self) -> Architecture | None:
        """The child's network as a graph; None where it is unknown. It is traced when it is first read (seconds)."""
        return self.architecture_source() if callable(self.architecture_source) else self.architecture_source

    @property
    def num_segments(self) -> int:
        """Number of segments in a run: the planner answers once for each."""
        return self.budget // self.segment


class Probe(Protocol):
    """Trains forks of the runs and measures their losses. The runs themselves are not changed.

    Every step of a fork is counted as a child step of its run. All forks of a run at the same step see the same batches
    and the same noise, which differ from those that the run will see. A fork that diverges, by the definition for runs,
    ends there.

    All running runs are at the same step, and all of them are forked.
    """

    def __call__(self, lr: NDArray[np.float64], segments: int) -> ForkMeasurements:
        """Train forks.

        Args:
            lr: rates of each run's forks, (num_runs, forks), or (num_runs, forks, segments) to change them between
                segments.
            segments: number of segments to train; the end may be beyond the budget.

        Returns:
            The losses; infinite for runs that have ended, which are not forked.

        Raises:
            UserError: wrong shapes, or rates outside the task's range.
        """
        ...


@runtime_checkable
class Planner(Protocol):
    """Sets the learning rates of several runs at once, segment by segment.

    To be stored in records, a planner is a frozen dataclass with JSON-able fields. To be found by its name, it is
    declared in the entry-point group `lr_env.planners`. `lr_env.capabilities` lists what else a planner may offer.
    """

    @property
    def name(self) -> str:
        """The name of the planner, e.g. "cosine"."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals that `plan` reads."""
        ...

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state before the first segment of `len(seeds)` runs.

        Random numbers are drawn from the seed of their run, so that a run does not depend on its neighbours.
        """
        ...

    def plan(self, state: State, signals: Signals) -> tuple[NDArray[np.float64], State]:
        """Return the learning rates of the next segment, and the new state.

        It is called exactly once before each segment, in order; the first time with the signals of the untrained child.
        The same state and signals give the same answer. A planner whose state contains earlier signals also keeps the
        step, and refuses a second call in one segment (see `step_after`); a schedule repeats its answer.

        Returns:
            Rates of shape (num_runs,), or (num_runs, segment) where the rate changes inside the segment, or
            (num_runs, groups, 1 or segment) where `RunSpec.groups` names parameter groups.
        """
        ...


def planner_settings(planner: Planner) -> dict[str, Any]:
    """Return the fields of a planner as JSON gives them back (lists for tuples), so that records compare equal.

    Raises:
        UserError: the planner is not a dataclass, or has a field that cannot be written as JSON.
    """
    import json

    if not is_dataclass(planner) or isinstance(planner, type):
        raise UserError(f"planner {planner.name!r} is not a dataclass: its settings could not be kept in records")
    try:
        return json.loads(json.dumps(asdict(planner)))
    except TypeError as error:
        raise UserError(f"planner {planner.name!r} has a setting that JSON does not hold ({error})") from None


def step_after(planner: Planner, state: State, signals: Signals) -> int:
    """Return the step of the running runs, which the planner stores in its state as "step".

    Args:
        planner: a planner whose state contains earlier signals.
        state: the state before this call of `plan`.
        signals: the signals of this call.

    Raises:
        UserError: no segment was trained since the last call, or the step is not a number from 0 up.
    """
    latest, before = float(np.max(signals["step"])), state.get("step")
    if not 0 <= latest < np.inf:
        raise UserError(f"planner {planner.name!r}: no rate for step {latest:g}, steps are counted from 0 up")
    step = int(latest)
    if before is not None and step <= before:  # older checkpoints have no step
        raise UserError(
            f"planner {planner.name!r} is asked at step {step}, and was asked at step {before} before: its state "
            "depends on every call, so ask it once before each segment, with the state of its last answer"
        )
    return step


def require(planner: Planner, measured: Collection[str], needs: frozenset[str] | None = None) -> None:
    """Check that every signal that a planner needs is measured.

    Args:
        planner: who needs them.
        measured: names of the signals there are.
        needs: what the planner needs, where that is known already.

    Raises:
        UserError: one is not; the message names the signal, the planner, and the measured signals.
    """
    missing = sorted((planner.needs if needs is None else needs).difference(measured))
    if missing:
        raise UserError(
            f"planner {planner.name!r} needs the signal {missing[0]!r}, which this loop does not measure "
            f"(it measures: {', '.join(sorted(measured))})"
        )

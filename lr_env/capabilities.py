"""What a planner may be able to do besides `start` and `plan`: small protocols, used with `isinstance`.

A planner has a capability by having its members, and inherits from nothing. `isinstance` works on planners and on
their classes alike, for it only asks whether the members are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import Planner, Probe, RunSpec, Signals, State

if TYPE_CHECKING:
    from lr_env.optimizers import Optimizer
    from lr_env.tasks import Task


@runtime_checkable
class Tunable(Protocol):
    """A planner that a sweep over peak rates can tune."""

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Planner]:
        """The settings that a sweep tries: exactly one for each of the peak rates, so that budgets are equal."""
        ...


@dataclass(frozen=True)
class SettingRange:
    """The values of a setting that a search tries.

    Attributes:
        low: the smallest.
        high: the largest.
        log: whether they are spread evenly in their logarithm.

    >>> SettingRange(0.2, 0.8).at(0.5), SettingRange(0.001, 0.1, log=True).at(0.5)
    (0.5, 0.01)
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """Return the value at a share of the range, from 0 to 1."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = low + round(high - low, 12) * share  # 0.8 - 0.2 is 0.6
        return min(max(10.0**value if self.log else value, self.low), self.high)


@runtime_checkable
class Searchable(Protocol):
    """A planner with a peak rate that says which values of its other settings a search should try."""

    search_ranges: Mapping[str, SettingRange]
    """Setting -> its values; without the peak, whose range is that of the task."""


@runtime_checkable
class TunedByItself(Protocol):
    """A planner that a tuner of its own makes of runs of the task, such as one with a model that is fitted to them."""

    tuner: str
    """Name of the tuner."""


@runtime_checkable
class TaskSpecific(Protocol):
    """A planner that needs other settings for each task, such as a model that was fitted to it."""

    @classmethod
    def for_task(cls, task: Task) -> Mapping[str, Any] | None:
        """The settings that suit it to a task; None where there are none: it is then not among "all"."""
        ...


@runtime_checkable
class Previewable(Protocol):
    """A planner whose rates follow from time and seed alone."""

    def preview(self, num_segments: int, seed: int = 0) -> NDArray[np.float64]:
        """The rate of each segment, (segments,), or of each draw within a segment."""
        ...


@runtime_checkable
class FixedShape(Protocol):
    """A schedule: a peak rate times factors that follow from time alone."""

    def factors(self, num_segments: int) -> NDArray[np.float64]:
        """The rate of each segment as a fraction of the peak, (segments,)."""
        ...


@runtime_checkable
class OwnOptimizer(Protocol):
    """A planner whose runs are trained by its own optimizer in place of the task's."""

    @property
    def optimizer(self) -> Optimizer:
        """The settings of that optimizer."""
        ...


@runtime_checkable
class Pretrained(Protocol):
    """A planner on which child steps were spent before any sweep, say on training a policy. They count as tuning."""

    @property
    def pretraining_steps(self) -> int:
        """How many."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A planner that depends on more than its settings, such as a file or another package."""

    @property
    def fingerprint(self) -> str | None:
        """A hash or a version of what it depends on; None where that is nothing."""
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A planner that reads files which its settings name. Other machines get copies, see `lr_env.files.in_place_of`."""

    @property
    def files(self) -> tuple[str, ...]:
        """Their names, as the settings have them, without those that come with the package of the planner."""
        ...


@runtime_checkable
class Control(Protocol):
    """A planner that shows what a part of another planner is worth. It takes over the settings of that planner."""

    control_of: str
    """The name of the other planner."""

    @classmethod
    def matched(cls, planner: Any) -> Planner:
        """The control of the other planner as that was tuned."""
        ...


@runtime_checkable
class Rebudgetable(Protocol):
    """A planner that can plan anew where the budget of a run changes on the way."""

    def with_budget(self, state: State, run: RunSpec) -> State:
        """The state of runs that are now to have the budget of `run`, whose architecture may be missing here."""
        ...


@runtime_checkable
class AllowsMissing(Protocol):
    """A planner that takes signals which were not measured in the last segment; their values are then NaN."""

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Names of these signals, of those in `needs`."""
        ...


@runtime_checkable
class PreferredSegment(Protocol):
    """A planner that knows how often it should be asked, such as one whose model has a step of time."""

    @property
    def preferred_segment(self) -> int | None:
        """Optimizer steps between two plans; None where it does not matter."""
        ...


@runtime_checkable
class Forking(Protocol):
    """A planner that tries rates on forks of its runs, which costs many times the child steps of the runs.

    Its `plan` takes a `Probe` as well: functions do not travel among the numbers of signals.
    """

    @property
    def needs_forks(self) -> bool:
        """True."""
        ...

    def plan(self, state: State, signals: Signals, probe: Probe | None = None) -> tuple[NDArray[np.float64], State]:
        """As `lr_env.planner.Planner.plan`, with forks."""
        ...


@dataclass(frozen=True, eq=False)
class PlanForecast:
    """What a planner predicted for a run at one time, and which plans it considered.

    Attributes:
        segment: the segment before which it planned.
        rates: the candidate plans, (plans, segments left). Row 0 is the chosen one, which may be the plan that it had
            before. An empty array means that the plan was kept without a search.
        steps: optimizer steps from the start of the run at which losses were predicted, (nodes,).
        losses: predicted validation losses along each plan, one row for each model of its ensemble, nats per example,
            (models, plans, nodes).
        note: what else it inferred, in words.
        final_interval: the 90 % interval of the loss on the whole validation split at the end of the run, if row 0 is
            followed to the end; None where it gives none.
    """

    segment: int
    rates: NDArray[np.float64]
    steps: NDArray[np.float64]
    losses: NDArray[np.float64]
    note: str = ""
    final_interval: tuple[float, float] | None = None


@runtime_checkable
class Explainable(Protocol):
    """A planner that can tell what it predicted at each of its plans."""

    def explain(self, state: State, row: int = 0) -> Sequence[PlanForecast]:
        """The forecasts for the run in that row of the state, in the order of time."""
        ...


@runtime_checkable
class Cautious(Protocol):
    """A planner that can tell that a run is unlike what it knows."""

    def caution(self, run: RunSpec) -> str:
        """What of the run it only guesses about, as a part of a sentence; empty where nothing."""
        ...


@runtime_checkable
class RenamedSettings(Protocol):
    """A planner whose settings had other names before. Records and files with the old names are still read."""

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under the names, and with the values, that they have now."""
        ...


def require_probe(planner: Planner, probe: Probe | None) -> Probe:
    """The probe of a planner that needs forks.

    Raises:
        UserError: the loop that asks the planner has no forks.
    """
    if probe is None:
        raise UserError(f"planner {planner.name!r} tries rates on forks of its runs, and this loop has none")
    return probe


def pretraining_steps(planner: object) -> int:
    """Child steps that were spent on a planner, or a tuner, before any sweep; see `Pretrained`."""
    return int(planner.pretraining_steps) if isinstance(planner, Pretrained) else 0


def fingerprint(planner: Planner) -> str | None:
    """What a planner depends on besides its settings; see `Fingerprinted`."""
    return planner.fingerprint if isinstance(planner, Fingerprinted) else None


def optimizer_of(planner: Planner) -> Optimizer | None:
    """The optimizer that a planner brings along; None where its runs are trained by the task's."""
    return planner.optimizer if isinstance(planner, OwnOptimizer) else None


def original_of(planner: Planner | type[Planner]) -> str | None:
    """The name of the planner that a planner is a control of; None where it is none."""
    return planner.control_of if isinstance(planner, Control) else None

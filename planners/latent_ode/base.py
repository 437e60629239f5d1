"""Common parts of planners that use a fitted model of training or the sweep that it was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import RunSpec
from planners.latent_ode.artifact import KINDS_OF, LR_RANGE, MODELS, RUNS_OF, SEGMENT, FittedModel
from planners.latent_ode.channels import CHANNELS, Floats
from planners.settings import RATIO, Rules, ValidatedSettings
from planners.weights import FromWeights

if TYPE_CHECKING:
    from lr_env.tasks import Task

MISMATCH = ("refuse", "steps", "rescaled")

BUDGET_FACTOR, SEGMENT_FACTOR = 1.1, 2.0
"""A model of imported runs is used for budgets and segments that are longer or shorter by at most these factors."""


class SignalsOfModel:
    """The signals that a planner reads, where they follow from its model.

    Args:
        names: returns them, of the model, or of None for the class and for a model that cannot be loaded.
    """

    def __init__(self, names: Callable[[FittedModel | None], frozenset[str]]) -> None:
        self._names = names

    def __get__(self, planner: ModelBasedPlanner | None, kind: type[ModelBasedPlanner]) -> frozenset[str]:
        """Return the names."""
        fitted = None
        if planner is not None:
            with suppress(UserError):  # `start` says what is wrong with the model
                fitted = planner.trained
        return self._names(fitted)


@dataclass(frozen=True)
class ModelBasedPlanner(FromWeights, ValidatedSettings):
    """A planner that loads a fitted model, and with it the schedules of a sweep.

    Attributes:
        model: fitted model of training: a .safetensors file written by `lr-env fit`, or the name of a task for which a
            model is shipped.
        mismatch: what to do if the model was fitted to another task, budget or optimizer than those of the run.
            "refuse": stop with an error; "steps": use it, and count time in optimizer steps; "rescaled": use it, and
            count time as a share of the run, whatever the budget.
    """

    weights_field = "model"
    kind: ClassVar[str] = ""
    """Kind of model that the planner needs, a key of `planners.latent_ode.artifact.KINDS`; empty: any kind."""
    renamed: ClassVar[Mapping[str, str]] = {"reuse": "mismatch"}
    """Earlier name of a setting -> name today; a subclass lists the settings that it adds."""
    model: str = "DigitsMLP"
    mismatch: str = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mismatch not in MISMATCH:
            raise UserError(
                f"planner {self.name!r}: mismatch must be one of {', '.join(MISMATCH)}, not {self.mismatch!r}"
            )

    @classmethod
    def current_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate settings that were saved under earlier names; those of today stay as they are.

        >>> ModelBasedPlanner.current_settings({"model": "DigitsMLP", "reuse": "no"})
        {'model': 'DigitsMLP', 'mismatch': 'refuse'}
        """
        renamed = {old: new for kind in cls.__mro__ for old, new in vars(kind).get("renamed", {}).items()}
        current = {renamed.get(name, name): value for name, value in settings.items()}
        if current.get("mismatch") == "no":
            current["mismatch"] = "refuse"
        return current

    @classmethod
    def for_task(cls, task: Task) -> Mapping[str, Any] | None:
        """Return the setting that selects the model shipped for a task; None if there is none that fits."""
        if task.name not in MODELS.shipped():
            return None
        fitted = MODELS.find(task.name)
        of_model = fitted.about["budget"], fitted.about["optimizer"], fitted.objective.name
        fits = of_model == (task.budget, type(task.optimizer).__name__, task.objective)
        return {"model": task.name} if fits else None

    @property
    def trained(self) -> FittedModel:
        """The fitted model."""
        return MODELS.find(self.model)

    @property
    def objective(self) -> str:
        """Name of the objective that the model was fitted for, see `lr_env.objectives`."""
        return self.trained.objective.name

    @property
    def preferred_segment(self) -> int | None:
        """Optimizer steps of a segment of the runs that the model was fitted to; None where it does not say."""
        return self.trained.about.get(SEGMENT)

    def model_for(self, run: RunSpec) -> FittedModel:
        """Load the model, and check that it may be used for a run.

        Raises:
            UserError: there is no such model; it is of another kind; it was fitted to another task, budget or optimizer
                and `mismatch` is "refuse"; or the run has no segment.
        """
        fitted = self.trained
        if run.num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment")
        kind = KINDS_OF[type(fitted.model)]
        if self.kind not in ("", kind):
            raise UserError(
                f"planner {self.name!r}: model {self.model!r} is {kind}, not {self.kind}: fit one with "
                f"`lr-env fit --kind {self.kind}`"
            )
        if RUNS_OF in fitted.about:
            self._check_imported(fitted, run)
            return fitted
        about = {"task": run.task, "optimizer": run.optimizer} | dict(fitted.about)
        task, budget, optimizer = about["task"], fitted.scales.budget, about["optimizer"]
        if self.mismatch == "refuse" and (task, budget, optimizer) != (run.task, run.budget, run.optimizer):
            raise UserError(
                f"planner {self.name!r}: model {self.model!r} was fitted to {task} with {budget} steps of {optimizer}, "
                f"not to {run.task} with {run.budget} of {run.optimizer}: fit one with `lr-env fit`, or set mismatch "
                "to steps or rescaled"
            )
        return fitted

    def _check_imported(self, fitted: FittedModel, run: RunSpec) -> None:
        """Check that a model of imported runs may be used for a run; what these trained, no log says for certain.

        Raises:
            UserError: budget, segment or rates of the run are unlike those of the imported runs, and `mismatch` is
                "refuse".
        """
        name, budget = fitted.about[RUNS_OF], fitted.scales.budget
        segment, (low, high) = fitted.about[SEGMENT], fitted.about[LR_RANGE]
        repair = ""
        if not 1 / BUDGET_FACTOR <= run.budget / budget <= BUDGET_FACTOR:
            repair = f"budgets near {budget} steps, not {run.budget}: fit anew with --budget {run.budget}"
        elif not 1 / SEGMENT_FACTOR <= run.segment / segment <= SEGMENT_FACTOR:
            repair = f"segments of {segment} steps, not {run.segment}: give segment={segment}, or fit with --segment"
        elif run.lr_range[0] > high or run.lr_range[1] < low:
            repair = (
                f"rates from {low:.3g} to {high:.3g}, not {run.lr_range[0]:.3g} to {run.lr_range[1]:.3g}: allow those"
            )
        if repair and self.mismatch == "refuse":
            raise UserError(
                f"planner {self.name!r}: model {self.model!r} was fitted to the imported runs {name} with {repair}, or "
                "set mismatch to steps or rescaled"
            )

    def unit(self, run: RunSpec) -> int:
        """Return the optimizer steps of a run that are one unit of the model's time."""
        return run.budget if self.mismatch == "rescaled" else self.trained.scales.budget


class ReplanningState(TypedDict):
    """What the states of all planners have that plan again during a run. Checkpoints have the same keys."""

    model: str  # fingerprint of the model
    rates: Floats  # of all segments by the current plan, (runs, segments)
    seeds: list[int]  # of the runs
    segment: int  # optimizer steps of a segment


@dataclass(frozen=True)
class ReplanningPlanner(ModelBasedPlanner):
    """A planner that chooses the rest of the schedule several times during a run.

    Attributes:
        first_plan: share of the run after which the first plan is made.
        plan_interval: share of the run between two plans. 1 plans once.
        last_plan: share of the run after which no new plan is made.
    """

    needs = frozenset({"step"})
    rules: ClassVar[Rules] = {"plan_interval": RATIO, "last_plan": RATIO}
    renamed: ClassVar[Mapping[str, str]] = {"lead": "first_plan", "every": "plan_interval", "until": "last_plan"}
    first_plan: float = 0.0
    plan_interval: float = 0.2
    last_plan: float = 0.7

    def state_on(self, schedule: int, fitted: FittedModel, run: RunSpec, seeds: Sequence[int]) -> ReplanningState:
        """Return the state of runs that start on a schedule of the sweep, which is given by its index."""
        rates = fitted.library.curve(schedule).segments(run.num_segments, run.lr_range)
        return {
            "model": fitted.fingerprint,
            "rates": np.tile(rates, (len(seeds), 1)),
            "seeds": list(seeds),
            "segment": run.segment,
        }

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Names of the signals that may be NaN where they were not measured: all that the model predicts."""
        return self.needs.intersection(CHANNELS)

    def plans_at(self, segments: int) -> tuple[int, ...]:
        """Return the segments before which plans are made in a run of so many."""
        return replan_segments(segments, self.first_plan, self.plan_interval, self.last_plan)


def rates_for_budget(rates: Floats, run: RunSpec) -> Floats:
    """Cut or extend rates (runs, segments) to the segments of a new budget; the last rate is repeated."""
    return rates[:, np.minimum(np.arange(run.num_segments), rates.shape[1] - 1)]


@lru_cache
def replan_segments(segments: int, first_plan: float, plan_interval: float, last_plan: float) -> tuple[int, ...]:
    """Return the segments before which plans are made, rising; see `ReplanningPlanner`.

    >>> replan_segments(10, 0.0, 0.25, 0.7)
    (0, 2, 5)
    """
    shares = np.arange(first_plan, max(last_plan, first_plan) + 1e-9, max(plan_interval, 0.5 / segments))
    return tuple(sorted({round(share * segments) for share in shares if round(share * segments) < segments}))

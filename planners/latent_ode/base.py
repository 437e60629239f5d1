"""What planners share that play from a model of training and the sweep that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import RunSpec
from planners.latent_ode.artifact import KINDS_OF, Trained, find_model, shipped_models
from planners.latent_ode.data.dataset import Floats
from planners.latent_ode.data.schedule_library import TIMES
from planners.settings import ValidatedSettings
from planners.weights import FromWeights

if TYPE_CHECKING:
    from lr_env.tasks import Task

REUSE = ("no", "steps", "rescaled")


@dataclass(frozen=True)
class OfAModel(FromWeights, ValidatedSettings):
    """A planner that has a model, and with it the schedules of its sweep.

    Attributes:
        model: a .safetensors file, or the name of a model that is shipped.
        reuse: what is done where the model was fitted to another task or budget: "no": refuse, "steps": a step is a
            step, "rescaled": a run is a run, however many steps it has.
    """

    weights_field = "model"
    kind: ClassVar[str] = ""
    """Name of the kind of model that it needs, see `planners.latent_ode.artifact.KINDS`; any if empty."""
    model: str = "DigitsMLP"
    reuse: str = "no"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reuse not in REUSE:
            raise UserError(f"planner {self.name!r}: reuse must be one of {', '.join(REUSE)}, not {self.reuse!r}")

    @classmethod
    def for_task(cls, task: Task) -> Mapping[str, Any] | None:
        """The model that is shipped for a task."""
        if task.name not in shipped_models():
            return None
        about = find_model(task.name).about
        fits = (about["budget"], about["optimizer"]) == (task.budget, type(task.optimizer).__name__)
        return {"model": task.name} if fits else None

    @property
    def trained(self) -> Trained:
        """The model and the schedules of its sweep."""
        return find_model(self.model)

    def trained_for(self, run: RunSpec) -> Trained:
        """The same, which is of that run's task and budget, or may be used all the same.

        Raises:
            UserError: there is no such model or no decision to make, or the model is of another task or budget.
        """
        trained = self.trained
        if run.num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment")
        kind = KINDS_OF[type(trained.model)]
        if self.kind not in ("", kind):
            raise UserError(
                f"planner {self.name!r}: model {self.model!r} is {kind}, not {self.kind}: fit one with "
                f"`lr-env fit --kind {self.kind}`"
            )
        known = {"task": run.task, "optimizer": run.optimizer} | dict(trained.about)
        fitted = known["task"], trained.scales.budget, known["optimizer"]
        if self.reuse == "no" and fitted != (run.task, run.budget, run.optimizer):
            task, budget, optimizer = fitted
            raise UserError(
                f"planner {self.name!r}: model {self.model!r} was fitted to {task} with {budget} steps of {optimizer}, "
                f"not to {run.task} with {run.budget} of {run.optimizer}: fit one with `lr-env fit`, or set reuse to "
                "steps or rescaled"
            )
        return trained

    def unit(self, run: RunSpec) -> int:
        """Optimizer steps of a run that are one unit of the model's time."""
        return run.budget if self.reuse == "rescaled" else self.trained.scales.budget


def rates_of(log_rates: Floats, run: RunSpec) -> Floats:
    """The rates of a run's segments, (..., segments), of the logs of a schedule's, (..., points) at `TIMES`."""
    at = (np.arange(run.num_segments) + 0.5) / run.num_segments
    rows = np.reshape(log_rates, (-1, len(TIMES)))
    rates = np.exp([np.interp(at, TIMES, row) for row in rows])
    return np.clip(rates, *run.lr_range).reshape(*np.shape(log_rates)[:-1], run.num_segments)


def lasting(rates: Floats, run: RunSpec) -> Floats:
    """Rates of a run whose budget has changed, (runs, segments): the first ones, and beyond the last the last."""
    return rates[:, np.minimum(np.arange(run.num_segments), rates.shape[1] - 1)]


@lru_cache
def times_of_plans(total: int, lead: float, every: float, until: float) -> tuple[int, ...]:
    """The decisions at which a plan is made, of as many as the run has.

    Args:
        total: decisions of a run.
        lead: share of it before the first plan.
        every: share of it between two.
        until: share of it after which none is made.
    """
    shares = np.arange(lead, max(until, lead) + 1e-9, max(every, 0.5 / total))
    return tuple(sorted({round(share * total) for share in shares if round(share * total) < total}))

"""What is kept of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNALS: tuple[str, ...] = (
    "step",
    "progress",
    "lr",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "prediction_variance",
    "prediction_change",
    "output_weight_mean",
    "output_weight_variance",
)
"""The numbers measured at the end of every segment, in the order in which they are stored."""

SPLIT_SCORES: tuple[str, ...] = ("final_val_loss", "final_val_accuracy", "test_loss", "test_accuracy")
"""The numbers measured once, at the end of a run, on the whole validation and test splits."""

FLATNESS_SCORES: tuple[str, ...] = ("hessian_max", "hessian_trace")
"""The numbers measured at the end of a run where they are asked for; see `lr_env.children.flatness`."""

SCORES = SPLIT_SCORES + FLATNESS_SCORES
"""All that is measured at the end of a run."""


@dataclass(frozen=True)
class RunRecord:
    """One run as it is kept.

    Attributes:
        phase: "tune" for the runs that choose a setting, "final" for the runs on fresh seeds.
        planner: name of the planner.
        settings: the fields of the planner.
        seed: seed of the child.
        status: "running" or "finished".
        diverged: whether the run was ended by a loss that exploded or was not finite.
        steps: optimizer steps that the child was trained for.
        extra_steps: child steps beyond the run's own, e.g. of forks that a planner looked ahead with.
        scores: name in `SCORES` -> value, nats per example, fraction, or what `flatness` says; a score that was not
            taken is absent.
        planning_seconds: wall time spent in the planner.
        curves: name in `SIGNALS` -> (segments,) values at segment ends; empty unless asked for.
    """

    phase: str
    planner: str
    settings: Mapping[str, Any]
    seed: int
    status: str = "running"
    diverged: bool = False
    steps: int = 0
    extra_steps: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    planning_seconds: float = 0.0
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def end(self, score: str) -> float:
        """A score that is better the lower it is; infinite if the run diverged."""
        return float("inf") if self.diverged else float(self.scores[score])

    @property
    def child_steps(self) -> int:
        """All optimizer steps that it took."""
        return self.steps + self.extra_steps

"""Optimizers that need no schedule, under a constant rate: why schedule at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from lr_env.children.external_optimizers import ExternalOptimizer
from planners.schedule import Index, Schedule
from planners.settings import Array

FACTORS = (0.01, 1.0)
"""Tried by those that find the rate themselves: their authors advise 1, in short runs the best is often a tenth."""


@dataclass(frozen=True)
class Rival(Schedule):
    """A constant rate under an optimizer of its own, in place of the task's.

    Its name is the kind of the optimizer. Children are trained with the weight decay of the task's. A sweep tries as
    many rates as it does of schedules, over decades of the optimizer's own, whatever the task's.

    Attributes:
        peak: the rate; a factor, usually 1, for those that find the rate themselves.
    """

    decades: ClassVar[tuple[float, float]]
    """Smallest and largest rate that a sweep tries."""

    @property
    def optimizer(self) -> ExternalOptimizer:
        """The optimizer that the planner brings along."""
        return ExternalOptimizer(self.name)

    @property
    def fingerprint(self) -> str:
        """The package and its version, which its runs depend on."""
        return self.optimizer.version

    def _at(self, k: Index, n: int) -> Array:
        return np.ones(n)

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many rates as there are peaks, evenly spaced in their logs."""
        grid = np.geomspace(*cls.decades, len(rates)) if len(rates) > 1 else [float(np.sqrt(np.prod(cls.decades)))]
        return [cls(peak=float(f"{rate:.4g}")) for rate in grid]


@dataclass(frozen=True)
class ScheduleFreeSGD(Rival):
    """SGD that averages its iterates in place of a schedule (Defazio et al. 2024).

    Through the package schedulefree. Origin: NeurIPS 2024, arXiv:2405.15682. It is judged by the averaged parameters;
    the running statistics of batch norm are those of the others, which its authors advise to recompute.
    """

    name = "schedule-free-sgd"
    decades = (0.01, 10.0)


@dataclass(frozen=True)
class ScheduleFreeAdamW(Rival):
    """AdamW that averages its iterates in place of a schedule (Defazio et al. 2024).

    Through the package schedulefree. Origin: NeurIPS 2024, arXiv:2405.15682; see `schedule-free-sgd`.
    """

    name = "schedule-free-adamw"
    decades = (1e-4, 0.1)


@dataclass(frozen=True)
class Prodigy(Rival):
    """Adam that estimates its rate from the distance to the start (Mishchenko & Defazio 2023).

    Through the package prodigyopt. Origin: ICML 2024, arXiv:2306.06101.
    """

    name = "prodigy"
    decades = FACTORS


@dataclass(frozen=True)
class DAdaptSGD(Rival):
    """SGD that estimates its rate from a bound on the distance to the solution (Defazio & Mishchenko 2023).

    Through the package dadaptation. Origin: ICML 2023, arXiv:2301.07733.
    """

    name = "d-adapt-sgd"
    decades = FACTORS


@dataclass(frozen=True)
class DAdaptAdam(Rival):
    """Adam that estimates its rate from a bound on the distance to the solution (Defazio & Mishchenko 2023).

    Through the package dadaptation. Origin: ICML 2023, arXiv:2301.07733.
    """

    name = "d-adapt-adam"
    decades = FACTORS


@dataclass(frozen=True)
class MechanicSGD(Rival):
    """SGD whose updates a parameter-free online learner scales (Cutkosky et al. 2023).

    Through the package mechanic-pytorch. Origin: NeurIPS 2023, arXiv:2306.00144.
    """

    name = "mechanic-sgd"
    decades = FACTORS

"""Optimizers that need no schedule, each with a constant rate: they replace the optimizer of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from lr_env.children.external_optimizers import ExternalOptimizer
from planners.schedule import Index, Schedule
from planners.settings import Array

FACTORS = (0.01, 1.0)
"""Range of factors for optimizers that find the rate themselves. Their authors advise 1; short runs often need less."""


@dataclass(frozen=True)
class TunedOptimizer(Schedule):
    """A constant rate with another optimizer than the task's, tuned over a range of rates of its own.

    The name of the planner is the kind of the optimizer. The weight decay is that of the task's optimizer.

    Attributes:
        peak: the rate; for optimizers that find the rate themselves a factor, usually 1.
    """

    decades: ClassVar[tuple[float, float]]
    """Smallest and largest rate that a sweep tries, whatever the range of the task."""

    @property
    def optimizer(self) -> ExternalOptimizer:
        """The optimizer that replaces the task's."""
        return ExternalOptimizer(self.name)

    @property
    def fingerprint(self) -> str:
        """Package and version, which the runs depend on."""
        return self.optimizer.version

    def _at(self, k: Index, n: int) -> Array:
        return np.ones(n)

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return one planner for each of the peak rates; their own rates are evenly spaced in log over `decades`."""
        grid = np.geomspace(*cls.decades, len(rates)) if len(rates) > 1 else [float(np.sqrt(np.prod(cls.decades)))]
        return [cls(peak=float(f"{rate:.4g}")) for rate in grid]


@dataclass(frozen=True)
class ScheduleFreeSGD(TunedOptimizer):
    """SGD that averages its iterates instead of following a schedule (Defazio et al. 2024).

    Package: schedulefree. Origin: NeurIPS 2024, arXiv:2405.15682. The averaged parameters are evaluated, with the
    running statistics of batch norm that belong to the parameters before averaging; its authors advise to recompute
    them.
    """

    name = "schedule-free-sgd"
    decades = (0.01, 10.0)


@dataclass(frozen=True)
class ScheduleFreeAdamW(TunedOptimizer):
    """AdamW that averages its iterates instead of following a schedule (Defazio et al. 2024).

    Package: schedulefree. Origin: NeurIPS 2024, arXiv:2405.15682; see `schedule-free-sgd`.
    """

    name = "schedule-free-adamw"
    decades = (1e-4, 0.1)


@dataclass(frozen=True)
class Prodigy(TunedOptimizer):
    """Adam that estimates its rate from the distance to the start (Mishchenko & Defazio 2023).

    Package: prodigyopt. Origin: ICML 2024, arXiv:2306.06101.
    """

    name = "prodigy"
    decades = FACTORS


@dataclass(frozen=True)
class DAdaptSGD(TunedOptimizer):
    """SGD that estimates its rate from a bound on the distance to the solution (Defazio & Mishchenko 2023).

    Package: dadaptation. Origin: ICML 2023, arXiv:2301.07733.
    """

    name = "d-adapt-sgd"
    decades = FACTORS


@dataclass(frozen=True)
class DAdaptAdam(TunedOptimizer):
    """Adam that estimates its rate from a bound on the distance to the solution (Defazio & Mishchenko 2023).

    Package: dadaptation. Origin: ICML 2023, arXiv:2301.07733.
    """

    name = "d-adapt-adam"
    decades = FACTORS


@dataclass(frozen=True)
class MechanicSGD(TunedOptimizer):
    """SGD whose updates a parameter-free online learner scales (Cutkosky et al. 2023).

    Package: mechanic-pytorch. Origin: NeurIPS 2023, arXiv:2306.00144.
    """

    name = "mechanic-sgd"
    decades = FACTORS

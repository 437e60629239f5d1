"""Runs of many tasks, as what a model across tasks is fitted to, and runs of one task, as what it is updated by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_env.architecture.graph import Architecture
from planners.transfer.descriptors import rate_unit
from planners.transfer.grid import STEPS, Floats, at_ends, log_rates

CEILING = 0.4
"""Largest log of a loss over that of a model that has learned nothing: of runs that diverged, too."""

FLOOR = -12.0

_NO_RATE = 1e-9
"""Stands for the rates of a run of which none is known, for it diverged at once."""


@dataclass(frozen=True, eq=False)
class TaskRuns:
    """Runs of one task.

    Attributes:
        name: of the task.
        facts: what is known of it, see `planners.transfer.descriptors.numbers`.
        architecture: of its network; None where it is unknown.
        chance: loss of a model that has learned nothing, nats per example; NaN where it is unknown.
        log_rates: log of the mean rates, in their unit, (runs, STEPS).
        curves: log of the validation loss over `chance` at the end of each part, at most `CEILING`, (runs, STEPS); NaN
            where it was not measured.
        ends: the same at the end of the run, on the whole validation split, (runs,).
        seeds: of the children, (runs,).
    """

    name: str
    facts: Mapping[str, Any]
    architecture: Architecture | None
    chance: float
    log_rates: Floats
    curves: Floats
    ends: Floats
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def of(
        cls,
        name: str,
        facts: Mapping[str, Any],
        architecture: Architecture | None,
        chance: float,
        rates: Floats,
        losses: Floats,
        ends: Floats,
        seeds: Sequence[int],
    ) -> TaskRuns:
        """Bring runs to the grid.

        Args:
            name: of the task.
            facts: see above.
            architecture: see above.
            chance: see above.
            rates: rate of each segment, (runs, segments); NaN from where a run diverged, which counts as the last one.
            losses: validation loss at the end of each segment, (runs, segments); NaN where it was not measured, or
                after the run diverged.
            ends: loss at the end on the whole validation split, infinite where the run diverged, (runs,).
            seeds: of the children, (runs,).
        """
        curves = log_ratio(at_ends(losses), chance)
        curves[~np.isfinite(ends)] = np.where(
            np.isfinite(curves[~np.isfinite(ends)]), curves[~np.isfinite(ends)], CEILING
        )
        last = np.maximum(np.isfinite(rates).sum(1, keepdims=True) - 1, 0)
        held = np.take_along_axis(rates, last, 1) if len(rates) else rates
        rates = np.nan_to_num(np.where(np.isfinite(rates), rates, held), nan=_NO_RATE)
        unit = rate_unit(facts)
        return cls(
            name,
            facts,
            architecture,
            chance,
            log_rates(rates, unit),
            curves,
            np.where(np.isfinite(ends), log_ratio(ends, chance), CEILING),
            tuple(seeds),
        )


def log_ratio(losses: Floats, chance: float) -> Floats:
    """Log of losses over that of a model that has learned nothing, between `FLOOR` and `CEILING`; NaN stays NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log(np.maximum(losses, 1e-300) / chance), FLOOR, CEILING)


@dataclass(frozen=True)
class Padded:
    """Runs of several tasks as tensors; tasks with fewer runs are filled up.

    Attributes:
        log_rates: (tasks, runs, STEPS).
        curves: (tasks, runs, STEPS); NaN where nothing was measured.
        ends: (tasks, runs); NaN where there is no run.
        gaps: ends less the lowest of their task, (tasks, runs).
        counts: runs of each task, (tasks,).
    """

    log_rates: Tensor
    curves: Tensor
    ends: Tensor
    gaps: Tensor
    counts: Tensor

    @classmethod
    def of(cls, tasks: Sequence[TaskRuns]) -> Padded:
        """Put the runs of tasks side by side."""
        most = max(len(task) for task in tasks)
        rates, curves = (np.full((len(tasks), most, STEPS), fill) for fill in (0.0, np.nan))
        ends = np.full((len(tasks), most), np.nan)
        for row, task in enumerate(tasks):
            rates[row, : len(task)], curves[row, : len(task)] = task.log_rates, task.curves
            ends[row, : len(task)] = task.ends
        to = lambda array: torch.tensor(array, dtype=torch.float32)  # noqa: E731
        return cls(
            to(rates),
            to(curves),
            to(ends),
            to(ends - np.nanmin(ends, 1, keepdims=True)),
            torch.tensor([len(task) for task in tasks]),
        )

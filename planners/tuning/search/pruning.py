"""The median rule: runs of a search that end early because they are worse than most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lr_env.records.record import RunRecord
from lr_env.tasks import Task

Floats = NDArray[np.float64]

FEWEST_RUNS = 5
"""Whole runs before the first is pruned, as in Optuna."""


@dataclass(frozen=True)
class LossBounds:
    """Ends a run once its lowest validation loss so far is above a bound.

    The bounds of a round follow from the rounds before, so that runs do not depend on their neighbours, nor on where
    they are trained.

    Attributes:
        bounds: at the end of each segment; infinite where no run ends.
    """

    bounds: tuple[float, ...]

    def stops(self, losses: Floats) -> bool:
        """Whether a run ends now, by its validation losses so far."""
        return bool(np.nanmin(losses) > self.bounds[len(losses) - 1])


def warmup_steps(task: Task) -> int:
    """Return the optimizer steps before which no run is pruned: half of the budget."""
    return task.budget // 2


def median_bounds(records: Sequence[RunRecord], task: Task) -> LossBounds | None:
    """Return the medians of the losses of whole runs, which no later run may be above; None if there are too few.

    This is the rule of `optuna.pruners.MedianPruner`, applied to the rounds before.

    Args:
        records: the runs so far, with curves; those that were pruned do not count.
        task: what is trained.
    """
    whole = [record for record in records if not record.pruned]
    if len(whole) < FEWEST_RUNS:
        return None
    bounds = []
    for segment in range(task.num_segments):
        losses = [record.curves["val_loss"][segment] for record in whole if len(record.curves["val_loss"]) > segment]
        early = (segment + 1) * task.segment < warmup_steps(task)
        bounds.append(np.inf if early or not losses else float(np.median(losses)))
    return LossBounds(tuple(bounds))

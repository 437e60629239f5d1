"""Rules without a model: a run ends early by how the runs before did at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task

Floats = NDArray[np.float64]

FEWEST_RUNS = 5
"""Whole runs before the rule of the median ends the first, as in Optuna."""

RUNGS = 2
"""Rungs of successive halving before the end of a run."""


@dataclass(frozen=True)
class LossBounds:
    """Ends a run once a validation loss of it is above a bound.

    Attributes:
        bounds: at the end of each segment; infinite where no run ends.
        lowest: whether the lowest loss so far is judged, rather than the last one.
    """

    bounds: tuple[float, ...]
    lowest: bool

    def stops(self, planner: Planner, losses: Floats, rates: Floats) -> bool:
        """Whether a run ends now; see `lr_env.pruning.Pruner`."""
        loss = np.nanmin(losses) if self.lowest else losses[-1]
        return bool(loss > self.bounds[len(losses) - 1])


@dataclass(frozen=True)
class Median:
    """In the second half, a run ends whose lowest loss is above the median of whole runs there.

    This is the rule of `optuna.pruners.MedianPruner`, by the rounds before. A schedule that falls late is judged before
    it falls.
    """

    option: str = ""

    def __post_init__(self) -> None:
        if self.option:
            raise UserError(f"stop 'median:{self.option}': this rule takes no option, give --stop median")

    def to_json(self) -> str:
        """Its name."""
        return "median"

    def pruner(self, records: Sequence[RunRecord], task: Task) -> LossBounds | None:
        """The medians of the whole runs; None where these are too few."""
        whole = [record for record in records if not record.pruned]
        if len(whole) < FEWEST_RUNS:
            return None
        bounds = []
        for segment in range(task.num_segments):
            losses = _losses(whole, segment)
            early = (segment + 1) * task.segment < task.budget // 2
            bounds.append(np.inf if early or not losses else float(np.median(losses)))
        return LossBounds(tuple(bounds), lowest=True)


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (Li et al., arXiv 1810.05934): of those at a rung the best share goes on.

    There are `RUNGS` rungs, the last one at 1 / factor of the budget, and each earlier one at 1 / factor of the next.
    It is the rule of `optuna.pruners.SuccessiveHalvingPruner`, by the rounds before.

    Attributes:
        factor: one run of so many goes on.
    """

    factor: int = 3

    @classmethod
    def of(cls, option: str) -> Halving:
        """The rule with the factor of a text, e.g. "4"; empty for the default.

        Raises:
            UserError: it is no whole number of at least 2.
        """
        if option and not (option.isdecimal() and 2 <= int(option) <= 100):
            raise UserError(f"stop 'halving:{option}': give a whole number from 2 to 100, e.g. halving:4")
        return cls(int(option)) if option else cls()

    def to_json(self) -> list[object]:
        """Its name and factor."""
        return ["halving", self.factor]

    def pruner(self, records: Sequence[RunRecord], task: Task) -> LossBounds | None:
        """The losses of the last runs that would go on; None before there are any."""
        bounds = np.full(task.num_segments, np.inf)
        for segment in self.rungs(task):
            losses = sorted(_losses(records, segment))
            if losses:
                # The next run makes one more: it goes on if it is among the best, and the first always does.
                bounds[segment] = losses[max(0, (len(losses) + 1) // self.factor - 1)]
        return LossBounds(tuple(bounds.tolist()), lowest=False) if np.isfinite(bounds).any() else None

    def rungs(self, task: Task) -> list[int]:
        """Segments after which runs are judged, from 0."""
        steps = [task.budget / self.factor**power for power in range(RUNGS, 0, -1)]
        ends = [int(np.ceil(step / task.segment)) - 1 for step in steps]
        return [end for end in dict.fromkeys(ends) if 0 <= end < task.num_segments - 1]


def _losses(records: Sequence[RunRecord], segment: int) -> list[float]:
    """Validation losses after a segment, of the runs that came so far; not finite ones count as infinite."""
    found = [record.curves["val_loss"][segment] for record in records if len(record.curves["val_loss"]) > segment]
    return [float(loss) if np.isfinite(loss) else np.inf for loss in found]

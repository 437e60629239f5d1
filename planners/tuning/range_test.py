"""The tuner `range-test`: one run with a rising rate tells the peak of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError, find
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.registry import make_planner
from lr_env.studies.range_test import RangeTestResult
from lr_env.tasks import Task
from planners.piecewise import knots_at
from planners.settings import Array
from planners.tuning.search_space import FAMILIES
from planners.tuning.tuners import UNLIMITED_BATCH

_BELOW = 10.0
"""Where no steepest fall is found, the peak is this far below the rate of the lowest loss."""


@dataclass(frozen=True)
class RangeTestTuner:
    """A learning-rate range test (Smith, arXiv:1506.01186) over a whole run, for the peak of a schedule.

    The rate rises evenly in its log through the range in which the task is tuned. The peak is the rate at which the
    training loss falls fastest; where it never clearly falls, a tenth of the rate at which it is lowest. All runs are
    the same but for their seeds, and their losses are averaged: one is what people make.

    Attributes:
        name: name of the tuner.
        planner: family of the schedule that is selected, with its default settings; the author's own is one-cycle.
    """

    name: str = "range-test"
    planner: str = "one-cycle"

    reads_curves: ClassVar[bool] = True

    def batch_size(self, done: int) -> int:
        """Any number: no run depends on another."""
        return UNLIMITED_BATCH

    def seed_index(self, run: int) -> int:
        """Every run has a seed of its own."""
        return run

    def check(self, runs: Sequence[int]) -> None:
        """Check that there is a run, and such a family.

        Raises:
            UserError: there is not.
        """
        find("family of schedules", self.planner, FAMILIES)
        if min(runs) < 1:
            raise UserError(f"tuner {self.name!r}: it needs a run")

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The rising rate, as often as runs are asked for."""
        return [knots_at(np.array(task.tuning_range))] * count

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The schedule with the peak that was found."""
        rates = knots_at(np.array(task.tuning_range)).preview(task.num_segments)
        result = _result(task, rates, records)
        peak = result.rates.get("lr_steepest", result.lr_max / _BELOW)
        return make_planner(self.planner, {"peak": float(np.clip(peak, *task.lr_range))})


def _result(task: Task, rates: Array, records: Sequence[RunRecord]) -> RangeTestResult:
    """The test whose steps are segments; a run that diverged has no losses from there on."""
    losses = np.full((len(records), len(rates)), np.nan)
    for row, record in enumerate(records):
        seen = np.asarray(record.curves["train_loss"], np.float64)[: len(rates)]
        losses[row, : len(seen)] = np.where(np.isfinite(seen), seen, np.nan)
    smooth = np.where(np.isnan(losses).any(0), np.inf, losses.mean(0))
    return RangeTestResult(task.name, tuple(record.seed for record in records), rates, losses, smooth, smoothing=0.0)

"""The multi-power law as a tuner: a sweep, a law of it, and the schedules that are best under the law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.multi_power_law.fit import MIN_RUNS, as_setting, curves_of, fit_law, held_out_error
from planners.multi_power_law.planner import MultiPowerLaw
from planners.schedules import WSD
from planners.tuning.coarse_to_fine import CoarseToFine, Slot
from planners.tuning.tuners import final_val_loss

_PEAKS = (1.0, 0.7, 1.4)
"""Peaks that are tried under a law, as multiples of that of the best run; then their roots, which are nearer to it."""

_NEAR = 1.1
"""A law is fitted to runs that ended at most by this factor above the best."""


@dataclass(frozen=True)
class MultiPowerLawTuner(CoarseToFine):
    """The procedure of `CoarseToFine` for WSD schedules, in which a law takes the place of the finer search.

    A law is fitted to the runs that ended near the best, for one law does not describe rates that are far too low and
    far too high. It says nothing of rates that are too high: the peak is that of the best run, or near it. Schedules
    that are best under the law are made, the best of all runs again on further seeds, and one of them is selected: it
    is of WSD where no schedule under a law was better.

    Attributes:
        name: name of the tuner.
        planner: the planner whose runs laws are fitted to.
    """

    name: str = MultiPowerLaw.name

    reads_curves: ClassVar[bool] = True

    def check(self, runs: Sequence[int]) -> None:
        """Check that a law can be fitted to each of these numbers of runs.

        Raises:
            UserError: it cannot.
        """
        if min(runs) < MIN_RUNS + 1:
            raise UserError(f"{min(runs)} runs of tuner {self.name!r}: a law needs at least {MIN_RUNS + 1}")

    def tell(self, task: Task, seed: int, records: Sequence[RunRecord]) -> str:
        """How far a law forecasts the ends of runs that it was not fitted to, of those near the best."""
        near = _near_the_best(records)
        if len(near) < 2 * MIN_RUNS:
            return f"{len(near)} runs near the best are too few to hold some out of a law"
        error = held_out_error(curves_of(near, task.budget), seed)
        return f"laws of {len(near)} runs near the best forecast held-out ends to {100 * error:.2f} % of the loss"

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The best schedule, as a planner of this name also where it is one of WSD."""
        best = super().select(task, seed, records, folder)
        return MultiPowerLaw(best.peak, warmup=best.warmup, cooldown=best.cooldown) if isinstance(best, WSD) else best

    def _refined(
        self, task: Task, seed: int, records: Sequence[RunRecord], first: Slot, count: int
    ) -> Sequence[Planner]:
        """The best schedules under a law of the runs so far, at several peaks; a finer search if too many diverged."""
        if sum(not run.diverged for run in records) < MIN_RUNS:
            return super()._refined(task, seed, records, first, count)
        return _under_a_law(task, seed, records, count)


def _under_a_law(task: Task, seed: int, records: Sequence[RunRecord], count: int) -> list[MultiPowerLaw]:
    """The best schedules under a law of the runs near the best, at peaks around that of the best run."""
    near = _near_the_best(records)
    law, best = fit_law(curves_of(near, task.budget), seed), near[0]
    peak, warmup = max(best.curves["lr"]), float(best.settings.get("warmup", 0.1))
    return [
        MultiPowerLaw(
            peak=float(
                np.clip(_PEAKS[number % len(_PEAKS)] ** (1 / (1 + number // len(_PEAKS))) * peak, *task.lr_range)
            ),
            law=as_setting(law),
            unit=law.unit,
            warmup=warmup,
        )
        for number in range(count)
    ]


def _near_the_best(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that a law is fitted to, the best first."""
    finished = sorted((run for run in records if not run.diverged), key=final_val_loss)
    near = sum(final_val_loss(run) <= _NEAR * final_val_loss(finished[0]) for run in finished)
    return finished[: max(MIN_RUNS, near)]

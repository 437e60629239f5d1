"""What the runs of a tuner are worth without its model: the best of them, and the mean of the best three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lr_env.capabilities import OwnOptimizer
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, settings_key
from lr_env.tasks import Task
from planners.parameter_groups import GroupSchedule
from planners.piecewise import knots_at
from planners.tuning.tuners import final_val_loss, planner_of

AVERAGED = 3
"""Schedules whose mean is taken."""

_KNOTS = 25
"""Knots of the mean."""


def sweep_controls(
    selected: Planner, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
) -> Mapping[str, Planner]:
    """Return the schedule of the best run, and the mean, in log rate, of the three best ones.

    They follow from the same runs as what the tuner selects, and so at the same cost. Where all runs diverged there are
    none. Rates of an optimizer of its own, or of groups of parameters, have no mean that could be played as a schedule.
    """
    best: dict[tuple[str, str], RunRecord] = {}
    for run in sorted((run for run in records if not run.diverged), key=final_val_loss):
        best.setdefault((run.planner, settings_key(run.settings)), run)
    if not best:
        return {}
    runs = list(best.values())[:AVERAGED]
    planners = [planner_of(run) for run in runs]
    controls: dict[str, Planner] = {"best run of {tuner}": planners[0]}
    if not any(isinstance(planner, OwnOptimizer | GroupSchedule) for planner in planners):
        rates = np.array([_at_knots(run) for run in runs])
        controls[f"mean of the best {AVERAGED} runs of {{tuner}}"] = knots_at(np.exp(np.log(rates).mean(0)))
    return controls


def _at_knots(run: RunRecord) -> np.ndarray:
    """The rates of a run at evenly spaced segments, from the first to the last."""
    rates = np.log(np.asarray(run.curves["lr"], dtype=np.float64))
    return np.exp(np.interp(np.linspace(0, len(rates) - 1, _KNOTS), np.arange(len(rates)), rates))

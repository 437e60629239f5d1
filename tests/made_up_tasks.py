"""Tasks with known dynamics, for models across tasks: a loss that decays with the sum of rates, and noise of rates.

The rate that a task takes follows from its batch size, and from something that its description does not say.
"""

from __future__ import annotations

import numpy as np

from planners.transfer.collecting import SCHEDULES
from planners.transfer.runs import TaskRuns
from planners.tuning.search_space import Point, schedule_at, sobol

SEGMENTS = 40
CLASSES = 10
BATCH_SIZES = (4, 8, 16, 32, 64, 128)
RANGE = (0.02, 4.0)


def facts_of(batch_size: int) -> dict[str, object]:
    """What is known of a task."""
    return {
        "optimizer": "SGD",
        "momentum": 0.0,
        "batch_size": batch_size,
        "budget": 400,
        "train_size": 1000,
        "classes": CLASSES,
        "label_noise": 0.0,
    }


def critical_rate(batch_size: int, hidden: float) -> float:
    """The rate above which a task diverges."""
    return 0.2 * (batch_size / 16) ** 0.6 * float(np.exp(hidden))


def losses_of(rates: np.ndarray, critical: float) -> np.ndarray:
    """Validation loss at the end of each segment, of rates (..., segments); infinite from where a run diverges."""
    share = rates / critical
    with np.errstate(over="ignore"):
        excess = np.exp(-np.cumsum(share, -1) * 12 / SEGMENTS)
    diverged = np.maximum.accumulate(share > 1.6, -1)
    return np.where(diverged, np.inf, np.log(CLASSES) * (0.05 + 0.95 * excess + 0.25 * np.minimum(share, 2.0)))


def made_up_task(number: int, runs: int = 16, hidden_deviation: float = 0.3) -> tuple[TaskRuns, float]:
    """A task with runs, and its critical rate."""
    draw = np.random.default_rng([77, number])
    batch_size = int(draw.choice(BATCH_SIZES))
    critical = critical_rate(batch_size, hidden_deviation * draw.standard_normal())
    planners = [
        schedule_at(SCHEDULES[place % len(SCHEDULES)], Point(*point), RANGE)
        for place, point in enumerate(sobol(runs, 3, number).tolist())
    ]
    rates = np.stack([planner.preview(SEGMENTS) for planner in planners]) if runs else np.empty((0, SEGMENTS))
    return with_runs(f"made-up-{number}", batch_size, critical, rates), critical


def with_runs(name: str, batch_size: int, critical: float, rates: np.ndarray) -> TaskRuns:
    """A task with runs at some rates, (runs, segments)."""
    losses = losses_of(rates, critical)
    ends = losses[:, -1]
    finite = np.where(np.isfinite(losses), losses, np.nan)
    return TaskRuns.of(name, facts_of(batch_size), None, float(np.log(CLASSES)), rates, finite, ends, [0] * len(rates))

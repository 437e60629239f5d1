"""Which seeds are used for what, so that no run is chosen by seeds that it is judged on."""

from __future__ import annotations

COMPARISON = range(1_000_000)
"""Seeds of final runs, which people choose."""

TUNING = range(1_000_000, 2_000_000)
"""Seeds of the sweeps of comparisons."""

SWEEPS = range(2_000_000, 3_000_000)
"""Seeds of the sweeps that models are fitted to: `PER_SWEEP` for each seed of a sweep."""

PER_SWEEP = 1_000

TUNERS = range(3_000_000, 4_000_000)
"""Seeds of the runs of tuners: `PER_REPEAT` for each repeat of a procedure."""

PER_REPEAT = 10_000

CONDITIONS = range(4_000_000, 5_000_000)
"""Seeds of the runs by which a schedule is tuned for a condition."""

COLLECTIONS = range(5_000_000, 6_000_000)
"""Seeds of the runs that forecasters are fitted to; see `planners.forecaster.collecting`."""

POLICY_EVALUATION = SWEEPS[:PER_SWEEP]
"""Seeds of the runs by which the policies of a training are compared. They are those of the sweep with seed 0, as in
trainings that were begun before; nothing is judged on either."""

POLICY_TRAINING = range(1_000_000_000, 2**63)
"""Seeds of the children that a policy learns from: `PER_POLICY` for each seed of a training."""

PER_POLICY = 1_000_000

TASK_SPLITS = {
    "train": range(1_000_000),
    "val": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "shifted": range(3_000_000, 4_000_000),
}
"""Split of a task family -> seeds of its tasks. They choose tasks, not runs: they are never the seeds of children."""

DISJOINT = (COMPARISON, TUNING, SWEEPS, TUNERS, CONDITIONS, COLLECTIONS, POLICY_TRAINING)
"""Ranges of which no two share a seed."""

"""The scores of planners that ran on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.record import RunRecord, settings_key
from lr_env.stats import intervals as st


def runs_by_planner(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Group the final runs of a comparison by planner; checks that they can be compared.

    Args:
        records: finished runs of phase "final", every planner with one setting and on the same seeds.

    Returns:
        Planner -> its runs in the order of the seeds.

    Raises:
        UserError: when the runs are not comparable, naming the first reason found.
    """
    if not records:
        raise UserError("there are no records to summarise; run the comparison first")
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        where = f"the run of planner {record.planner!r} on seed {record.seed}"
        if record.phase != "final":
            raise UserError(f'{where} is of phase {record.phase!r}; only runs of phase "final" are compared')
        if record.status != "finished":
            raise UserError(f"{where} is not finished; let the comparison run to its end")
        runs.setdefault(record.planner, []).append(record)
    seeds = {planner: sorted(r.seed for r in of) for planner, of in runs.items()}
    first = next(iter(runs))
    for planner, of in runs.items():
        if len(set(seeds[planner])) < len(of):
            raise UserError(f"planner {planner!r} has two final runs on one seed; keep one of them")
        if seeds[planner] != seeds[first]:
            differ = sorted(set(seeds[planner]) ^ set(seeds[first]))
            raise UserError(
                f"planners {first!r} and {planner!r} ran on different seeds (not shared: {differ[:5]}); "
                "planners are compared on the same seeds, so run what is missing"
            )
        if len({settings_key(r.settings) for r in of}) > 1:
            raise UserError(f"planner {planner!r} has final runs with different settings; keep one setting")
        of.sort(key=lambda r: r.seed)
    return runs


def run_scores(runs: Sequence[RunRecord], name: str) -> NDArray[np.float64]:
    """One score of a planner's runs, (n,); the worst possible one for a diverged run.

    Raises:
        UserError: when a run that did not diverge has no such score.
    """
    values = []
    for run in runs:
        value = float(run.scores.get(name, np.nan))
        if run.diverged and name.endswith("loss"):
            value = np.inf
        elif run.diverged and not np.isfinite(value):
            value = 0.0
        elif not np.isfinite(value):
            raise UserError(
                f"the run of planner {run.planner!r} on seed {run.seed} has no finite {name} "
                "but is not marked as diverged; run it again"
            )
        values.append(value)
    return np.array(values)


def run_steps_to_target(run: RunRecord, target: float) -> float:
    """Optimizer steps of a run until its validation loss is at the target; infinity for never.

    Raises:
        UserError: when the run has no curves.
    """
    if not {"step", "val_loss"} <= run.curves.keys():
        raise UserError(
            f"the run of planner {run.planner!r} on seed {run.seed} has no curves to find the target in; "
            "read the records with their curves, or set no target"
        )
    return st.steps_to_target(run.curves["step"], run.curves["val_loss"], target)

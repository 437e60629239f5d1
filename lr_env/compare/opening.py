"""How studies with tuning rounds of their own open an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lr_env.children import Backend
from lr_env.compare.experiment import Experiment, start_over
from lr_env.compare.job import versions
from lr_env.compare.training import Training
from lr_env.records.store import Store
from lr_env.tasks import Task


def opened(
    store: Store,
    name: str,
    task: Task,
    training: Training,
    what: Mapping[str, Any],
    *,
    at_once: int,
    runs: int,
    checkpoint_seconds: float = 60.0,
    fresh: bool = False,
) -> Experiment:
    """The experiment of that name, begun or gone on with; the caller holds its lock.

    Args:
        store: where the records are kept.
        name: of the experiment.
        task: what is trained. Its target is left out of what must stay the same: nothing here depends on it.
        training: how children are trained.
        what: else that the results depend on, JSON-able.
        at_once: runs that may be in lockstep at most.
        runs: that are to come.
        checkpoint_seconds: wall time between checkpoints.
        fresh: forget what was done under this name before.

    Raises:
        UserError: it was begun otherwise.
    """
    known = None if fresh else store.experiment(name)
    settled = training.settled(task, known, at_once, runs * task.budget)
    spec = {
        "task": {**task.settings(), "target_val_loss": None},
        **what,
        "device": training.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "training": settled,
    }
    if fresh:  # once it is known to be possible
        start_over(store, name)
    return Experiment(
        store,
        name,
        task,
        spec,
        device=training.device,
        backend=Backend(**settled["backend"]),
        lockstep=settled["lockstep"],
        numerics=training.numerics,
        checkpoint_seconds=checkpoint_seconds,
    )

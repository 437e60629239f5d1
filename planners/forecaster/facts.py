"""What a forecaster knows of a task besides its curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from lr_env.tasks import Task
from lr_env.tasks.architecture import of_task
from planners.forecaster.description import RunDescription
from planners.forecaster.from_runs import ARCHITECTURE, CLASSES


def facts(task: Task) -> dict[str, Any]:
    """What the config of a run says of its task: settings of the optimizer, sizes, and the architecture.

    >>> from lr_env import TASKS
    >>> about = facts(TASKS["DigitsMLP"])
    >>> about["optimizer"], about["momentum"], about["batch_size"], about["classes"]
    ('SGD', 0.9, 16, 10)
    """
    optimizer: dict[str, Any] = {
        name: value for name, value in vars(task.optimizer).items() if isinstance(value, bool | int | float)
    }
    betas = getattr(task.optimizer, "betas", None)
    if betas is not None:
        optimizer |= {"beta1": float(betas[0]), "beta2": float(betas[1])}
    return {
        **optimizer,
        "optimizer": type(task.optimizer).__name__,
        "batch_size": task.batch_size,
        "budget": task.budget,
        "train_size": task.train_size,
        "label_noise": task.label_noise,
        CLASSES: task.source.num_classes,
        ARCHITECTURE: json.dumps(of_task(task).to_json(), separators=(",", ":")),
    }


def describe(
    task: Task, lr: ArrayLike | None = None, steps: Sequence[float] = (), values: Sequence[float] = ()
) -> RunDescription:
    """Describe a run of a task to a forecaster.

    Args:
        task: what is trained.
        lr: see `RunDescription`.
        steps: optimizer steps at which the metric was measured.
        values: the metric.
    """
    known = facts(task)
    settings = {name: value for name, value in known.items() if name not in (ARCHITECTURE, CLASSES, "budget")}
    return RunDescription(task.budget, lr, settings, of_task(task), known[CLASSES], steps, values)

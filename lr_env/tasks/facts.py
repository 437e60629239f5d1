"""What is known of a task before its first run, besides its network."""

from __future__ import annotations

from typing import Any

from lr_env.facts import CLASSES, of_betas
from lr_env.tasks.catalogue import Task


def facts(task: Task) -> dict[str, Any]:
    """Return settings of the optimizer, and sizes: what planners read in `RunSpec.facts`.

    >>> from lr_env.tasks import TASKS
    >>> about = facts(TASKS["DigitsMLP"])
    >>> about["optimizer"], about["momentum"], about["batch_size"], about["classes"]
    ('SGD', 0.9, 16, 10)
    """
    settings: dict[str, Any] = {
        name: value for name, value in vars(task.optimizer).items() if isinstance(value, bool | int | float)
    }
    return {
        **settings,
        **of_betas(getattr(task.optimizer, "betas", None)),
        "optimizer": type(task.optimizer).__name__,
        "batch_size": task.batch_size,
        "budget": task.budget,
        "train_size": task.train_size,
        "label_noise": task.label_noise,
        CLASSES: task.source.num_classes,
    }

"""What is known of a task before its first run, besides its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lr_env.tasks.catalogue import Task

CLASSES = "classes"
"""Name of the fact how many classes there are."""


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


def facts_of_optimizer(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a torch optimizer tells: its class, and the settings of its first parameter group.

    >>> import torch
    >>> one = torch.optim.AdamW([torch.zeros(1)], betas=(0.9, 0.99))
    >>> sorted(facts_of_optimizer("AdamW", one.param_groups[0]).items())
    [('beta1', 0.9), ('beta2', 0.99), ('optimizer', 'AdamW'), ('weight_decay', 0.01)]
    """
    known = {
        key: value
        for key in ("momentum", "nesterov", "weight_decay")
        if isinstance(value := settings.get(key), bool | int | float)
    }
    return {**known, **of_betas(settings.get("betas")), "optimizer": name}


def of_betas(betas: Any) -> dict[str, float]:
    """Return both betas of Adam under their own names; nothing where there are none."""
    return {} if betas is None else {"beta1": float(betas[0]), "beta2": float(betas[1])}

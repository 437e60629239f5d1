"""Facts that planners may know of a training: their names, and those that an optimizer tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES = "classes"
"""Name of the fact how many classes there are."""


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

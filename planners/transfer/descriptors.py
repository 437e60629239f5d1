"""What is known of a task before its first run, as numbers that a model reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lr_env.architecture.graph import Architecture
from lr_env.errors import UserError

OPTIMIZERS = {"SGD": 1.0, "Adam": 0.01, "AdamW": 0.01}
"""Name of an optimizer's class -> the rate that counts as 1 for it, of SGD without momentum."""

_NO_DECAY = 1e-6
"""A weight decay of 0, and any below, counts as this one: its logarithm is read."""

NUMBERS = (
    "log_batch_size",
    "log_budget",
    "log_train_size",
    "log_passes",
    "log_classes",
    "label_noise",
    "adaptive",
    "nesterov",
    "log_friction",
    "log_beta1_gap",
    "log_beta2_gap",
    "log_weight_decay",
    "decoupled_decay",
)
"""Names of the numbers that do not depend on the network."""

IN_WORDS = {"friction": "1 - momentum", "beta1 gap": "1 - beta1", "beta2 gap": "1 - beta2"}
"""What some of them are, without the logarithm."""


def rate_unit(facts: Mapping[str, Any]) -> float:
    """Return the rate that counts as 1: for SGD 1 - momentum, because a gradient moves weights by the rate over that.

    >>> rate_unit({"optimizer": "SGD", "momentum": 0.75}), rate_unit({"optimizer": "AdamW"})
    (0.25, 0.01)

    Raises:
        UserError: the optimizer is unknown, or none that models are fitted to.
    """
    optimizer = facts.get("optimizer")
    if optimizer not in OPTIMIZERS:
        raise UserError(
            f"optimizer {optimizer!r}: models across tasks know {', '.join(OPTIMIZERS)}; fit a model of this task with "
            "`lr-env fit`"
        )
    return OPTIMIZERS[optimizer] * (_friction(facts) if optimizer == "SGD" else 1.0)


def numbers(facts: Mapping[str, Any], architecture: Architecture | None) -> dict[str, float]:
    """Describe a task: `NUMBERS`, and the summary of its network; NaN where something is not known.

    Args:
        facts: what the configuration of a run says, with the names of `planners.forecaster.facts`.
        architecture: the network's.
    """
    known = {name: float(value) for name, value in facts.items() if isinstance(value, bool | int | float)}
    adaptive = float(facts.get("optimizer") != "SGD")
    batch, budget, train = (known.get(name, math.nan) for name in ("batch_size", "budget", "train_size"))
    values = {
        "log_batch_size": _log(batch),
        "log_budget": _log(budget),
        "log_train_size": _log(train),
        "log_passes": _log(batch * budget / train),
        "log_classes": _log(known.get("classes", math.nan)),
        "label_noise": known.get("label_noise", math.nan),
        "adaptive": adaptive,
        "nesterov": known.get("nesterov", 0.0),
        "log_friction": 0.0 if adaptive else _log(_friction(facts)),
        "log_beta1_gap": _log(1 - known.get("beta1", 0.9)) if adaptive else math.log(0.1),
        "log_beta2_gap": _log(1 - known.get("beta2", 0.999)) if adaptive else math.log(0.01),
        "log_weight_decay": _log(max(known.get("weight_decay", 0.0), _NO_DECAY)),
        "decoupled_decay": float(facts.get("optimizer") == "AdamW"),
    }
    return values | (
        {} if architecture is None else {f"network_{name}": value for name, value in architecture.summary().items()}
    )


def _friction(facts: Mapping[str, Any]) -> float:
    return max(1.0 - float(facts.get("momentum") or 0.0), 1e-3)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan

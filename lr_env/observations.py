"""What an agent sees: named features of the signals, finite and bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = 1e-12


@dataclass(frozen=True)
class Feature:
    """One number of an observation.

    Attributes:
        name: of the feature.
        unit: of its value.
        low, high: bounds; values beyond are clipped to them.
        description: what it is.
        compute: from the signals, each (num_envs,), to (num_envs,).
    """

    name: str
    unit: str
    low: float
    high: float
    description: str
    compute: Callable[[Mapping[str, Floats]], Floats]


def _log(signal: str) -> Callable[[Mapping[str, Floats]], Floats]:
    return lambda signals: np.log(np.maximum(signals[signal], _TINY))


def _raw(signal: str) -> Callable[[Mapping[str, Floats]], Floats]:
    return lambda signals: signals[signal]


FEATURES: tuple[Feature, ...] = (
    Feature(
        "log_train_loss",
        "log nats/example",
        -28.0,
        10.0,
        "log of the mean training loss over the last segment (at reset: of the first batch, before training)",
        _log("train_loss"),
    ),
    Feature(
        "log_val_loss",
        "log nats/example",
        -28.0,
        10.0,
        "log of the loss on the validation subset",
        _log("val_loss"),
    ),
    Feature("val_accuracy", "fraction", 0.0, 1.0, "accuracy on the validation subset", _raw("val_accuracy")),
    Feature("log_lr", "log of the rate", -28.0, 10.0, "log of the learning rate of the last step", _log("lr")),
    Feature("progress", "fraction", 0.0, 1.0, "optimizer steps done over the budget", _raw("progress")),
    Feature(
        "log_prediction_variance",
        "log logit^2",
        -28.0,
        28.0,
        "log of the variance of the logits over the examples and classes of the validation subset (1909.09712)",
        _log("prediction_variance"),
    ),
    Feature(
        "log_prediction_change",
        "log logit^2",
        -28.0,
        28.0,
        "log of the variance of the logits' change over the last segment, example by example (1909.09712)",
        _log("prediction_change"),
    ),
    Feature(
        "output_weight_mean",
        "weight",
        -10.0,
        10.0,
        "mean of the output layer's weights",
        _raw("output_weight_mean"),
    ),
    Feature(
        "log_output_weight_variance",
        "log weight^2",
        -28.0,
        28.0,
        "log of the variance of the output layer's weights",
        _log("output_weight_variance"),
    ),
)
"""The features, in the order of the observation vector."""

_LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
_HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)


def space() -> spaces.Box:
    """The space of one environment's observation."""
    return spaces.Box(_LOW, _HIGH, dtype=np.float32)


def observe(signals: Mapping[str, Floats]) -> NDArray[np.float32]:
    """Observations (num_envs, len(FEATURES)) from signals, each (num_envs,); what is not finite goes to a bound."""
    columns = np.stack([feature.compute(signals) for feature in FEATURES], axis=1)
    return np.clip(np.nan_to_num(columns, nan=np.inf, posinf=np.inf), _LOW, _HIGH).astype(np.float32)

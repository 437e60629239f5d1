"""What an agent sees: named features of the signals, finite and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TINY = 1e-12


@dataclass(frozen=True)
class Feature:
    """One number of an observation: a signal, or the natural log of one.

    Attributes:
        name: of the feature; "log_<signal>" for a log.
        unit: of its value.
        low, high: bounds; values beyond are clipped to them.
        description: what it is.
    """

    name: str
    unit: str
    low: float
    high: float
    description: str

    @property
    def is_log(self) -> bool:
        """Whether it is the log of its signal."""
        return self.name.startswith("log_")

    @property
    def signal(self) -> str:
        """Name of the signal."""
        return self.name.removeprefix("log_")


FEATURES: tuple[Feature, ...] = (
    Feature(
        "log_train_loss",
        "log nats/example",
        -28.0,
        10.0,
        "log of the mean training loss over the last segment (at reset: of the first batch, before training)",
    ),
    Feature("log_val_loss", "log nats/example", -28.0, 10.0, "log of the loss on the validation subset"),
    Feature("val_accuracy", "fraction", 0.0, 1.0, "accuracy on the validation subset"),
    Feature("log_lr", "log of the rate", -28.0, 10.0, "log of the learning rate of the last step"),
    Feature("progress", "fraction", 0.0, 1.0, "optimizer steps done over the budget"),
    Feature(
        "log_prediction_variance",
        "log logit^2",
        -28.0,
        28.0,
        "log of the variance of the logits over the examples and classes of the validation subset (1909.09712)",
    ),
    Feature(
        "log_prediction_change",
        "log logit^2",
        -28.0,
        28.0,
        "log of the variance of the logits' change over the last segment, example by example (1909.09712)",
    ),
    Feature("output_weight_mean", "weight", -10.0, 10.0, "mean of the output layer's weights"),
    Feature(
        "log_output_weight_variance", "log weight^2", -28.0, 28.0, "log of the variance of the output layer's weights"
    ),
)
"""The features, in the order of the observation vector."""

_LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
_HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)


def space() -> spaces.Box:
    """The space of one environment's observation."""
    return spaces.Box(_LOW, _HIGH, dtype=np.float32)


_SIGNALS = tuple(feature.signal for feature in FEATURES)
_LOGS = np.array([feature.is_log for feature in FEATURES])


def observe(signals: Mapping[str, Floats]) -> NDArray[np.float32]:
    """Observations (num_envs, len(FEATURES)) from signals, each (num_envs,); what is not finite goes to a bound."""
    columns = np.array([signals[name] for name in _SIGNALS])
    columns[_LOGS] = np.log(np.maximum(columns[_LOGS], _TINY))
    # fmin and fmax pass over NaN.
    return np.fmax(np.fmin(columns.T, _HIGH), _LOW).astype(np.float32)

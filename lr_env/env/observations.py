"""Observations: named features of the signals, finite and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lr_env.signals import SIGNALS, Signal

Floats = NDArray[np.float64]

_TINY = 1e-12


@dataclass(frozen=True)
class Feature:
    """One number of an observation: a signal, or its natural log.

    Attributes:
        source: the signal.
        low, high: bounds; values beyond are clipped to them.
        is_log: whether it is the log of the signal.
    """

    source: Signal
    low: float
    high: float
    is_log: bool = False

    @property
    def signal(self) -> str:
        """Name of the signal."""
        return self.source.name

    @property
    def name(self) -> str:
        """Name of the feature; "log_<signal>" for a log."""
        return f"log_{self.signal}" if self.is_log else self.signal

    @property
    def unit(self) -> str:
        """Unit of its value."""
        return f"log {self.source.unit}" if self.is_log else self.source.unit

    @property
    def description(self) -> str:
        """What it is."""
        return f"log of the {self.source.description}" if self.is_log else self.source.description


_SIGNALS = {signal.name: signal for signal in SIGNALS}

FEATURES: tuple[Feature, ...] = (
    Feature(_SIGNALS["train_loss"], -28.0, 10.0, is_log=True),
    Feature(_SIGNALS["val_loss"], -28.0, 10.0, is_log=True),
    Feature(_SIGNALS["val_accuracy"], 0.0, 1.0),
    Feature(_SIGNALS["lr"], -28.0, 10.0, is_log=True),
    Feature(_SIGNALS["progress"], 0.0, 1.0),
    Feature(_SIGNALS["prediction_variance"], -28.0, 28.0, is_log=True),
    Feature(_SIGNALS["prediction_change"], -28.0, 28.0, is_log=True),
    Feature(_SIGNALS["output_weight_mean"], -10.0, 10.0),
    Feature(_SIGNALS["output_weight_variance"], -28.0, 28.0, is_log=True),
)
"""The features of an observation, in order."""

_LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
_HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)


def space() -> spaces.Box:
    """The space of one environment's observation."""
    return spaces.Box(_LOW, _HIGH, dtype=np.float32)


_COLUMNS = tuple(feature.signal for feature in FEATURES)
_LOGS = np.array([feature.is_log for feature in FEATURES])


def observe(signals: Mapping[str, Floats]) -> NDArray[np.float32]:
    """Make observations (num_envs, len(FEATURES)) from signals, each (num_envs,); NaN and infinity become a bound."""
    columns = np.array([signals[name] for name in _COLUMNS])
    columns[_LOGS] = np.log(np.maximum(columns[_LOGS], _TINY))
    # fmin and fmax pass over NaN.
    return np.fmax(np.fmin(columns.T, _HIGH), _LOW).astype(np.float32)

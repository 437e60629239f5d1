"""What is known of runs besides their curves, as numbers that a model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lr_env.errors import UserError
from planners.forecaster.curves import CurveSet, Floats

_WIDE = 30.0
"""A setting whose positive values span at least this ratio is read as its logarithm."""

_SPREADS = ("sd_", "network_sd_")
"""How names of standard deviations begin."""

_LIMIT = 4.0
"""Largest scaled value that a model reads, in standard deviations: it cannot know what lies far beyond."""


@dataclass(frozen=True)
class Scaler:
    """How columns of numbers are scaled, by the mean and deviation of those that were fitted to.

    Attributes:
        names: of the columns.
        logs: whether the logarithm of each is taken.
        means: of each, after that, (columns,).
        deviations: of each, (columns,).
        lows: smallest value of each, (columns,), to tell what lies beyond.
        highs: largest value of each.
    """

    names: tuple[str, ...]
    logs: tuple[bool, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]

    @classmethod
    def of(cls, columns: Mapping[str, Floats]) -> Scaler:
        """Scale the columns that vary, or that are known of some of the runs only."""
        kept = []
        for name, values in columns.items():
            known = values[np.isfinite(values)]
            if not len(known) or (np.ptp(known) == 0 and len(known) == len(values)):
                continue
            positive = known[known > 0]
            log = bool(len(positive) and known.min() >= 0 and positive.max() / positive.min() >= _WIDE)
            scaled = _logarithm(known, positive.min()) if log else known
            floor = float(positive.min()) if log else float(known.min())
            kept.append((name, log, float(scaled.mean()), float(max(scaled.std(), 1e-6)), floor, float(known.max())))
        return cls(*(tuple(of) for of in zip(*kept, strict=True)) if kept else ((),) * 6)

    def __call__(self, columns: Mapping[str, Floats], count: int) -> tuple[Floats, Floats]:
        """Scaled columns, 0 where unknown, and 1 where known; (rows, columns) each."""
        values = np.full((count, len(self.names)), np.nan)
        for place, name in enumerate(self.names):
            if name in columns:
                column = np.asarray(columns[name], np.float64)
                raw = _logarithm(column, self.lows[place]) if self.logs[place] else column
                values[:, place] = (raw - self.means[place]) / self.deviations[place]
        known = np.isfinite(values)
        return np.clip(np.where(known, values, 0.0), -_LIMIT, _LIMIT), known.astype(np.float64)

    def beyond(self, columns: Mapping[str, Floats], slack: float = 0.0) -> list[str]:
        """Say which columns of the first row lie outside of what was fitted to, e.g. "peak rate 3 (0.001 to 0.5)".

        Args:
            columns: name -> values.
            slack: how far outside does not matter, as a share of what was fitted to.
        """
        found = []
        for name, low, high in zip(self.names, self.lows, self.highs, strict=True):
            value = float(columns[name][0]) if name in columns else np.nan
            near = slack * (high - low) + 1e-6 * max(abs(low), abs(high))
            if np.isfinite(value) and not low - near <= value <= high + near and not (value == 0 and low > 0):
                found.append(_in_words(name, value, low, high))
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {name: list(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, saved: Mapping[str, Sequence[Any]]) -> Scaler:
        """What `to_json` gave."""
        return cls(**{name: tuple(saved[name]) for name in cls.__dataclass_fields__})


def _logarithm(values: Floats, smallest: float) -> Floats:
    """Logarithms; zeros and what is smaller than anything known count as half of the smallest value above 0."""
    return np.log(np.maximum(values, smallest / 2))


def rate_settings(curves: CurveSet) -> dict[str, Floats]:
    """The settings, and the peak and the mean of the rate, (curves,) each; NaN where it is not known."""
    settings = dict(curves.settings)
    known = np.isfinite(curves.rates)
    any_known = known.any(1)
    rates = np.where(known, curves.rates, 0.0)
    settings["peak_rate"] = np.where(any_known, rates.max(1), np.nan)
    settings["mean_rate"] = np.where(any_known, rates.sum(1) / np.maximum(known.sum(1), 1), np.nan)
    if "momentum" in settings:
        settings["effective_rate"] = settings["peak_rate"] / (1 - np.minimum(settings["momentum"], 0.9999))
    settings.pop("learning_rate", None)  # which the peak is
    return settings


def summaries(curves: CurveSet) -> dict[str, Floats]:
    """The summary of each run's architecture: name -> (curves,), NaN where it is not known."""
    if not curves.architectures:
        return {}
    tables = [graph.summary() for graph in curves.architectures]
    return {name: np.append([table[name] for table in tables], np.nan)[curves.network] for name in tables[0]}


def parse_settings(texts: Sequence[str]) -> dict[str, float | str]:
    """Settings that were given as NAME=VALUE; numbers where they are numbers.

    >>> parse_settings(["batch_size=64", "optimizer=SGD"])
    {'batch_size': 64.0, 'optimizer': 'SGD'}

    Raises:
        UserError: one is not of that form.
    """
    settings: dict[str, float | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"setting {text!r}: give NAME=VALUE, e.g. batch_size=64")
        settings[name] = setting_value(value)
    return settings


def setting_value(text: str) -> float | str:
    """A number, if the text is one, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _in_words(name: str, value: float, low: float, high: float) -> str:
    """A number and its range; of a logarithm what it is the logarithm of."""
    if "log_" in name and not name.startswith(_SPREADS):
        name, value, low, high = name.replace("log_", "", 1), *np.exp([value, low, high]).tolist()
    return f"{name.replace('_', ' ')} {value:.4g} ({low:.4g} to {high:.4g})"

"""Which of the metrics that a training loop logs are the signals that planners read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lr_env.records.readers.names import NAMES, rank


class Metrics:
    """Finds signals among logged metrics, by the names that trackers commonly write, or by names that are given.

    A signal keeps the first name that it was found under, so that of several evaluation sets one counts throughout.

    >>> Metrics().signals({"eval_g0_loss": 1.5, "eval_g1_loss": 2.5, "eval_runtime": 3.0})
    {'val_loss': 1.5}

    Args:
        names: signal -> its name among the metrics, e.g. {"val_loss": "eval_g1_loss"}.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._given = dict(names or {})
        self._names: dict[str, str] = {}

    def signals(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return signal -> value, of those that are among the metrics."""
        for signal, patterns in NAMES.items():
            if signal not in self._given and signal not in self._names:
                ranked = [(at, name) for name in metrics if (at := rank(name, patterns)) is not None]
                if ranked:
                    self._names[signal] = min(ranked, key=lambda pair: pair[0])[1]
        names = {**self._names, **self._given}
        return {signal: metrics[name] for signal, name in names.items() if name in metrics}

"""The signals that the models of training read and predict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHANNELS: tuple[str, ...] = ("train_loss", "val_loss", "val_accuracy")
"""Names of the signals. Models see the natural log of losses, and accuracy as it is."""

LOSS = CHANNELS.index("val_loss")
"""Index of the channel by which plans are judged."""

TRAIN = CHANNELS.index("train_loss")


def channel(name: str, values: Floats) -> Floats:
    """Convert a signal to what models see: the log of a loss; NaN where it is missing or has no finite log."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.log(values) if name.endswith("loss") else values
    return np.where(np.isfinite(values), values, np.nan)

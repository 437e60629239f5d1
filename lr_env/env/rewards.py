"""Rewards of an agent, all from validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Reward = Callable[[Floats, Floats, Floats], Floats]
"""Function of (validation loss before the segment, loss after it, final loss on the whole validation split) -> reward.

Each is (num_envs,), in nats per example, and finite; only the final loss of runs that have not ended is NaN.
"""

_TINY = 1e-12


def improvement(before: Floats, after: Floats, final: Floats) -> Floats:
    """Return the decrease of the log validation loss in the segment; a run adds up to log(first) - log(last)."""
    return np.log(np.maximum(before, _TINY)) - np.log(np.maximum(after, _TINY))


def neg_val_loss(before: Floats, after: Floats, final: Floats) -> Floats:
    """Return minus the validation loss after the segment (arXiv 1909.09712)."""
    return -after


def final(before: Floats, after: Floats, final: Floats) -> Floats:
    """Return minus the loss on the whole validation split at the end of the run, and 0 before."""
    return np.where(np.isnan(final), 0.0, -np.nan_to_num(final))


REWARDS: Mapping[str, Reward] = {"improvement": improvement, "neg_val_loss": neg_val_loss, "final": final}

"""What an agent is paid: always from validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import unknown

Floats = NDArray[np.float64]
Reward = Callable[[Floats, Floats, Floats], Floats]
"""(validation loss before the segment, after it, final loss on the whole validation split or NaN) -> reward.

Each (num_envs,), nats per example, finite but for the NaN of runs that go on.
"""

_TINY = 1e-12


def improvement(before: Floats, after: Floats, final: Floats) -> Floats:
    """Drop of the log validation loss over the segment; over a run it adds up to log(first) - log(last)."""
    return np.log(np.maximum(before, _TINY)) - np.log(np.maximum(after, _TINY))


def neg_val_loss(before: Floats, after: Floats, final: Floats) -> Floats:
    """Minus the validation loss after the segment (arXiv 1909.09712)."""
    return -after


def final(before: Floats, after: Floats, final: Floats) -> Floats:
    """Minus the loss on the whole validation split at the end of the run; 0 before."""
    return np.where(np.isnan(final), 0.0, -np.nan_to_num(final))


REWARDS: Mapping[str, Reward] = {"improvement": improvement, "neg_val_loss": neg_val_loss, "final": final}


def find_reward(name: str) -> Reward:
    """The reward of that name.

    Raises:
        UserError: there is none.
    """
    try:
        return REWARDS[name]
    except KeyError:
        raise unknown("reward", name, REWARDS) from None

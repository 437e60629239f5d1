"""Checks of learning rates and their range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

Floats = NDArray[np.float64]

_ROUNDING = 1e-6
"""Share of a bound by which a computed rate may miss it: a few rounding errors of float32."""

_SAME = 1e-3
"""Relative difference between the rate that was asked for and the one that was used that is taken for rounding."""


def numbers(values: Any, what: str) -> Floats:
    """Return values as float64.

    Raises:
        UserError: they are not finite numbers; `what` names them in the message.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what} {values!r} is not a number") from None
    if not np.isfinite(array).all():
        raise UserError(f"{what} {array[~np.isfinite(array)][0]} is not finite")
    return array


def clipped(values: Any, low: float, high: float) -> tuple[Floats, Floats]:
    """Clip values that miss a bound of a range only by rounding errors.

    Errors of float32 are tolerated: in a bound that was rounded itself, and, if the values are float32, in computations
    on the scale of the range, like those of Gymnasium's `RescaleAction`.

    >>> clipped([0.1, 0.5, 1.0000001, 2.0], 0.1, 1.0)
    (array([0.1, 0.5, 1. , 2. ]), array([2.]))

    Args:
        values: finite values of any shape.
        low: lowest value of the range.
        high: highest value of the range.

    Returns:
        The values as float64, and those that are outside the range, (number,), which are not clipped.
    """
    raw = np.asarray(values)
    array = raw.astype(np.float64)
    single = raw.dtype in (np.float32, np.float16)
    range_error = 4 * float(np.finfo(np.float32).eps) * (high - low) if single else 0.0
    lowest = low - max(_ROUNDING * abs(low), range_error)
    highest = high + max(_ROUNDING * abs(high), range_error)
    within = (array >= lowest) & (array <= highest)  # false for NaN
    return np.where(within, np.clip(array, low, high), array), array[~within]


def actuation_factor(used: Any, asked: Any) -> Floats:
    """The factor by which rates were changed before they were used, (runs,); exactly 1 if only by rounding.

    Args:
        used: rates that runs were trained with, (runs,).
        asked: rates that were asked for, (runs,).
    """
    factor = np.asarray(used, dtype=np.float64) / asked
    changed = np.isfinite(factor) & (np.abs(factor - 1) > _SAME) & (factor > 0)
    return np.where(changed, factor, 1.0)

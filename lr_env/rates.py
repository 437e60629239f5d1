"""Learning rates and the range that they must lie in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

Floats = NDArray[np.float64]

_ROUNDING = 1e-6
"""Share of a bound by which what is computed may miss it: a few roundings of float32."""


def numbers(values: Any, what: str) -> Floats:
    """Values as float64.

    Raises:
        UserError: they are no finite numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what} {values!r} is not a number") from None
    if not np.isfinite(array).all():
        raise UserError(f"{what} {array[~np.isfinite(array)][0]} is not finite")
    return array


def clipped(values: Any, low: float, high: float) -> tuple[Floats, Floats]:
    """Values in a range, of which those that miss a bound by rounding alone are put at it.

    What float32 rounds is believed to be meant: a bound that was rounded itself; and, of values that are float32, what
    was computed on the scale of the range, as Gymnasium's `RescaleAction` does.

    Args:
        values: of any shape, finite.
        low: lowest of the range.
        high: highest of the range.

    Returns:
        The values as float64, and those that are out of the range, (number,), which stay as they are.
    """
    given = np.asarray(values)
    array = given.astype(np.float64)
    single = given.dtype in (np.float32, np.float16)
    of_range = 4 * float(np.finfo(np.float32).eps) * (high - low) if single else 0.0
    lowest = low - max(_ROUNDING * abs(low), of_range)
    highest = high + max(_ROUNDING * abs(high), of_range)
    within = (array >= lowest) & (array <= highest)  # false for NaN
    return np.where(within, np.clip(array, low, high), array), array[~within]

"""Random draws that are the same on every machine and with every version of numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_STREAM = 0xFA111
"""Tells the draws of tasks from other uses of the same seed; it must never change."""


class Draws:
    """A sequence of random numbers that follows from a name and a seed.

    numpy guarantees the raw numbers of PCG64 (O'Neill, 2014), but not what `numpy.random.Generator` makes of them, so
    that is done here. Results are rounded to three digits, because the last bits of `exp` and `log` depend on the
    machine.

    >>> draws = Draws("MLPFamily", 17)
    >>> draws.log_whole((8, 128)), draws.log_uniform((1e-4, 1e-2)), draws.choice(("relu", "tanh"))
    (59, 0.00732, 'tanh')

    Args:
        name: name of what is drawn; other names have independent sequences.
        seed: whole number of at least 0.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._raw = np.random.PCG64([_STREAM, *name.encode(), seed])

    def share(self) -> float:
        """Draw a number in [0, 1)."""
        return (int(self._raw.random_raw()) >> 11) * 2.0**-53

    def chance(self, probability: float) -> bool:
        """Draw True with a probability."""
        return self.share() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of some options, each with the same probability."""
        return options[int(self.share() * len(options))]

    def whole(self, bounds: tuple[int, int]) -> int:
        """Draw a whole number, uniformly between two bounds (included)."""
        low, high = bounds
        return low + int(self.share() * (high - low + 1))

    def uniform(self, bounds: tuple[float, float]) -> float:
        """Draw a number, uniformly between two bounds."""
        low, high = bounds
        return rounded(low + self.share() * (high - low))

    def log_uniform(self, bounds: tuple[float, float]) -> float:
        """Draw a number whose log is uniform between the logs of two bounds, which are above 0."""
        low, high = bounds
        return rounded(low * math.exp(self.share() * math.log(high / low)))

    def log_whole(self, bounds: tuple[int, int]) -> int:
        """Draw a whole number whose log is about uniform between those of two bounds (included), which are above 0."""
        low, high = bounds
        drawn = (low - 0.5) * math.exp(self.share() * math.log((high + 0.5) / (low - 0.5)))
        return min(high, max(low, round(rounded(drawn, 6))))


def rounded(value: float, digits: int = 3) -> float:
    """Round to significant digits.

    >>> rounded(0.00123456)
    0.00123
    """
    return float(f"{value:.{digits}g}")

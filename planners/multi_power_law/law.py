"""The multi-power law: the loss at every moment of a run, from its learning rates (Luo et al. 2025, arXiv:2503.12811).

With the sums of rates S(t) up to t, and S_k(t) since the rate became eta_k,

    L(t) = L0 + A S(t)^-alpha - B sum_{k <= t} (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t)),   G(x) = 1 - (1 + C x)^-beta

(equations 1 to 3). The first terms are a power law in the sum of the rates; the last says how much each fall of the
rate has paid so far. The law is of what comes after a warm-up, of which only the sum of its rates counts.

Here time is counted in budgets (a whole run lasts 1) and rates in multiples of a unit, so that the seven numbers are
about 1 whatever the task.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_SMALLEST_RATE = 1e-12
"""Relative to the unit: a rate of 0 has no negative power."""


@dataclass(frozen=True)
class LawNumbers:
    """The seven numbers of a law, all above 0.

    Attributes:
        floor: L0, the loss that is never reached, nats per example.
        size: A, of the power law in the sum of rates.
        power: alpha, its exponent.
        annealing: B, of what a fall of the rate pays.
        speed: C, how soon it does.
        annealing_power: beta, its exponent.
        rate_power: gamma: how much longer that takes at lower rates.

    >>> LawNumbers.of((1.0, 2.0, 0.5, 0.4, 10.0, 0.6, 0.6)).size
    2.0
    """

    floor: float
    size: float
    power: float
    annealing: float
    speed: float
    annealing_power: float
    rate_power: float

    @classmethod
    def of(cls, numbers: tuple[float, ...]) -> Self:
        """Make a law of its numbers, in the order above."""
        return cls(*numbers)

    def losses(self, rates: Floats, durations: Floats, at: NDArray[np.int64] | None = None) -> Floats:
        """Losses at the ends of some stretches of constant rate.

        Args:
            rates: of each stretch, in multiples of the unit, (runs, stretches).
            durations: of the stretches, in budgets, (stretches,) or (runs, stretches).
            at: numbers of the stretches at whose ends losses are wanted, (points,); all by default.

        Returns:
            (runs, points), nats per example.
        """
        numbers, given, over = (torch.tensor(one, dtype=torch.float64) for one in (astuple(self), rates, durations))
        return losses(numbers, given, over, None if at is None else torch.tensor(at)).numpy()


def losses(numbers: Tensor, rates: Tensor, durations: Tensor, at: Tensor | None = None) -> Tensor:
    """The same with gradients.

    Args:
        numbers: of the law, (7,).
        rates: see `LawNumbers.losses`.
        durations: see `LawNumbers.losses`.
        at: see `LawNumbers.losses`.

    Returns:
        (runs, points).
    """
    floor, size, power, annealing, speed, annealing_power, rate_power = numbers.unbind()
    rates = rates.clamp(min=_SMALLEST_RATE)
    steps = (rates * durations).expand(rates.shape)
    sums = steps.cumsum(1)
    at = torch.arange(rates.shape[1]) if at is None else at
    falls, since = _falls(rates), sums[:, at, None] - (sums - steps)[:, None, :]
    begun = at[:, None] >= torch.arange(rates.shape[1])
    # Where a stretch has not begun, `since` is negative; 1 there keeps the powers and their gradients finite.
    scaled = rates[:, None, :] ** -rate_power * torch.where(begun, since, 1.0)
    paid = torch.where(begun, 1 - (1 + speed * scaled) ** -annealing_power, 0.0)
    return floor + size * sums[:, at] ** -power - annealing * (falls[:, None, :] * paid).sum(2)


def _falls(rates: Tensor) -> Tensor:
    """By how much the rate of each stretch is below that of the one before, (runs, stretches); 0 in the warm-up.

    The warm-up lasts until the rate is first at its highest.
    """
    falls = -torch.diff(rates, dim=1, prepend=rates[:, :1])
    top = rates.argmax(1, keepdim=True)
    return torch.where(torch.arange(rates.shape[1]) > top, falls, 0.0)

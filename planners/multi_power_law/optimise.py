"""Find the schedule that ends best under a multi-power law."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import minimize

from planners.multi_power_law.law import Floats, losses

_DEPARTURES = (0.0, 0.3, 0.6)
"""Share of the time after the warm-up in which a schedule that the search departs from stays at its peak."""

_ITERATIONS = 300


@lru_cache(maxsize=64)
def best_rates(numbers: tuple[float, ...], peak: float, warmup: int, segments: int, lowest: float) -> Floats:
    """The rates that a law says end best: a linear warm-up to the peak, then rates that never rise.

    The paper looks for them in the same way, by gradient steps on all rates at once (section 5). The falls of the rate
    are shares of a whole, of which the last is not used, so that no constraint is needed.

    Args:
        numbers: of the law.
        peak: the highest rate, in units of the law.
        warmup: segments of the warm-up.
        segments: of the whole run.
        lowest: the lowest rate, in units of the law.

    Returns:
        (segments,), in units of the law; read-only.
    """
    law = torch.tensor(numbers, dtype=torch.float64)
    rise = peak * (torch.arange(warmup, dtype=torch.float64) + 1) / warmup
    count = segments - warmup
    durations, last = torch.full((segments,), 1 / segments, dtype=torch.float64), torch.tensor([segments - 1])

    def rates(logits: torch.Tensor) -> torch.Tensor:
        falls = torch.softmax(logits, 0)[:-1].cumsum(0)
        return torch.cat([rise, peak - (peak - lowest) * falls])

    def loss_and_gradient(logits: Floats) -> tuple[float, Floats]:
        given = torch.tensor(logits, requires_grad=True)
        loss = losses(law, rates(given)[None], durations, last).sum()
        loss.backward()
        assert given.grad is not None
        return float(loss.detach()), given.grad.numpy()

    if count < 1:
        return _read_only(rise[:segments].numpy())
    found = [
        minimize(
            loss_and_gradient, _logits(count, share), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
        )
        for share in _DEPARTURES
    ]
    best = min(found, key=lambda one: one.fun)
    return _read_only(rates(torch.tensor(best.x)).numpy())


def _logits(count: int, share: float) -> Floats:
    """Of a schedule that is at its peak for a share of the time, and then falls to nearly the lowest rate."""
    falls = np.full(count + 1, 1e-4)
    falls[int(share * count) : count] = 1.0
    return np.log(falls / falls.sum())


def _read_only(values: Floats) -> Floats:
    values = values.copy()
    values.setflags(write=False)
    return values

"""Losses told as steps: how many a tuned schedule would have needed for the same loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.stats.intervals import Estimate
from lr_env.stats.two_way import Mean, exchange_rate

Floats = NDArray[np.float64]

SHARES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Budgets at which the schedule is run, as shares of that of the task."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """Losses of a tuner's schedules with fewer and with more steps.

    Attributes:
        label: of the tuner.
        shares: budgets over that of the task, rising, (shares,).
        losses: as they are reported, (shares, repeats, seeds); infinite where a run diverged.
    """

    label: str
    shares: Floats
    losses: Floats

    @property
    def means(self) -> Floats:
        """Mean loss at each budget, (shares,)."""
        return self.losses.mean((1, 2))

    def steps(self, difference: Mean) -> Estimate:
        """The share of the budget after which the schedule has a loss that differs by so much from its own.

        The interval is that of the difference. Both are between the smallest and the largest share that were measured:
        0 is "less than the smallest", infinity "more than the largest".
        """
        own = float(self.means[list(self.shares).index(1.0)])
        interval = difference.interval()
        at = [self._share(own + value) for value in (interval.value, interval.high, interval.low)]
        return Estimate(*at)

    def _share(self, loss: float) -> float:
        return np.nan if np.isnan(loss) else exchange_rate(self.means.tolist(), self.shares.tolist(), loss)

    def text(self, difference: Mean) -> str:
        """The same in percent of the budget, e.g. "121 % (104 to 140)"."""
        share = self.steps(difference)
        if not np.isfinite(share.value) or share.value == 0:
            return f"{self._percent(share.value)} %"
        return f"{self._percent(share.value)} % ({self._percent(share.low)} to {self._percent(share.high)})"

    def _percent(self, share: float) -> str:
        if np.isnan(share):
            return "?"
        if share == 0:
            return f"< {100 * self.shares[0]:.0f}"
        return f"> {100 * self.shares[-1]:.0f}" if np.isinf(share) else f"{100 * share:.0f}"

    def to_json(self) -> dict[str, Any]:
        """The budgets and the mean losses."""
        return {"tuner": self.label, "shares": self.shares.tolist(), "losses": self.means.tolist()}

"""The planner `multi-power-law`: the schedule that a fitted law of training curves says is best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from planners.schedule import Index, Schedule
from planners.schedules import WSD
from planners.settings import FRACTION, POSITIVE, Array, Rules, TuningVariants

LANGUAGE_MODEL = (3.138, 0.121, 0.4814, 0.1107, 595.1, 0.8335, 0.6999)
"""Our fit to nine runs of a language model with 25 M parameters that the paper's authors published. Their peak rate,
0.0003, is the unit, and 72,000 steps are the budget."""

_NUMBERS = 7

_PEAKS = 1e-6, 1e6
"""Range of peaks in units of a law, whose powers are finite numbers."""

_LOWEST = 1e-3
"""The lowest rate of a schedule, as a fraction of its peak: the law says little about lower ones."""


@dataclass(frozen=True)
class MultiPowerLaw(Schedule):
    """A warm-up, then the rates that end best under a law of seven numbers (Luo et al. 2025, arXiv:2503.12811).

    The law forecasts the loss of any schedule, see `planners.multi_power_law.law`. It is fitted to the runs of a sweep
    by the tuner of the same name, or to logs; by default it is that of language models of the paper. It knows nothing
    of rates that are too high, so that the peak is a setting, as in the paper.

    Attributes:
        law: its seven numbers, for time in budgets and rates in multiples of the unit.
        unit: the rate that counts as 1; the peak where it is None.
        warmup: length of the warm-up as a fraction of the budget.
        cooldown: length of the cool-down of a WSD schedule, which is played in place of what is best under the law: the
            tuner sets it where runs of a WSD schedule ended better. None: the law's.

    >>> MultiPowerLaw(peak=0.1).preview(5).shape
    (5,)
    """

    name = "multi-power-law"
    tuner: ClassVar[str] = "multi-power-law"
    rules: ClassVar[Rules] = {"warmup": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"warmup": 0.02})
    law: tuple[float, ...] = LANGUAGE_MODEL
    unit: float | None = None
    warmup: float = 0.1
    cooldown: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = self.law if isinstance(self.law, list | tuple) else ()
        law = tuple(float(POSITIVE.apply(self.name, "each number of law", number)) for number in numbers)
        if len(law) != _NUMBERS:
            raise UserError(f"planner {self.name!r}: law must be a list of seven numbers above 0, not {self.law!r}")
        self._set("law", law)  # JSON gives a list
        if self.unit is not None:
            self._set("unit", POSITIVE.apply(self.name, "unit", self.unit))
        if self.cooldown is not None:
            self._set("cooldown", FRACTION.apply(self.name, "cooldown", self.cooldown))
            if self.warmup + self.cooldown > 1:
                raise UserError(f"planner {self.name!r}: warmup + cooldown must be at most 1")

    def _at(self, k: Index, n: int) -> Array:
        if self.cooldown is not None:
            return WSD(self.peak, self.warmup, self.cooldown)._at(k, n)
        from planners.multi_power_law.optimise import best_rates  # which needs torch

        warmup = min(n, max(1, round(self.warmup * n)))
        peak = 1.0 if self.unit is None else float(np.clip(self.peak / self.unit, *_PEAKS))
        return np.minimum(1.0, best_rates(self.law, peak, warmup, n, _LOWEST * peak) / peak)

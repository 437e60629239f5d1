"""What all open-loop schedules share: checked settings, and a table of rates looked up by decision."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import RunSpec, Signals, State, require

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Shapes = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rule:
    """What a setting may be, as a test and in words."""

    test: Callable[[float], bool]
    words: str
    whole: bool = False

    def apply(self, planner: str, setting: str, value: Any) -> float | int:
        """The value as a plain Python number, or a UserError."""
        kinds = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        number = math.nan
        if isinstance(value, kinds) and not isinstance(value, bool):
            with suppress(OverflowError):  # an int beyond all floats
                number = float(value)
        if not self.test(number):
            raise UserError(f"planner {planner!r}: {setting} must be {self.words}, not {value!r}")
        return int(number) if self.whole else number


# Each test is false for nan.
POSITIVE = Rule(lambda v: 0 < v < math.inf, "a finite number above 0")
AT_LEAST_1 = Rule(lambda v: 1 <= v < math.inf, "a finite number of at least 1")
FRACTION = Rule(lambda v: 0 < v < 1, "a number above 0 and below 1")
COUNT = Rule(lambda v: 1 <= v <= 1000, "a whole number from 1 to 1000", whole=True)

Rules = Mapping[str, Rule]


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules share: the peak, checked settings, and a table of rates looked up by decision.

    Attributes:
        peak: the largest learning rate, in the optimizer's own unit.
    """

    peak: float

    name = ""  # these two without ClassVar, which would not match the properties of `Planner`
    needs = frozenset({"step"})
    rules: ClassVar[Rules] = {}
    """Setting -> what it may be, for those besides the peak."""
    shapes: ClassVar[Shapes] = ({},)
    """Settings besides the peak that a sweep goes through, one after the other along the grid of peaks."""

    def __post_init__(self) -> None:
        for setting, rule in {"peak": POSITIVE, **self.rules}.items():
            self.settle(setting, rule.apply(self.name, setting, getattr(self, setting)))

    def settle(self, setting: str, value: object) -> None:
        """Write the checked form of a setting, which a frozen dataclass allows only this way."""
        object.__setattr__(self, setting, value)

    @abstractmethod
    def _at(self, k: Index, n: int) -> Array:
        """f(k), in (0, 1], for all decisions k = 0 .. n-1 in order."""

    def factors(self, num_decisions: int) -> Array:
        """The rates of a whole run as fractions of the peak, (num_decisions,)."""
        if num_decisions < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment, not {num_decisions}")
        return self._at(np.arange(num_decisions), num_decisions)

    def preview(self, num_decisions: int) -> Array:
        """The learning rates of a whole run, (num_decisions,), without training anything.

        Raises:
            UserError: if there is no decision to make, or if a rate is too small to be told from 0.
        """
        rates = self.peak * self.factors(num_decisions)
        if not rates.min() > 0:
            raise UserError(
                f"planner {self.name!r}: the rate at decision {int(rates.argmin())} of {num_decisions} "
                f"underflows to 0; take a larger peak than {self.peak!r} or a slower decay"
            )
        return rates

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The table of rates, the same for every run: nothing here is random."""
        return {"rates": self.preview(run.num_segments), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run at its own decision, (num_runs,), and the unchanged state.

        Raises:
            UserError: if a run has no decision left.
        """
        require(self, signals)
        rates, segment, step = state["rates"], state["segment"], np.asarray(signals["step"])
        outside = ~((step >= 0) & (step < len(rates) * segment))
        if outside.any():
            raise UserError(
                f"planner {self.name!r}: no rate for step {step[outside][0]}, "
                f"the budget has steps 0 to {len(rates) * segment - 1}"
            )
        return rates[(step // segment).astype(np.int64)], state

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """One setting for each peak rate; the i-th takes the i-th of the family's shapes, cyclically."""
        return [cls(peak=rate, **cls.shapes[i % len(cls.shapes)]) for i, rate in enumerate(rates)]

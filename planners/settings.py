"""Settings that are checked, and what every planner that has a peak rate shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import RunSpec

Array = NDArray[np.float64]
TuningVariants = Sequence[Mapping[str, Any]]


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


class Switch:
    """A setting that is true or false, a rule as `Rule` is."""

    words = "true or false"

    def apply(self, planner: str, setting: str, value: Any) -> bool:
        """The value, or a UserError."""
        if not isinstance(value, bool):
            raise UserError(f"planner {planner!r}: {setting} must be {self.words}, not {value!r}")
        return value


SWITCH = Switch()

# Each test is false for nan.
POSITIVE = Rule(lambda v: 0 < v < math.inf, "a finite number above 0")
NOT_NEGATIVE = Rule(lambda v: 0 <= v < math.inf, "a finite number of at least 0")
AT_LEAST_1 = Rule(lambda v: 1 <= v < math.inf, "a finite number of at least 1")
FRACTION = Rule(lambda v: 0 < v < 1, "a number above 0 and below 1")
RATIO = Rule(lambda v: 0 < v <= 1, "a number above 0 and at most 1")
SHARE = Rule(lambda v: 0 <= v <= 1, "a number from 0 to 1")
COUNT = Rule(lambda v: 1 <= v <= 1000, "a whole number from 1 to 1000", whole=True)
NON_NEGATIVE_INT = Rule(lambda v: 0 <= v <= 1000, "a whole number from 0 to 1000", whole=True)

Rules = Mapping[str, Rule | Switch]


@dataclass(frozen=True)
class ValidatedSettings:
    """A planner with checked settings."""

    name = ""  # without ClassVar, which would not match the property of `Planner`
    rules: ClassVar[Rules] = {}
    """Setting -> what it may be; a subclass names those that it adds."""

    def __post_init__(self) -> None:
        for kind in reversed(type(self).__mro__):
            for setting, rule in vars(kind).get("rules", {}).items():
                self._set(setting, rule.apply(self.name, setting, getattr(self, setting)))

    def _set(self, setting: str, value: object) -> None:
        """Write the checked form of a setting, which a frozen dataclass allows only this way."""
        object.__setattr__(self, setting, value)


@dataclass(frozen=True)
class PeakRatePlanner(ValidatedSettings):
    """A planner with a peak rate.

    Attributes:
        peak: the largest rate of an open-loop planner, and where a closed-loop one starts; in the optimizer's own unit.
    """

    peak: float

    needs = frozenset({"step"})
    rules: ClassVar[Rules] = {"peak": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = ({},)
    """Settings besides the peak that a sweep goes through, one after the other along the grid of peaks."""

    def check_run(self, run: RunSpec) -> None:
        """See that a run has decisions to make, and accepts the peak.

        Raises:
            UserError: it does not.
        """
        low, high = run.lr_range
        if run.num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment")
        if not low <= self.peak <= high:
            raise UserError(
                f"planner {self.name!r}: the peak {self.peak:g} is outside the task's range, {low:g} to {high:g}"
            )

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """One setting for each peak rate; the i-th takes the i-th of the planner's shapes, cyclically."""
        return [cls(peak=rate, **cls.tuning_variants[i % len(cls.tuning_variants)]) for i, rate in enumerate(rates)]

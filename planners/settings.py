"""Checked settings, and the base class of planners with a peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import SettingRange
from lr_env.errors import UserError
from lr_env.planner import RunSpec

Array = NDArray[np.float64]
TuningVariants = Sequence[Mapping[str, Any]]
SearchRanges = Mapping[str, SettingRange]


@dataclass(frozen=True)
class Rule:
    """A check of a setting: its type (float, int or bool), a test, and words for the error message."""

    test: Callable[[float], bool]
    words: str
    type: type[float] | type[int] | type[bool] = float

    def apply(self, planner: str, setting: str, value: Any) -> float | int | bool:
        """Return the value as a plain Python number or bool.

        Raises:
            UserError: the value is of another type, or does not pass the test.
        """
        number = math.nan
        if isinstance(value, _ACCEPTED[self.type]) and isinstance(value, bool) == (self.type is bool):
            with suppress(OverflowError):  # an int beyond all floats
                number = float(value)
        if not self.test(number):
            raise UserError(f"planner {planner!r}: {setting} must be {self.words}, not {value!r}")
        return self.type(number)


_ACCEPTED = {float: (int, float, np.integer, np.floating), int: (int, np.integer), bool: (bool,)}

# Each test is false for nan.
SWITCH = Rule(lambda v: v in (0, 1), "true or false", bool)
POSITIVE = Rule(lambda v: 0 < v < math.inf, "a finite number above 0")
NOT_NEGATIVE = Rule(lambda v: 0 <= v < math.inf, "a finite number of at least 0")
AT_LEAST_1 = Rule(lambda v: 1 <= v < math.inf, "a finite number of at least 1")
FRACTION = Rule(lambda v: 0 < v < 1, "a number above 0 and below 1")
RATIO = Rule(lambda v: 0 < v <= 1, "a number above 0 and at most 1")
SHARE = Rule(lambda v: 0 <= v <= 1, "a number from 0 to 1")
COUNT = Rule(lambda v: 1 <= v <= 1000, "a whole number from 1 to 1000", int)
NON_NEGATIVE_INT = Rule(lambda v: 0 <= v <= 1000, "a whole number from 0 to 1000", int)

Rules = Mapping[str, Rule]


@dataclass(frozen=True)
class ValidatedSettings:
    """Base class of planners whose settings are checked when they are made."""

    name = ""  # without ClassVar, which would not match the property of `Planner`
    rules: ClassVar[Rules] = {}
    """Setting -> its check. A subclass lists the settings that it adds."""

    def __post_init__(self) -> None:
        for kind in reversed(type(self).__mro__):
            for setting, rule in vars(kind).get("rules", {}).items():
                self._set(setting, rule.apply(self.name, setting, getattr(self, setting)))

    def _set(self, setting: str, value: object) -> None:
        """Set a field of this frozen dataclass to its checked value."""
        object.__setattr__(self, setting, value)


@dataclass(frozen=True)
class PeakRatePlanner(ValidatedSettings):
    """Base class of planners with a peak rate.

    Attributes:
        peak: the largest rate of a schedule, or the initial rate of a planner that reacts to the run.
    """

    peak: float

    needs = frozenset({"step"})
    rules: ClassVar[Rules] = {"peak": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = ({},)
    """Other settings that a sweep tries: along the grid of peak rates they take turns."""

    def check_run(self, run: RunSpec) -> None:
        """Check that a run has a segment, and that its range of rates contains the peak.

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
        """Return one planner for each peak rate; the i-th has the i-th of `tuning_variants`, cyclically."""
        return [cls(peak=rate, **cls.tuning_variants[i % len(cls.tuning_variants)]) for i, rate in enumerate(rates)]

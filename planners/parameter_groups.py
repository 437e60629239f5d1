"""Schedules with a learning rate of its own for each layer or block of a network.

The groups of parameters are `RunSpec.groups`, from the input to the output. Each has the rate of a base schedule times
a factor of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lr_env.capabilities import SettingRange
from lr_env.errors import UserError
from lr_env.planner import RunSpec, Signals, State, require
from lr_env.registry import find_planner
from planners.schedule import current_segments
from planners.schedules import WSD
from planners.settings import FRACTION, RATIO, Array, PeakRatePlanner, Rules, SearchRanges, TuningVariants


@dataclass(frozen=True)
class GroupSchedule(PeakRatePlanner, ABC):
    """A base schedule times a factor for each group of parameters.

    Attributes:
        base: name of the base schedule.
        warmup: of a base schedule that has one, see `planners.schedules.WSD`.
        cooldown: likewise.
    """

    rules: ClassVar[Rules] = {"warmup": FRACTION, "cooldown": FRACTION}
    search_ranges: ClassVar[SearchRanges] = WSD.search_ranges
    base: str = "wsd"
    warmup: float = 0.1
    cooldown: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._schedule  # which refuses what is no schedule

    @abstractmethod
    def group_factors(self, groups: int, segments: int) -> Array:
        """The rate of each group as a fraction of the base schedule's, (groups, segments), in (0, 1]."""

    @cached_property
    def _schedule(self) -> Any:
        kind: Any = find_planner(self.base)
        names = {field.name for field in fields(kind)} if hasattr(kind, "factors") else set()
        if "peak" not in names:
            raise UserError(
                f"planner {self.name!r}: base {self.base!r} is no schedule: give one such as wsd, cosine or constant"
            )
        shared = {name: getattr(self, name) for name in ("warmup", "cooldown") if name in names}
        return kind(peak=self.peak, **shared)

    def preview(self, num_segments: int) -> Array:
        """The rate of each segment in the first group, which has the largest, (segments,)."""
        return self._schedule.preview(num_segments)

    def rates(self, run: RunSpec) -> Array:
        """The rate of each group and segment, (groups, segments), at least the lowest that the task accepts.

        Raises:
            UserError: the run has one rate for all parameters.
        """
        if not run.groups:
            raise UserError(
                f"planner {self.name!r} gives each layer a rate of its own, and this run has one rate for all: name "
                "the optimizer's parameter groups, from the input to the output"
            )
        rates = self.preview(run.num_segments) * self.group_factors(len(run.groups), run.num_segments)
        return np.maximum(rates, run.lr_range[0])

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the table of rates, which is the same for every run."""
        self.check_run(run)
        return {"rates": self.rates(run), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rates of each run for its next segment, (num_runs, groups, 1), and the unchanged state.

        Raises:
            UserError: a run has no segment left.
        """
        require(self, signals)
        rates = state["rates"]
        return rates[:, current_segments(self, signals, rates.shape[1], state["segment"])].T[:, :, None], state


@dataclass(frozen=True)
class LeRaC(GroupSchedule):
    """Learning Rate Curriculum: deep layers start slowly, and all have the same rate soon (Croitoru et al. 2022).

    At segment k < C group j has base(k) s_j^(1 - k/C), with s_j = max(factor^j, floor), j = 0 at the input; from
    segment C on all have base(k). This is equation (6) of arXiv:2205.09180, where rates rise exponentially from their
    first value to the base rate; the first values are those of its code: each deeper block a tenth of the one before.

    Attributes:
        curriculum: length of the curriculum as a fraction of the budget; C in segments, at least one.
        factor: first rate of a group / that of the group before.
        floor: smallest first rate / base rate.

    >>> LeRaC(peak=0.1, base="constant", curriculum=0.5).group_factors(3, 4).round(4)
    array([[1.    , 1.    , 1.    , 1.    ],
           [0.1   , 0.3162, 1.    , 1.    ],
           [0.01  , 0.1   , 1.    , 1.    ]])
    """

    name = "lerac"
    rules: ClassVar[Rules] = {"curriculum": FRACTION, "factor": RATIO, "floor": RATIO}
    tuning_variants: ClassVar[TuningVariants] = (
        {"cooldown": 0.2},
        {"cooldown": 0.5, "factor": 0.3},
        {"cooldown": 0.7, "curriculum": 0.05},
    )
    search_ranges: ClassVar[SearchRanges] = {
        **WSD.search_ranges,
        "curriculum": SettingRange(0.02, 0.2),
        "factor": SettingRange(0.1, 0.7, log=True),
    }
    curriculum: float = 0.1
    factor: float = 0.1
    floor: float = 1e-5

    def group_factors(self, groups: int, segments: int) -> Array:
        """The rate of each group as a fraction of the base schedule's, (groups, segments)."""
        first = np.maximum(self.factor ** np.arange(groups), self.floor)
        left = np.maximum(0.0, 1 - np.arange(segments) / max(1, round(self.curriculum * segments)))
        return first[:, None] ** left


@dataclass(frozen=True)
class LayerwiseDecay(GroupSchedule):
    """Layer-wise learning-rate decay: each layer a fixed factor below the next one (Howard & Ruder 2018).

    Group j of G has base(k) decay^(G - 1 - j): the head learns fastest. Origin: arXiv:1801.06146, with 1/2.6 for
    fine-tuning; about 0.65 to 0.9 became usual (Clark et al. 2020, arXiv:2003.10555).

    Attributes:
        decay: rate of a group / that of the group after it.

    >>> LayerwiseDecay(peak=0.1, base="constant", decay=0.5).group_factors(3, 1).ravel()
    array([0.25, 0.5 , 1.  ])
    """

    name = "layerwise-decay"
    rules: ClassVar[Rules] = {"decay": RATIO}
    tuning_variants: ClassVar[TuningVariants] = (
        {"cooldown": 0.2, "decay": 0.9},
        {"cooldown": 0.5, "decay": 0.65},
        {"cooldown": 0.7, "decay": 0.8},
    )
    search_ranges: ClassVar[SearchRanges] = {**WSD.search_ranges, "decay": SettingRange(0.4, 1.0)}
    decay: float = 0.8

    def group_factors(self, groups: int, segments: int) -> Array:
        """The rate of each group as a fraction of the base schedule's, (groups, segments)."""
        factors = np.array([self.decay**depth for depth in reversed(range(groups))], dtype=np.float64)
        return np.repeat(factors[:, None], segments, axis=1)


@dataclass(frozen=True)
class Discriminative(GroupSchedule):
    """Discriminative learning rates: the lowest at the input, then evenly in the logarithm up to the peak at the head.

    Group j of G has base(k) lowest^(1 - j/(G - 1)). It is fastai's `slice(low, high)`, and, unlike `layerwise-decay`,
    spans the same range of rates in a deep network as in a shallow one.

    Attributes:
        lowest: rate of the first group / that of the last.

    >>> Discriminative(peak=0.1, base="constant", lowest=0.01).group_factors(3, 1).ravel()
    array([0.01, 0.1 , 1.  ])
    """

    name = "discriminative"
    rules: ClassVar[Rules] = {"lowest": RATIO}
    tuning_variants: ClassVar[TuningVariants] = (
        {"cooldown": 0.2, "lowest": 0.5},
        {"cooldown": 0.5, "lowest": 0.1},
        {"cooldown": 0.7, "lowest": 0.3},
    )
    search_ranges: ClassVar[SearchRanges] = {**WSD.search_ranges, "lowest": SettingRange(0.05, 1.0, log=True)}
    lowest: float = 0.3

    def group_factors(self, groups: int, segments: int) -> Array:
        """The rate of each group as a fraction of the base schedule's, (groups, segments)."""
        share = np.arange(groups) / (groups - 1) if groups > 1 else np.ones(1)
        factors = np.array([self.lowest ** (1 - at) for at in share.tolist()], dtype=np.float64)
        return np.repeat(factors[:, None], segments, axis=1)

"""Open-loop schedules: the learning rate as a formula of time alone.

A run has n = `RunSpec.num_segments` segments, k = 0 .. n-1, each with one rate. A schedule is a dataclass of settings
and one pure function f(k) of k and n, the rate as a fraction of the peak. Lengths in the settings (of a warm-up, a
cool-down, a milestone) are fractions of the budget. They are rounded to the nearest number of segments, at least one.

No rate is ever 0: a decay "to 0" would reach 0 at segment n, one after the last, and a warm-up of W segments starts at
peak/W. The schedulers of `torch.optim.lr_scheduler` named below give the same rates, with one scheduler step a segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.capabilities import SettingRange
from lr_env.errors import UserError
from planners.schedule import Index, Schedule
from planners.settings import AT_LEAST_1, COUNT, FRACTION, POSITIVE, Array, Rules, SearchRanges, TuningVariants

_WARMUPS = SettingRange(0.02, 0.1)


def _whole_segments(fraction: float, n: int) -> int:
    """Round a fraction of n segments to whole segments: to the nearest, halves up, at least one."""
    return max(1, math.floor(fraction * n + 0.5))


def _warm_up(k: Index, length: int) -> Array:
    """Rise linearly from 1/length to 1 in `length` segments, then stay at 1. No segment has a rate of 0."""
    return np.minimum(1.0, (k + 1) / length)


def _half_cosine(u: Array) -> Array:
    """(1 + cos(pi u)) / 2, from 1 at u = 0 to 0 at u = 1, in a form that loses no digits near 0."""
    return np.cos(0.5 * np.pi * u) ** 2


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate in every segment: the baseline that other planners must beat.

    f(k) = 1. Torch: `ConstantLR(factor=1)`.

    >>> Constant(peak=0.1).preview(3)
    array([0.1, 0.1, 0.1])
    """

    name = "constant"
    search_ranges: ClassVar[SearchRanges] = {}

    def _at(self, k: Index, n: int) -> Array:
        return np.ones(n)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from the peak to 0, optimal in the worst convex case (Defazio et al. 2023).

    f(k) = 1 - k/n. Torch: `LinearLR(1, 0, n)`. Optimality: arXiv:2310.07831; the schedule is older.

    >>> Linear(peak=0.1).preview(5)
    array([0.1 , 0.08, 0.06, 0.04, 0.02])
    """

    name = "linear"
    search_ranges: ClassVar[SearchRanges] = {}

    def _at(self, k: Index, n: int) -> Array:
        return (n - k) / n


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak to 0 (Loshchilov & Hutter 2016, without restarts).

    f(k) = (1 + cos(pi k/n)) / 2. Torch: `CosineAnnealingLR(n)`. Origin: ICLR 2017, arXiv:1608.03983.

    >>> Cosine(peak=0.1).preview(5).round(4)
    array([0.1   , 0.0905, 0.0655, 0.0345, 0.0095])
    """

    name = "cosine"
    search_ranges: ClassVar[SearchRanges] = {}

    def _at(self, k: Index, n: int) -> Array:
        return _half_cosine(k / n)


@dataclass(frozen=True)
class CosineWarmup(Schedule):
    """A linear warm-up to the peak, then half a cosine to 0 (Goyal et al. 2017, Loshchilov & Hutter 2016).

    f(k) = (k+1)/W for k < W, else (1 + cos(pi (k-W)/(n-W))) / 2. Torch: `SequentialLR` of `LinearLR` from 1/W
    and `CosineAnnealingLR(n-W)`, switched at W. Origin: arXiv:1706.02677 (warm-up), 1608.03983 (cosine).

    Attributes:
        warmup: length of the warm-up as a fraction of the budget; W in segments.

    >>> CosineWarmup(peak=0.1, warmup=0.4).preview(5).round(4)
    array([0.05 , 0.1  , 0.1  , 0.075, 0.025])
    """

    name = "cosine-warmup"
    rules: ClassVar[Rules] = {"warmup": FRACTION}
    search_ranges: ClassVar[SearchRanges] = {"warmup": _WARMUPS}
    warmup: float = 0.1

    def _at(self, k: Index, n: int) -> Array:
        W = _whole_segments(self.warmup, n)
        return _warm_up(k, W) * _half_cosine(np.maximum(0, k - W) / max(1, n - W))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A rise to the peak and a long fall to far below the first rate, both half a cosine (Smith & Topin 2017).

    With the top at a = pct_start n - 1 (a real number), f rises from 1/div_factor at k = 0 to 1 at k = a, and falls to
    1/(div_factor final_div_factor) at k = n-1, the last segment. Torch: `OneCycleLR(total_steps=n)`, two phases. Unless
    a is whole, no segment has exactly the peak rate. If a < 0 (by default, n < 4) there is no time to rise, and the
    first segment is at the peak, unlike torch. Origin: arXiv:1708.07120; the cosines and the defaults are fastai's,
    which torch took over.

    Attributes:
        pct_start: fraction of the budget in which the rate rises (torch's name; not in percent).
        div_factor: peak / first rate.
        final_div_factor: first rate / last rate.

    >>> OneCycle(peak=0.1, pct_start=0.4).preview(5)
    array([4.00000e-03, 1.00000e-01, 7.50001e-02, 2.50003e-02, 4.00000e-07])
    """

    name = "one-cycle"
    rules: ClassVar[Rules] = {
        "pct_start": FRACTION,
        "div_factor": AT_LEAST_1,
        "final_div_factor": AT_LEAST_1,
    }
    search_ranges: ClassVar[SearchRanges] = {"pct_start": SettingRange(0.05, 0.45)}
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def _at(self, k: Index, n: int) -> Array:
        first = 1 / self.div_factor
        final = first / self.final_div_factor
        top = max(0.0, self.pct_start * n - 1)
        rise = _half_cosine(np.maximum(0, 1 - k / (top or 1)))
        fall = _half_cosine(np.maximum(0, k - top) / (n - 1 - top or 1))
        return np.where(k < top, first + (1 - first) * rise, final + (1 - final) * fall)


@dataclass(frozen=True)
class Step(Schedule):
    """Several equal stages with constant rates; each rate is the one before times a factor (Ge et al. 2019).

    f(k) = gamma^floor(k stages/n). Torch: `StepLR(n/stages, gamma)`. Origin: NeurIPS 2019, arXiv:1904.12838, a theory
    of an older practice.

    Attributes:
        stages: number of equal stages.
        gamma: rate of a stage / rate of the stage before.

    >>> Step(peak=0.1, stages=3, gamma=0.1).preview(6)
    array([0.1  , 0.1  , 0.01 , 0.01 , 0.001, 0.001])
    """

    name = "step"
    rules: ClassVar[Rules] = {"stages": COUNT, "gamma": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = (
        {"stages": 3, "gamma": 0.1},
        {"stages": 10, "gamma": 0.5},
        {"stages": 3, "gamma": 0.5},  # of arXiv:2509.23052
    )
    search_ranges: ClassVar[SearchRanges] = {"gamma": SettingRange(0.1, 0.5)}
    stages: int = 3
    gamma: float = 0.1

    def _at(self, k: Index, n: int) -> Array:
        return np.power(self.gamma, k * self.stages // n)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Drops of the rate at given times, by default to a tenth at 1/2 and at 3/4 of the budget (He et al. 2015).

    f(k) = gamma^(number of milestones m with k >= m). Torch: `MultiStepLR`. Origin of the milestones: ResNet on
    CIFAR-10, at 32k and 48k of 64k steps, arXiv:1512.03385.

    Attributes:
        milestones: times at which the rate drops, as increasing fractions of the budget.
        gamma: rate after a milestone / rate before.

    >>> MultiStep(peak=0.1).preview(4)
    array([0.1  , 0.1  , 0.01 , 0.001])
    """

    name = "multi-step"
    rules: ClassVar[Rules] = {"gamma": FRACTION}
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        milestones = self.milestones if isinstance(self.milestones, list | tuple) else ()
        fractions = tuple(FRACTION.apply(self.name, "each of milestones", m) for m in milestones)
        if not fractions or list(fractions) != sorted(set(fractions)):
            raise UserError(
                f"planner {self.name!r}: milestones must be a list of increasing fractions, not {self.milestones!r}"
            )
        self._set("milestones", fractions)  # JSON gives a list

    def _at(self, k: Index, n: int) -> Array:
        drops = np.array([_whole_segments(m, n) for m in self.milestones])
        return np.power(self.gamma, (k[:, None] >= drops).sum(axis=1))


@dataclass(frozen=True)
class Exponential(Schedule):
    """An exponential decay: the same relative drop at every segment, down to a given ratio (Senior et al. 2013).

    f(k) = final^(k/n). Torch: `ExponentialLR(final^(1/n))`. Origin: ICASSP 2013,
    "An empirical study of learning rates in deep neural networks for speech recognition".

    Attributes:
        final: rate at the end of the budget / peak.

    >>> Exponential(peak=0.1, final=0.01).preview(4).round(4)
    array([0.1   , 0.0316, 0.01  , 0.0032])
    """

    name = "exponential"
    rules: ClassVar[Rules] = {"final": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = ({"final": 0.1}, {"final": 0.01})
    search_ranges: ClassVar[SearchRanges] = {"final": SettingRange(0.001, 0.1, log=True)}
    final: float = 0.01

    def _at(self, k: Index, n: int) -> Array:
        return self.final ** (k / n)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of the remaining share of the budget ("poly", Chen et al. 2016).

    f(k) = (1 - k/n)^power. Torch: `PolynomialLR(n, power)`. Origin: made common, with 0.9, by DeepLab,
    arXiv:1606.00915.

    Attributes:
        power: above 1, the rate falls early and then slowly; below 1, it falls late; 1 is `Linear`.

    >>> Polynomial(peak=0.1, power=2.0).preview(5).round(4)
    array([0.1  , 0.064, 0.036, 0.016, 0.004])
    """

    name = "polynomial"
    rules: ClassVar[Rules] = {"power": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = ({"power": 2.0}, {"power": 0.5})
    search_ranges: ClassVar[SearchRanges] = {"power": SettingRange(0.5, 2.0)}
    power: float = 2.0

    def _at(self, k: Index, n: int) -> Array:
        return ((n - k) / n) ** self.power


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A linear warm-up, then a decay as 1/sqrt(time) that does not depend on the budget (Vaswani et al. 2017).

    f(k) = (k+1)/W for k < W, else sqrt(W/(k+1)). Origin: NeurIPS 2017, arXiv:1706.03762, where the peak is
    (d_model W)^(-1/2) and W = 4000 steps.

    Attributes:
        warmup: length of the warm-up as a fraction of the budget; W in segments.

    >>> InverseSqrt(peak=0.1, warmup=0.4).preview(5).round(4)
    array([0.05  , 0.1   , 0.0816, 0.0707, 0.0632])
    """

    name = "inverse-sqrt"
    rules: ClassVar[Rules] = {"warmup": FRACTION}
    search_ranges: ClassVar[SearchRanges] = {"warmup": _WARMUPS}
    warmup: float = 0.1

    def _at(self, k: Index, n: int) -> Array:
        W = _whole_segments(self.warmup, n)
        return np.minimum(_warm_up(k, W), np.sqrt(W / (k + 1)))


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay: a linear rise, a long time at the peak, a linear fall to 0 (MiniCPM, Hu et al. 2024).

    f(k) = (k+1)/W for k < W, 1 - (k-s)/D for the last D segments, k >= s = n-D, and 1 in between. Origin:
    arXiv:2404.06395, with an exponential cool-down; linear: Hägele et al. 2024, arXiv:2405.18392.

    Attributes:
        warmup: length of the warm-up as a fraction of the budget; W in segments.
        cooldown: length of the cool-down as a fraction of the budget; D in segments.

    >>> WSD(peak=0.1, warmup=0.4, cooldown=0.4).preview(5)
    array([0.05, 0.1 , 0.1 , 0.1 , 0.05])
    """

    name = "wsd"
    rules: ClassVar[Rules] = {"warmup": FRACTION, "cooldown": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = ({"cooldown": 0.2}, {"cooldown": 0.5}, {"cooldown": 0.7})
    search_ranges: ClassVar[SearchRanges] = {"cooldown": SettingRange(0.1, 0.9), "warmup": _WARMUPS}
    warmup: float = 0.1
    cooldown: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.cooldown > 1:
            raise UserError(
                f"planner {self.name!r}: warmup + cooldown must be at most 1, not {self.warmup!r} + {self.cooldown!r}"
            )

    def _at(self, k: Index, n: int) -> Array:
        W, D = _whole_segments(self.warmup, n), _whole_segments(self.cooldown, n)
        # Rounded up, W + D can be n + 1. The ramps then share one segment, where both are 1.
        return np.minimum(_warm_up(k, W), self._cool_down(np.maximum(0, k - (n - D)) / D))

    def _cool_down(self, u: Array) -> Array:
        """Return the factor, from 1 to 0, at u, the share of the cool-down that is over, from 0 to 1."""
        return 1 - u


@dataclass(frozen=True)
class WSDSqrt(WSD):
    """WSD with the 1-sqrt cool-down, which falls fast at first and slowly at the end (Hägele et al. 2024).

    As `WSD`, with 1 - sqrt((k-s)/D) in the last D segments. Origin: NeurIPS 2024, arXiv:2405.18392.

    >>> WSDSqrt(peak=0.1, warmup=0.2, cooldown=0.6).preview(5).round(4)
    array([0.1   , 0.1   , 0.1   , 0.0423, 0.0184])
    """

    name = "wsd-sqrt"

    def _cool_down(self, u: Array) -> Array:
        return 1 - np.sqrt(u)


@dataclass(frozen=True)
class PowerCool(WSD):
    """WSD whose cool-down is a power of the time left (Li et al. 2026).

    As `WSD`, with (1 - (k-s)/D)^power in the last D segments. Under the functional scaling law (arXiv:2509.19189) the
    best schedule of an easy task is such a fall over all of the run, and that of a hard task a long time at the peak
    and a short one; origin: arXiv:2602.06797. The power 1 is `wsd`; larger ones fall fast at first.

    Attributes:
        power: of the time left, 1 - u.

    >>> PowerCool(peak=0.1, warmup=0.2, cooldown=0.6, power=2.0).preview(5).round(4)
    array([0.1   , 0.1   , 0.1   , 0.0444, 0.0111])
    """

    name = "power-cool"
    rules: ClassVar[Rules] = {"power": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = (
        {"cooldown": 0.4, "power": 2.0},
        {"cooldown": 0.8, "power": 1.5},
        {"cooldown": 0.9, "power": 3.0},
    )
    search_ranges: ClassVar[SearchRanges] = {
        "cooldown": SettingRange(0.1, 0.9),
        "power": SettingRange(0.5, 3.0),
        "warmup": _WARMUPS,
    }
    power: float = 2.0

    def _cool_down(self, u: Array) -> Array:
        """Return the factor, from 1 to 0, at u, the share of the cool-down that is over, from 0 to 1."""
        return (1 - u) ** self.power


@dataclass(frozen=True)
class Knee(Schedule):
    """The peak rate for some time (explore), then a straight line to 0 (exploit) (Iyer et al. 2020).

    f(k) = 1 for k < E, else 1 - (k-E)/(n-E). The original has an optional warm-up, as `wsd` does. Torch: `SequentialLR`
    of `ConstantLR` and `LinearLR`. Origin: arXiv:2003.03977, which advises to explore for half of the budget.

    Attributes:
        explore: fraction of the budget spent at the peak; E in segments.

    >>> Knee(peak=0.1, explore=0.4).preview(5).round(4)
    array([0.1   , 0.1   , 0.1   , 0.0667, 0.0333])
    """

    name = "knee"
    rules: ClassVar[Rules] = {"explore": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"explore": 0.3}, {"explore": 0.7})
    search_ranges: ClassVar[SearchRanges] = {"explore": SettingRange(0.2, 0.8)}
    explore: float = 0.5

    def _at(self, k: Index, n: int) -> Array:
        E = _whole_segments(self.explore, n)
        return 1 - np.maximum(0, k - E) / max(1, n - E)


@dataclass(frozen=True)
class SGDR(Schedule):
    """Cosine decays with warm restarts, each twice as long as the last (Loshchilov & Hutter 2016).

    f(k) = (1 + cos(pi x)) / 2, with x in [0, 1) the share of the current cycle that is over at k. The first cycle lasts
    T = n/(2^cycles - 1) segments (a real number, at least 1), so that by default 1 + 2 + 4 = 7 parts fill the budget.
    Torch: `CosineAnnealingWarmRestarts(T, T_mult=2)`. Origin: ICLR 2017, arXiv:1608.03983.

    Attributes:
        cycles: number of cycles in the budget. If n < 2^cycles - 1 there are fewer, and the last is cut short.

    >>> SGDR(peak=0.1, cycles=2).preview(6).round(4)
    array([0.1   , 0.05  , 0.1   , 0.0854, 0.05  , 0.0146])
    """

    name = "sgdr"
    rules: ClassVar[Rules] = {"cycles": COUNT}
    cycles: int = 3

    def _at(self, k: Index, n: int) -> Array:
        parts = min(2**self.cycles - 1, n)
        time = k * parts / n  # in lengths of the first cycle: cycle c lasts from 2^c - 1 to 2^(c+1) - 1
        mantissa, _ = np.frexp(time + 1)  # time + 1 = mantissa 2^(c+1), 1/2 <= mantissa < 1, without rounding
        return _half_cosine(2 * mantissa - 1)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Triangles between a fraction of the peak and the peak (Smith 2015).

    f(k) = b + (1 - b)(1 - |2x - 1|), with b = base_ratio and x in [0, 1) the share of the current cycle that is over at
    k. Torch: `CyclicLR(step_size_up=n/(2 cycles))`. A cycle starts at the base and peaks half-way; a segment has the
    peak rate only if half a cycle is a whole number of segments. Origin: WACV 2017, arXiv:1506.01186.

    Attributes:
        base_ratio: smallest rate / peak.
        cycles: number of cycles in the budget; fewer if a cycle would be shorter than 2 segments.

    >>> Cyclic(peak=0.1, base_ratio=0.2, cycles=1).preview(4)
    array([0.02, 0.06, 0.1 , 0.06])
    """

    name = "cyclic"
    rules: ClassVar[Rules] = {"base_ratio": FRACTION, "cycles": COUNT}
    base_ratio: float = 0.25
    cycles: int = 3

    def _at(self, k: Index, n: int) -> Array:
        cycles = min(self.cycles, max(1, n // 2))
        x = k * cycles % n / n
        return self.base_ratio + (1 - self.base_ratio) * (1 - np.abs(2 * x - 1))

"""Schedules with random rates, and controls for them that their papers lack.

Random numbers follow from the seed of the run and the segment alone, so that a resumed run draws the same numbers, and
a run does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from lr_env.capabilities import fingerprint, pretraining_steps
from lr_env.errors import UserError, unknown
from lr_env.planner import Planner, RunSpec, Signals, State, require
from lr_env.registry import has_peak, in_default_set, make_planner
from planners.schedule import Index, Schedule, current_segments
from planners.schedules import Cosine
from planners.settings import NOT_NEGATIVE, RATIO, Array, PeakRatePlanner, Rules, TuningVariants

_PLRS, _SHUFFLE, _LEAP = 0x9125, 0x5F1E, 0x1EA9  # tell the draws of one seed apart
INTERVALS = ("step", "segment")


def entropy(stream: int, seed: int, index: int) -> list[int]:
    """Return the entropy of a run's generator at a segment, different for each stream, seed and segment.

    The upper half of the seed comes last, because numpy splits numbers into words of 32 bits and reads missing words as
    0: a seed of two words, followed by the segment, would equal a seed of one word at a later segment.
    """
    return [stream, seed % 2**32, index, seed // 2**32]


def draws(stream: int, seeds: Array | Sequence[int], index: int, count: int, normal: bool = False) -> Array:
    """Draw numbers for each run at a segment, uniform in [0, 1) or standard normal, (runs, count)."""
    generators = (np.random.default_rng(entropy(stream, int(seed), index)) for seed in seeds)
    return np.array([g.standard_normal(count) if normal else g.random(count) for g in generators])


@dataclass(frozen=True)
class PLRS(PeakRatePlanner):
    """A random rate at every step, uniform between a fraction of the peak and the peak (probabilistic LR scheduler).

    lr ~ U[low * peak, peak], independently and without decay. Origin: arXiv:2407.07613, with low between 0.33 and 0.9,
    and with the largest rate at which the loss still falls in a range test as the peak (see `lr-env range-test`). The
    paper draws a rate at every step; its code for ImageNet does so once an epoch.

    Attributes:
        low: smallest rate / peak.
        every: how long a rate is used: "step" or "segment".
    """

    name = "plrs"
    rules: ClassVar[Rules] = {"low": RATIO}
    tuning_variants: ClassVar[TuningVariants] = ({"low": 0.5}, {"low": 0.7}, {"low": 0.5, "every": "segment"})
    low: float = 0.7
    every: str = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every not in INTERVALS:
            raise unknown(f"planner {self.name!r}: interval", self.every, INTERVALS)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the seeds, and how the run is cut into segments.

        Raises:
            UserError: the interval of rates is not within the task's range.
        """
        self.check_run(run)
        if self.low * self.peak < run.lr_range[0]:
            raise UserError(
                f"planner {self.name!r}: its smallest rate {self.low * self.peak:g} is below the task's range, from "
                f"{run.lr_range[0]:g}"
            )
        seed_array = np.array(seeds, dtype=np.int64)
        return {"segment": run.segment, "num_segments": run.num_segments, "seeds": seed_array}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rates of each run, (num_runs, segment) or (num_runs,).

        Raises:
            UserError: a run has no segment left.
        """
        require(self, signals)
        segment = state["segment"]
        count = segment if self.every == "step" else 1
        now = current_segments(self, signals, state["num_segments"], segment).max()  # ended runs are behind
        drawn = self.draw(state["seeds"], int(now), count)
        return (drawn if self.every == "step" else drawn[:, 0]), state

    def draw(self, seeds: Array | Sequence[int], index: int, count: int) -> Array:
        """Draw the rates of a segment, (runs, count)."""
        return self.peak * (self.low + (1 - self.low) * draws(_PLRS, seeds, index, count))

    def preview(self, num_segments: int, seed: int = 0) -> Array:
        """Return the first rate of each segment of a run with that seed, (num_segments,)."""
        return np.array([self.draw([seed], k, 1)[0, 0] for k in range(num_segments)])


@dataclass(frozen=True)
class PLRSMidpoint(Schedule):
    """A control of PLRS: a constant rate at the mean of its interval, (1 + low) / 2 of the peak.

    It has the same sum of rates without the noise. arXiv:2407.07613 does not compare PLRS with it.

    Attributes:
        low: smallest rate of PLRS / its peak.
    """

    name = "plrs-midpoint"
    control_of = "plrs"
    rules: ClassVar[Rules] = {"low": RATIO}
    tuning_variants: ClassVar[TuningVariants] = ({"low": 0.5}, {"low": 0.7}, {"low": 0.5})
    low: float = 0.7

    @classmethod
    def matched(cls, planner: PLRS) -> Self:
        """Return the control with the settings of a tuned PLRS."""
        return cls(planner.peak, low=planner.low)

    def _at(self, k: Index, n: int) -> Array:
        return np.full(n, (1 + self.low) / 2)


@dataclass(frozen=True)
class ShuffledCosine(PeakRatePlanner):
    """A control of cosine: the same rates in random order, another order for each run.

    What cosine gains over this, it gains by the order of its rates.
    """

    name = "shuffled-cosine"
    control_of = "cosine"

    @classmethod
    def matched(cls, planner: Cosine) -> Self:
        """Return the control with the settings of a tuned cosine."""
        return cls(planner.peak)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the rates of each run, (num_runs, num_segments)."""
        self.check_run(run)
        return {"rates": np.stack([self.preview(run.num_segments, seed) for seed in seeds]), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rate of each run for its next segment, (num_runs,).

        Raises:
            UserError: a run has no segment left.
        """
        require(self, signals)
        rates = state["rates"]
        now = current_segments(self, signals, rates.shape[1], state["segment"])
        return rates[np.arange(len(rates)), now], state

    def preview(self, num_segments: int, seed: int = 0) -> Array:
        """Return the rates of a run with that seed, (num_segments,)."""
        rates = Cosine(self.peak).preview(num_segments)
        return np.random.default_rng([_SHUFFLE, int(seed)]).permutation(rates)


@dataclass(frozen=True)
class LEAP(PeakRatePlanner):
    """Another planner's rates with Gaussian noise at every step (learning-rate perturbation).

    lr_t = lr (1 + sigma h_t), h_t ~ N(0, 1), clipped to the task's range. Origin: arXiv:2208.11873, a plug-in for any
    schedule. Its noise is published as an idea only: here it is proportional to the rate, and one number for all
    parameters.

    Attributes:
        base: name of the other planner, which has the same peak and otherwise its defaults.
        sigma: standard deviation of the noise / rate.
    """

    name = "leap"
    rules: ClassVar[Rules] = {"sigma": NOT_NEGATIVE}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"sigma": 0.3})
    base: str = "cosine"
    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == self.name:
            raise UserError(f"planner {self.name!r}: base must be another planner")
        if not in_default_set(self.base):
            raise UserError(f"planner {self.name!r}: base must need neither forks nor an optimizer of its own")
        if not has_peak(self.base):
            raise UserError(f"planner {self.name!r}: base must have a peak rate, and {self.base} has none")
        self._set("needs", frozenset({"step"}) | self.inner.needs)

    @cached_property  # finding a planner reads the metadata of every installed package
    def inner(self) -> Planner:
        """The other planner."""
        return make_planner(self.base, {"peak": self.peak})

    @property
    def pretraining_steps(self) -> int:
        """Child steps that were spent on the other planner before any sweep."""
        return pretraining_steps(self.inner)

    @property
    def fingerprint(self) -> str | None:
        """Hash of the files that the other planner depends on."""
        return fingerprint(self.inner)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state of the other planner, with the seeds of the noise."""
        return {
            "seeds": np.array(seeds, dtype=np.int64),
            "segment": run.segment,
            "range": list(run.lr_range),
            "inner": self.inner.start(run, seeds),
        }

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rates of each run, (num_runs, segment)."""
        require(self, signals)
        lr, inner = self.inner.plan(state["inner"], signals)
        segment = state["segment"]
        now = int(np.max(signals["step"])) // segment  # ended runs are behind
        noise = draws(_LEAP, state["seeds"], now, segment, normal=True)
        rates = (lr[:, None] if lr.ndim == 1 else lr) * (1 + self.sigma * noise)
        return np.clip(rates, *state["range"]), {**state, "inner": inner}

"""Schedules that draw their rates, and the controls that their own papers lack.

What a run draws follows from its seed and the decision alone: nothing has to be kept, a resumed run draws the same, and
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
from planners.schedule import Index, Schedule, decisions_of
from planners.schedules import Cosine
from planners.settings import NOT_NEGATIVE, RATIO, Array, Peaked, Rules, Shapes

_PLRS, _SHUFFLE, _LEAP = 0x9125, 0x5F1E, 0x1EA9  # tell the draws of one seed apart
INTERVALS = ("step", "segment")


def origin(stream: int, seed: int, decision: int) -> list[int]:
    """What seeds the generator of a run at a decision, another for each.

    The upper half of a seed comes last: numpy cuts numbers into words of 32 bits and reads words that are missing as 0,
    so that a seed of two words before the decision would stand for a seed of one word at a later decision.
    """
    return [stream, seed % 2**32, decision, seed // 2**32]


def draws(stream: int, seeds: Array | Sequence[int], decision: int, count: int, normal: bool = False) -> Array:
    """Numbers that each run draws at a decision, uniform in [0, 1) or standard normal, (runs, count)."""
    generators = (np.random.default_rng(origin(stream, int(seed), decision)) for seed in seeds)
    return np.array([g.standard_normal(count) if normal else g.random(count) for g in generators])


@dataclass(frozen=True)
class PLRS(Peaked):
    """Rates drawn uniformly from an interval, anew at every step (probabilistic learning rate scheduler).

    lr ~ U[low * peak, peak], independently, without decay or horizon. Origin: arXiv:2407.07613, whose intervals have
    low between 0.33 and 0.9, and whose largest rate is the last one at which the loss still falls in a range test (see
    `lr-env range-test`). The paper draws at every step, its code for ImageNet once an epoch.

    Attributes:
        low: smallest rate over the largest.
        every: "step" or "segment": how long a draw holds.
    """

    name = "plrs"
    rules: ClassVar[Rules] = {"low": RATIO}
    shapes: ClassVar[Shapes] = ({"low": 0.5}, {"low": 0.7}, {"low": 0.5, "every": "segment"})
    low: float = 0.7
    every: str = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every not in INTERVALS:
            raise unknown(f"planner {self.name!r}: interval", self.every, INTERVALS)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The seeds, and how the run is cut.

        Raises:
            UserError: the interval is not within the task's range.
        """
        self.check_run(run)
        if self.low * self.peak < run.lr_range[0]:
            raise UserError(
                f"planner {self.name!r}: its smallest rate {self.low * self.peak:g} is below the task's range, from "
                f"{run.lr_range[0]:g}"
            )
        kept = {"segment": run.segment, "num_segments": run.num_segments}
        return {**kept, "seeds": np.array(seeds, dtype=np.int64)}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rates of each run, (num_runs, segment) or (num_runs,).

        Raises:
            UserError: if a run has no decision left.
        """
        require(self, signals)
        segment = state["segment"]
        count = segment if self.every == "step" else 1
        now = decisions_of(self, signals, state["num_segments"], segment).max()  # runs that have ended lag
        drawn = self.draw(state["seeds"], int(now), count)
        return (drawn if self.every == "step" else drawn[:, 0]), state

    def draw(self, seeds: Array | Sequence[int], decision: int, count: int) -> Array:
        """Rates of a decision, (runs, count)."""
        return self.peak * (self.low + (1 - self.low) * draws(_PLRS, seeds, decision, count))

    def preview(self, num_decisions: int, seed: int = 0) -> Array:
        """The first rate of each decision of a run of that seed, (num_decisions,)."""
        return np.array([self.draw([seed], k, 1)[0, 0] for k in range(num_decisions)])


@dataclass(frozen=True)
class PLRSMidpoint(Schedule):
    """The control of PLRS: a constant rate with the same mean, (1 + low) / 2 of the peak.

    It has the same sum of rates and none of the noise. No experiment of arXiv:2407.07613 holds it against PLRS.

    Attributes:
        low: smallest rate of PLRS over the largest.
    """

    name = "plrs-midpoint"
    control_of = "plrs"
    rules: ClassVar[Rules] = {"low": RATIO}
    shapes: ClassVar[Shapes] = ({"low": 0.5}, {"low": 0.7}, {"low": 0.5})
    low: float = 0.7

    @classmethod
    def matched(cls, planner: PLRS) -> Self:
        """The control of a PLRS as it was tuned."""
        return cls(planner.peak, low=planner.low)

    def _at(self, k: Index, n: int) -> Array:
        return np.full(n, (1 + self.low) / 2)


@dataclass(frozen=True)
class ShuffledCosine(Peaked):
    """The rates of half a cosine in an order drawn for each run: the same rates, and no schedule.

    A control of all decay: what a cosine gains over this, it gains by its order.
    """

    name = "shuffled-cosine"
    control_of = "cosine"

    @classmethod
    def matched(cls, planner: Cosine) -> Self:
        """The control of a cosine as it was tuned."""
        return cls(planner.peak)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The rates of each run, (num_runs, num_segments)."""
        self.check_run(run)
        return {"rates": np.stack([self.preview(run.num_segments, seed) for seed in seeds]), "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run at its own decision, (num_runs,).

        Raises:
            UserError: if a run has no decision left.
        """
        require(self, signals)
        rates = state["rates"]
        now = decisions_of(self, signals, rates.shape[1], state["segment"])
        return rates[np.arange(len(rates)), now], state

    def preview(self, num_decisions: int, seed: int = 0) -> Array:
        """The rates of a run of that seed, (num_decisions,)."""
        rates = Cosine(self.peak).preview(num_decisions)
        return np.random.default_rng([_SHUFFLE, int(seed)]).permutation(rates)


@dataclass(frozen=True)
class LEAP(Peaked):
    """Gaussian noise on the rates of any planner, at every step (learning-rate perturbation).

    lr_t = lr (1 + sigma h_t), h_t ~ N(0, 1), kept in the task's range. Origin: arXiv:2208.11873, a plug-in for any
    schedule. Of its noise only the idea is public: here it is proportional to the rate, and one number for all
    parameters.

    Attributes:
        base: name of the planner that is perturbed, which takes the peak and otherwise its own defaults.
        sigma: standard deviation of the noise over the rate.
    """

    name = "leap"
    rules: ClassVar[Rules] = {"sigma": NOT_NEGATIVE}
    shapes: ClassVar[Shapes] = ({}, {"sigma": 0.3})
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
        self.settle("needs", frozenset({"step"}) | self.inner.needs)

    @cached_property  # finding a planner reads the metadata of every installed package
    def inner(self) -> Planner:
        """The planner that is perturbed."""
        return make_planner(self.base, {"peak": self.peak})

    @property
    def pretraining_steps(self) -> int:
        """Child steps that were spent on that planner before any sweep."""
        return pretraining_steps(self.inner)

    @property
    def fingerprint(self) -> str | None:
        """Hash of the files that it depends on."""
        return fingerprint(self.inner)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state of the planner that is perturbed, and what the noise needs."""
        kept = {"seeds": np.array(seeds, dtype=np.int64), "segment": run.segment, "range": list(run.lr_range)}
        return {**kept, "inner": self.inner.start(run, seeds)}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rates of each run, (num_runs, segment)."""
        require(self, signals)
        lr, inner = self.inner.plan(state["inner"], signals)
        segment = state["segment"]
        noise = draws(_LEAP, state["seeds"], decision_of(signals, segment), segment, normal=True)
        rates = (lr[:, None] if lr.ndim == 1 else lr) * (1 + self.sigma * noise)
        return np.clip(rates, *state["range"]), {**state, "inner": inner}


def decision_of(signals: Signals, segment: int) -> int:
    """Number of the decision of the runs that go on, which are all at the same step; those that have ended lag."""
    return int(np.max(signals["step"])) // segment

"""Reactive planners: rules that change the rate by the losses so far, or along the hypergradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lr_env.errors import unknown
from lr_env.planner import RunSpec, Signals, State, require, step_after
from planners.settings import (
    COUNT,
    FRACTION,
    NON_NEGATIVE_INT,
    NOT_NEGATIVE,
    POSITIVE,
    Array,
    PeakRatePlanner,
    Rule,
    Rules,
    TuningVariants,
)

LOSSES = ("val_loss", "train_loss")
WINDOW = Rule(lambda v: 3 <= v <= 1000, "a whole number from 3 to 1000", int)


@dataclass(frozen=True)
class Reactive(PeakRatePlanner, ABC):
    """A planner that starts at its peak rate and changes the rate after each segment, by the signals at its end.

    A segment in which nothing was measured does not count.
    """

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Names of the signals that may be NaN where they were not measured."""
        return self.needs - {"step"}

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state before the first segment.

        Raises:
            UserError: the run has no segment, or the peak is outside the task's range.
        """
        self.check_run(run)
        common = {"lr": np.full(len(seeds), self.peak), "range": list(run.lr_range), "segment": run.segment}
        return {**common, **self.memory(len(seeds))}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """Return the rate of each run, (num_runs,)."""
        require(self, signals)
        state = {**state, "step": step_after(self, state, signals)}
        measured = any(np.isfinite(signals[name]).any() for name in self.needs - {"step"})
        if state["step"] > 0 and measured:  # before the first segment there is nothing to react to
            changed = self.react(state, signals)
            state = {**state, **changed, "lr": np.clip(changed["lr"], *state["range"])}
        return state["lr"].copy(), state

    def with_budget(self, state: State, run: RunSpec) -> State:
        """Return the state of runs whose budget has changed: the same, because the rules do not depend on time."""
        return state

    def memory(self, num_runs: int) -> dict[str, Any]:
        """Return the initial state of the rule, besides the rate."""
        return {}

    @abstractmethod
    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """Return the new "lr", (num_runs,), and the new state of the rule."""


@dataclass(frozen=True)
class Plateau(Reactive):
    """Lower the rate when the validation loss has not improved for some segments (reduce on plateau).

    The rule is `torch.optim.lr_scheduler.ReduceLROnPlateau(mode="min", threshold_mode="rel")`, with one scheduler step
    a segment. The author of the idea is not known.

    Attributes:
        factor: the rate is multiplied by this.
        patience: the rate is lowered after more than this number of segments in a row without improvement.
        threshold: a segment is an improvement if its loss is below (1 - threshold) times the best so far.
        cooldown: number of segments after each change that are not counted.
    """

    name = "plateau"
    needs = frozenset({"step", "val_loss"})
    rules: ClassVar[Rules] = {
        "factor": FRACTION,
        "patience": NON_NEGATIVE_INT,
        "threshold": NOT_NEGATIVE,
        "cooldown": NON_NEGATIVE_INT,
    }
    tuning_variants: ClassVar[TuningVariants] = ({}, {"factor": 0.5, "patience": 5}, {"factor": 0.5, "patience": 2})
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0

    def memory(self, num_runs: int) -> dict[str, Any]:
        """Return the best loss, the segments without improvement, and the segments left of the cool-down."""
        return {"best": np.full(num_runs, np.inf), "bad": np.zeros(num_runs), "rest": np.zeros(num_runs)}

    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """Count segments without improvement, and lower the rate where there are too many."""
        loss = np.asarray(signals["val_loss"])
        better = loss < state["best"] * (1 - self.threshold)
        bad = np.where(better | (state["rest"] > 0), 0, state["bad"] + 1)
        rest = np.maximum(state["rest"] - 1, 0)
        fall = bad > self.patience
        return {
            "lr": np.where(fall, state["lr"] * self.factor, state["lr"]),
            "best": np.where(better, loss, state["best"]),
            "bad": np.where(fall, 0, bad),
            "rest": np.where(fall, self.cooldown, rest),
        }


@dataclass(frozen=True)
class GreedyLR(Reactive):
    """Raise the rate while the loss keeps improving, and lower it while it does not.

    After more than `patience` segments in a row with an improvement, the rate is divided by `factor`. After more than
    `patience` segments in a row without one, it is multiplied by `factor`. Origin: arXiv:2512.14527. The rule is that
    of `transformers.optimization.GreedyLR` with a relative threshold, without its reset after a long time at the
    smallest rate.

    Attributes:
        factor: below 1; the rate is multiplied by it to fall, and divided by it to rise.
        patience: number of segments in a row with (or without) improvement after which one more changes the rate.
        threshold: a segment is an improvement if its loss is below (1 - threshold) times the best so far.
        window: number of last segments over which the loss is averaged; 1 does not average.
        loss: the loss that counts: "train_loss", as in the paper, or "val_loss".
    """

    name = "greedy-lr"
    rules: ClassVar[Rules] = {
        "factor": FRACTION,
        "patience": NON_NEGATIVE_INT,
        "threshold": NOT_NEGATIVE,
        "window": COUNT,
    }
    tuning_variants: ClassVar[TuningVariants] = (
        {},
        {"factor": 0.8, "patience": 2},
        {"loss": "val_loss", "factor": 0.9, "patience": 3},
    )
    factor: float = 0.95
    patience: int = 5
    threshold: float = 1e-6
    window: int = 1
    loss: str = "train_loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise unknown(f"planner {self.name!r}: loss", self.loss, LOSSES)
        self._set("needs", frozenset({"step", self.loss}))

    def memory(self, num_runs: int) -> dict[str, Any]:
        """Return the best loss, the segments in a row with and without improvement, and the last losses."""
        zero = np.zeros(num_runs)
        return {"best": np.full(num_runs, np.inf), "good": zero, "bad": zero, "last": np.empty((num_runs, 0))}

    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """Count segments with and without improvement, and change the rate where there are enough in a row."""
        last = np.column_stack([state["last"], signals[self.loss]])[:, -self.window :]
        loss = last.mean(1)
        better = loss < state["best"] * (1 - self.threshold)
        good, bad = np.where(better, state["good"] + 1, 0), np.where(better, 0, state["bad"] + 1)
        rise, fall = good > self.patience, bad > self.patience
        return {
            "lr": np.where(rise, state["lr"] / self.factor, np.where(fall, state["lr"] * self.factor, state["lr"])),
            "best": np.where(better, loss, state["best"]),
            "good": np.where(rise, 0, good),
            "bad": np.where(fall, 0, bad),
            "last": last,
        }


@dataclass(frozen=True)
class LossSlope(Reactive):
    """Lower the rate when a line through the last validation losses does not clearly fall: a simple baseline.

    The line is fitted to the log losses of the last `window` segments since the last change of the rate. It falls
    clearly if its slope is more than `doubt` standard errors below 0. (Losses are not independent: this is a rule of
    thumb, not a statistical test.)

    Attributes:
        window: number of segments that the line is fitted to.
        factor: the rate is multiplied by this.
        doubt: number of standard errors.
    """

    name = "loss-slope"
    needs = frozenset({"step", "val_loss"})
    rules: ClassVar[Rules] = {"window": WINDOW, "factor": FRACTION, "doubt": NOT_NEGATIVE}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"window": 20}, {"window": 5})
    window: int = 10
    factor: float = 0.5
    doubt: float = 2.0

    def memory(self, num_runs: int) -> dict[str, Any]:
        """Return the last log losses, the newest last; NaN stands for segments before the last change of the rate."""
        return {"last": np.full((num_runs, self.window), np.nan)}

    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """Fit the line, and lower the rate where its slope is not clearly below 0."""
        loss = np.log(np.maximum(np.asarray(signals["val_loss"]), 1e-300))
        last = np.column_stack([state["last"][:, 1:], loss])
        complete = ~np.isnan(last).any(1)
        time = np.arange(self.window) - (self.window - 1) / 2
        spread = (time**2).sum()
        centred = last - last.mean(1, keepdims=True)
        slope = centred @ time / spread
        rest = np.square(centred - slope[:, None] * time).sum(1)
        error = np.sqrt(rest / (self.window - 2) / spread)
        fall = complete & ~(slope < -self.doubt * error)
        return {
            "lr": np.where(fall, state["lr"] * self.factor, state["lr"]),
            "last": np.where(fall[:, None], np.nan, last),
        }


@dataclass(frozen=True)
class Hypergradient(Reactive):
    """Gradient descent on the rate: add a multiple of the inner product of the gradient and the last update.

    lr <- lr + beta <g_t, u_{t-1}>, where u is the last update divided by its rate. Origin: Baydin et al., ICLR 2018,
    arXiv:1703.04782, which changes the rate before every step. Here the changes for all steps of a segment are made
    together at its end, so that with segments of one step the rate follows one step later. The rate stays in the task's
    range.

    Attributes:
        beta: learning rate of the learning rate, in units of the rate squared per nat.
    """

    name = "hypergradient"
    needs = frozenset({"step", "update_product"})
    rules: ClassVar[Rules] = {"beta": POSITIVE}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"beta": 1e-4}, {"beta": 1e-2})
    beta: float = 1e-3

    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """Return lr + beta * (steps in a segment) * (mean product)."""
        return {"lr": state["lr"] + self.beta * state["segment"] * np.asarray(signals["update_product"])}


@dataclass(frozen=True)
class HypergradientMultiplicative(Reactive):
    """Gradient descent on the rate with relative steps: follow the cosine between the gradient and the last update.

    lr <- lr (1 + beta cos(g_t, u_{t-1})), applied at the end of a segment for all of its steps. Origin: the
    multiplicative rule of Baydin et al., ICLR 2018, arXiv:1703.04782, section 3.3.

    Attributes:
        beta: largest change of the rate in a step, as a fraction of the rate.
    """

    name = "hypergradient-multiplicative"
    needs = frozenset({"step", "update_cosine"})
    rules: ClassVar[Rules] = {"beta": FRACTION}
    tuning_variants: ClassVar[TuningVariants] = ({}, {"beta": 0.003}, {"beta": 0.05})
    beta: float = 0.02

    def react(self, state: State, signals: Signals) -> Mapping[str, Any]:
        """lr (1 + beta (mean cosine)) ** (steps of a segment)."""
        return {"lr": state["lr"] * (1 + self.beta * np.asarray(signals["update_cosine"])) ** state["segment"]}

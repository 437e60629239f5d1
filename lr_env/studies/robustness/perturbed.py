"""Disturbed planners: their rates are off by a factor for a while, or the budget changes in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import OwnOptimizer, Rebudgetable
from lr_env.errors import UserError
from lr_env.planner import Planner, RunSpec, Signals, State
from lr_env.studies.robustness.around import Around


@dataclass(frozen=True)
class Disturbed(Around):
    """A planner under a disturbance, which it sees by its signals alone or is notified of when it happens.

    Attributes:
        factor: its rates are multiplied by this at first, and clipped to the environment's range.
        until: share of the run in which they are.
        announced: budget that it gets at the start, in optimizer steps; 0 for the true one. In the middle of the
            announced budget it gets the true one, by `Rebudgetable.with_budget`. A planner without that method, such as
            a schedule, goes through the rest of its run in the steps that are left.
    """

    factor: float = 1.0
    until: float = 0.0
    announced: int = 0

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: the announced budget does not have its middle between two segments and within the true one.
        """
        budget = self.announced or run.budget
        if self.announced and (budget % (2 * run.segment) or not 0 < budget // 2 < run.budget):
            raise UserError(f"an announced budget of {self.announced} steps has no middle in a run of {run.budget}")
        state = self.planner.start(replace(run, budget=budget), seeds)
        facts = asdict(replace(run, architecture_source=None))  # a state holds no graph
        return {"own": state, "run": facts, "told": budget, "changed": False}

    def plan(self, state: State, signals: Signals) -> tuple[NDArray[np.float64], State]:
        """The rate of each run, as the planner's `plan` has it."""
        pairs = {name: tuple(state["run"][name]) for name in ("lr_range", "groups")}  # lists, from JSON
        run = RunSpec(**{**state["run"], **pairs})
        step, of_planner, changed = np.asarray(signals["step"]), state["own"], state["changed"]
        middle = state["told"] // 2
        if self.announced and not changed and step.max() >= middle:
            changed = True
            if isinstance(self.planner, Rebudgetable):
                of_planner = self.planner.with_budget(of_planner, run)
        if changed and not isinstance(self.planner, Rebudgetable):
            signals = {**signals, "step": self._stretched(step, middle, run)}
        lr, of_planner = self.planner.plan(of_planner, signals)
        lr = np.asarray(lr, dtype=np.float64)
        if float(step.max()) < self.until * run.budget:
            lr = np.clip(lr * self.factor, *run.lr_range)
        return lr, {**state, "own": of_planner, "changed": changed}

    def _stretched(self, step: NDArray[Any], middle: int, run: RunSpec) -> NDArray[np.int64]:
        """The steps at which the planner would be if its budget had not changed."""
        on = (step - middle) * middle / (run.budget - middle)
        last = 2 * middle - run.segment
        return np.minimum(middle + np.floor(on / run.segment + 1e-9) * run.segment, last).astype(np.int64)


@dataclass(frozen=True)
class Noisy(Around):
    """A planner whose rates are multiplied by a random factor in every segment, which it sees by its signals alone.

    Attributes:
        deviation: standard deviation of the log of the factor, whose median is 1.
    """

    deviation: float

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment."""
        return {"own": self.planner.start(run, seeds), "seeds": [int(seed) for seed in seeds], "range": [*run.lr_range]}

    def plan(self, state: State, signals: Signals) -> tuple[NDArray[np.float64], State]:
        """The rate of each run, as the planner's `plan` has it."""
        lr, own = self.planner.plan(state["own"], signals)
        lr, steps = np.asarray(lr, dtype=np.float64), np.asarray(signals["step"]).astype(int)
        drawn = [
            np.random.default_rng([_NOISE, seed, step]).standard_normal()
            for seed, step in zip(state["seeds"], steps.tolist(), strict=True)
        ]
        factor = np.exp(self.deviation * np.array(drawn)).reshape(-1, *[1] * (lr.ndim - 1))
        return np.clip(lr * factor, *state["range"]), {**state, "own": own}


_NOISE = 7
"""Tells the random numbers of `Noisy` from those of planners."""


def disturbed(planner: Planner, settings: Mapping[str, Any]) -> Planner:
    """A planner under a disturbance; the planner itself where there is none.

    Raises:
        UserError: the planner brings an optimizer of its own.
    """
    if not settings:
        return planner
    if isinstance(planner, OwnOptimizer):
        raise UserError(f"planner {planner.name!r} brings an optimizer of its own: it cannot be disturbed")
    return (Noisy if "deviation" in settings else Disturbed)(planner, planner.name, **settings)

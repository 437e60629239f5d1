"""A planner at work: the one place that knows how planners are called, whoever trains.

Rollouts of the environment and training loops of other people ask a planner through the same session.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lr_env.capabilities import Explainable, Forking, PlanForecast, Previewable, Rebudgetable, require_probe
from lr_env.copies import Copied
from lr_env.errors import UserError, check_seeds
from lr_env.isolation import isolating
from lr_env.planner import ForkMeasurements, Planner, Probe, RunSpec, Signals, planner_settings, require
from lr_env.rates import clipped

Floats = NDArray[np.float64]


class PlannerSession(Copied):
    """A planner and its state, for some runs of one task that are trained side by side.

    Args:
        planner: who sets the rates.
        run: what is known of the runs.
        seeds: one for each run.
        offered: names of the signals that `next_rates` will be given, to find out now that one is missing.

    Attributes:
        segment: how often rates were asked for.
        state: of the planner, a tree of arrays and JSON values.
        seconds: wall time spent in the planner, forks left out, shared equally by its runs, (runs,).

    Raises:
        UserError: a signal that the planner needs is not among those offered, or it cannot start such runs.
    """

    @isolating
    def __init__(
        self, planner: Planner, run: RunSpec, seeds: Sequence[int], offered: Collection[str] | None = None
    ) -> None:
        self.planner = planner
        self.run = run
        self.segment = 0
        self.seconds = np.zeros(len(seeds))
        self._seeds = list(seeds)
        self._forking = isinstance(planner, Forking)  # a protocol, which takes long to check
        if not len(seeds):
            raise UserError(f"planner {planner.name!r}: give at least one seed, one for each run")
        for seed in seeds:
            check_seeds([seed])
        self._needs = planner.needs  # which take a planner with a model file a while to find out
        if offered is not None:
            require(planner, offered, self._needs)
        began = time.perf_counter()
        self.state = planner.start(run, self._seeds)
        self.seconds += (time.perf_counter() - began) / len(seeds)

    @isolating
    def next_rates(
        self, signals: Mapping[str, ArrayLike], probe: Probe | None = None, ended: NDArray[np.bool_] | None = None
    ) -> Floats:
        """The learning rates of the next segment; to be called exactly once before each.

        Args:
            signals: name -> values at the end of the last segment, one for each run, (runs,), or one for all; before
                the first segment, of the untrained network. `step` and `progress` are filled in where they are missing.
            probe: trains forks, for a planner that needs them.
            ended: which runs have ended, (runs,). Their rates mean nothing.

        Returns:
            Rates, (runs,), or (runs, segment) where they change inside the segment, or (runs, groups, 1 or segment)
            where parameter groups have rates of their own.

        Raises:
            UserError: a signal is missing or has another shape, the call comes too early, too late or after the end of
                the budget, or the planner's answer is no rate that the task accepts.
        """
        count = len(self.seconds)
        ended = np.zeros(count, dtype=bool) if ended is None else ended
        measured = self._measured(signals, ended)
        require(self.planner, measured, self._needs)
        began = time.perf_counter()
        if self._forking:
            timed = _Timed(require_probe(self.planner, probe))
            answer, self.state = cast("Forking", self.planner).plan(self.state, measured, timed)
            began += timed.seconds  # which is training, not planning
        else:
            answer, self.state = self.planner.plan(self.state, measured)
        self.seconds += (time.perf_counter() - began) / count
        self.segment += 1
        return self._checked(np.asarray(answer, dtype=np.float64), ended)

    def extend(self, budget: int) -> None:
        """Let the runs have another budget from now on: a planner plans anew, a schedule goes on as that of the budget.

        Raises:
            UserError: the budget is spent already, or the planner cannot.
        """
        if budget < self.segment * self.run.segment:
            raise UserError(f"a budget of {budget} steps is spent: {self.segment * self.run.segment} are done")
        run = replace(self.run, budget=budget)
        if isinstance(self.planner, Rebudgetable):
            self.state = self.planner.with_budget(self.state, run)
        elif isinstance(self.planner, Previewable):  # its state follows from the run and the seeds
            self.state = self.planner.start(run, self._seeds)
        else:
            raise UserError(f"planner {self.planner.name!r} cannot plan for another budget on the way")
        self.run = run

    def explain(self, row: int = 0) -> Sequence[PlanForecast]:
        """What the planner predicted for a run at each of its plans; empty where it cannot tell."""
        return self.planner.explain(self.state, row) if isinstance(self.planner, Explainable) else []

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that the rest of the session depends on, as a tree of arrays and JSON values."""
        return copy.deepcopy({"segment": self.segment, "budget": self.run.budget, "state": self.state})

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, of the same planner and runs."""
        self.run = replace(self.run, budget=int(saved["budget"]))
        self.segment, self.state = int(saved["segment"]), copy.deepcopy(saved["state"])

    def _measured(self, signals: Mapping[str, ArrayLike], ended: NDArray[np.bool_]) -> Signals:
        """The signals as arrays, (runs,), with the step checked, or filled in."""
        steps = self.segment * self.run.segment
        if steps >= self.run.budget and not ended.all():
            raise UserError(
                f"planner {self.planner.name!r}: the budget of {self.run.budget} steps is spent: no rate is left"
            )
        filled = {"step": float(steps), "progress": steps / self.run.budget, **signals}
        measured = {}
        for name, values in filled.items():
            try:
                array = np.asarray(values)
                measured[name] = array if array.shape == ended.shape else np.full(ended.shape, array)
            except ValueError:
                raise UserError(
                    f"signal {name!r} has shape {np.shape(values)} for {len(ended)} runs: give one value for each"
                ) from None
        latest = measured["step"][~ended]
        if latest.size and not np.all(latest == steps):
            raise UserError(
                f"planner {self.planner.name!r} is asked at step {latest[latest != steps][0]:g}, and step {steps} "
                "comes next: ask it exactly once before each segment"
            )
        return measured

    def _checked(self, answer: Floats, ended: NDArray[np.bool_]) -> Floats:
        """The answer, which must be a rate for each run, in the task's range."""
        count, segment, groups = len(ended), self.run.segment, len(self.run.groups)
        shapes = [(count,), (count, segment), *([(count, groups, 1), (count, groups, segment)] if groups else [])]
        if answer.shape not in shapes:
            raise UserError(
                f"planner {self.planner.name!r} answered with shape {answer.shape} for {count} runs: it must be "
                + " or ".join(map(str, shapes))
            )
        low, high = self.run.lr_range
        rates = answer.copy()
        rates[ended] = low
        rates, wrong = clipped(rates, low, high)
        if wrong.size:
            raise UserError(
                f"planner {self.planner.name!r} ({planner_settings(self.planner)}) asks for the learning rate "
                f"{wrong[0]:g}, outside the task's range: from {low:g} to {high:g}"
            )
        return rates


class _Timed:
    """A probe that measures how long it takes."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.seconds = 0.0

    def __call__(self, lr: Floats, segments: int) -> ForkMeasurements:
        began = time.perf_counter()
        try:
            return self.probe(lr, segments)
        finally:
            self.seconds += time.perf_counter() - began

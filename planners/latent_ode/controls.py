"""Controls of the latent-ODE planner: what the same sweep is worth without a model of how training answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lr_env.planner import RunSpec, Signals, State, require
from planners.latent_ode.base import OfAModel, rates_of, times_of_plans
from planners.latent_ode.data.dataset import Floats, channel
from planners.latent_ode.data.schedule_library import TIMES, Repertoire
from planners.latent_ode.planner import LatentODE
from planners.settings import COUNT, RATIO, SHARE, Array, Rules


@dataclass(frozen=True)
class Replay(OfAModel, ABC):
    """A schedule that follows from how the schedules of the sweep ended, the same for every run."""

    needs = frozenset({"step"})
    control_of = LatentODE.name

    @abstractmethod
    def log_rates(self, repertoire: Repertoire) -> Floats:
        """Logs of the rates at `TIMES`, (points,)."""

    @classmethod
    @abstractmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """One setting for each rate, of which it has none."""

    @classmethod
    def matched(cls, planner: LatentODE) -> Self:
        """The control of a planner as it was tuned."""
        return cls(model=planner.model, reuse=planner.reuse)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The rates of a run.

        Raises:
            UserError: see `OfAModel.trained_for`.
        """
        trained = self.trained_for(run)
        rates = rates_of(self.log_rates(trained.repertoire), run)
        return {"model": trained.fingerprint, "rates": rates, "segment": run.segment}

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,)."""
        require(self, signals)
        self.check_unchanged(state)
        return state["rates"][np.asarray(signals["step"], dtype=np.int64) // state["segment"]], state


@dataclass(frozen=True)
class BestOfSweep(Replay):
    """The best schedule of the sweep that people use.

    Attributes:
        rank: 1 for the best, 2 for the second best ...
    """

    name = "latent-ode-best"
    rules: ClassVar[Rules] = {"rank": COUNT}
    rank: int = 1

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many of the best as there are rates."""
        return [cls(rank=number + 1) for number in range(len(rates))]

    def log_rates(self, repertoire: Repertoire) -> Floats:
        """Of the schedule of that rank; of the last one, where there are fewer."""
        order = repertoire.families
        return repertoire.log_rates[order[min(self.rank, len(order)) - 1]]


@dataclass(frozen=True)
class MeanOfBest(Replay):
    """The mean, in the log, of the best schedules of the sweep.

    Attributes:
        count: of how many.
    """

    name = "latent-ode-mean"
    rules: ClassVar[Rules] = {"count": COUNT}
    count: int = 3

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Of three, and then of as many others as there are rates."""
        counts = [3, *(number for number in range(1, len(rates) + 2) if number != 3)]
        return [cls(count=number) for number in counts[: len(rates)]]

    def log_rates(self, repertoire: Repertoire) -> Floats:
        """Their mean."""
        return repertoire.middle(self.count)


@dataclass(frozen=True)
class Replanned(OfAModel, ABC):
    """A control that changes its mind when the planner does.

    Attributes:
        lead, every, until: see `LatentODE`.
    """

    control_of = LatentODE.name
    needs = frozenset({"step", "val_loss"})
    rules: ClassVar[Rules] = {"lead": SHARE, "every": RATIO, "until": RATIO}
    lead: float = 0.0
    every: float = 0.2
    until: float = 0.7

    @abstractmethod
    def chosen(self, state: Mapping[str, Any], now: int, repertoire: Repertoire) -> list[int]:
        """Number of the schedule of the sweep whose rest each run gets."""

    @classmethod
    def matched(cls, planner: LatentODE) -> Self:
        """The control of a planner as it was tuned."""
        return cls(
            model=planner.model, reuse=planner.reuse, lead=planner.lead, every=planner.every, until=planner.until
        )

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many times of the first plan as there are rates, the default first."""
        return [cls(lead=round(0.9 * number / len(rates), 6)) for number in range(len(rates))]

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment: the best schedule of the sweep that people use is what begins.

        Raises:
            UserError: see `OfAModel.trained_for`.
        """
        trained = self.trained_for(run)
        repertoire = trained.repertoire
        return {
            "model": trained.fingerprint,
            "rates": np.tile(rates_of(repertoire.log_rates[repertoire.best_family], run), (len(seeds), 1)),
            "whole": rates_of(repertoire.log_rates, run),
            "losses": np.full((len(seeds), run.num_segments), np.nan),
            "seeds": list(seeds),
            "segment": run.segment,
        }

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,)."""
        require(self, signals)
        repertoire = self.check_unchanged(state).repertoire
        now, total = int(np.max(np.asarray(signals["step"])) // state["segment"]), state["rates"].shape[1]
        if now > 0:
            losses = state["losses"].copy()
            losses[:, now - 1] = channel("val_loss", np.asarray(signals["val_loss"], dtype=np.float64))
            state = {**state, "losses": losses}
        if now in times_of_plans(total, self.lead, self.every, self.until):
            rates = state["rates"].copy()
            rates[:, now:] = state["whole"][self.chosen(state, now, repertoire), now:]
            state = {**state, "rates": rates}
        return state["rates"][:, now].copy(), state


@dataclass(frozen=True)
class NearestRun(Replanned):
    """Goes on as that schedule of the sweep did whose validation losses were nearest to the run's so far.

    What a model's plans gain over this, they do not gain by memory.
    """

    name = "latent-ode-nearest"

    def chosen(self, state: Mapping[str, Any], now: int, repertoire: Repertoire) -> list[int]:
        """By the mean squared difference of the logs; the best schedule for a run of which nothing was measured."""
        at = np.arange(1, now + 1) / state["rates"].shape[1]
        seen = np.stack([np.interp(at, TIMES, row) for row in repertoire.log_losses])
        found = []
        for losses in state["losses"][:, :now]:
            known = np.isfinite(losses)
            distance = ((seen[:, known] - losses[known]) ** 2).sum(1)
            found.append(int(distance.argmin()) if known.any() else repertoire.best_family)
        return found


@dataclass(frozen=True)
class RandomFuture(Replanned):
    """Goes on as any one of the good schedules of the sweep does, drawn anew at each plan.

    It stays as near to what was seen as the planner does, and knows nothing of what it leads to.
    """

    name = "latent-ode-random"

    def chosen(self, state: Mapping[str, Any], now: int, repertoire: Repertoire) -> list[int]:
        """One of those that `Repertoire.trusted` has."""
        good = repertoire.good
        return [int(good[np.random.default_rng([seed, now]).integers(len(good))]) for seed in state["seeds"]]


CONTROLS = (BestOfSweep, MeanOfBest, NearestRun, RandomFuture)

"""Controls of the planner `latent-ode`: what the same sweep is worth without a model of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict, cast

import numpy as np

from lr_env.objectives import VAL_LOSS
from lr_env.planner import RunSpec, Signals, require
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.base import ModelBasedPlanner, ReplanningPlanner, ReplanningState, SignalsOfModel
from planners.latent_ode.channels import Floats, channel
from planners.latent_ode.data.rate_curve import RateCurve
from planners.latent_ode.data.schedule_library import TIMES, ScheduleLibrary
from planners.latent_ode.planner import LatentODE
from planners.settings import COUNT, SHARE, Array, Rules


class ReplayState(TypedDict):
    """The state of a control that plays one schedule."""

    model: str  # fingerprint of the model
    rates: Floats  # of all segments, (segments,)
    segment: int  # optimizer steps of a segment


@dataclass(frozen=True)
class Replay(ModelBasedPlanner, ABC):
    """A control that plays one schedule in every run, chosen by how the schedules of the sweep ended.

    Attributes:
        model: the model that `latent-ode` uses; only the schedules of its sweep matter here.
        mismatch: what to do if the sweep was of another task, budget or optimizer than those of the run. "refuse": stop
            with an error; "steps" and "rescaled": stretch the schedule to the run.
    """

    needs = frozenset({"step"})
    control_of = LatentODE.name

    @abstractmethod
    def curve(self, library: ScheduleLibrary) -> RateCurve:
        """Return the schedule that is played, (points,)."""

    @classmethod
    def matched(cls, planner: LatentODE) -> Self:
        """Return the control of a planner as it was tuned."""
        return cls(model=planner.model, mismatch=planner.mismatch)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> ReplayState:
        """Return the rates of a run.

        Raises:
            UserError: the model may not be used for the run, see `ModelBasedPlanner.model_for`.
        """
        fitted = self.model_for(run)
        rates = self.curve(fitted.library).segments(run.num_segments, run.lr_range)
        return {"model": fitted.fingerprint, "rates": rates, "segment": run.segment}

    def plan(self, state: ReplayState, signals: Signals) -> tuple[Array, ReplayState]:
        """Return the rate of each run for the next segment, (runs,), and the same state."""
        require(self, signals)
        self.check_unchanged(state)
        return state["rates"][np.asarray(signals["step"], dtype=np.int64) // state["segment"]], state


@dataclass(frozen=True)
class BestOfSweep(Replay):
    """Plays the best schedule of the sweep that has a named shape, such as cosine.

    Attributes:
        rank: 1 plays the best schedule, 2 the second best, and so on; the last one where there are fewer.
    """

    name = "latent-ode-best"
    rules: ClassVar[Rules] = {"rank": COUNT}
    rank: int = 1

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return the best schedules, as many as there are rates."""
        return [cls(rank=number + 1) for number in range(len(rates))]

    def curve(self, library: ScheduleLibrary) -> RateCurve:
        """Return the schedule of that rank."""
        order = library.parametric_order
        return library.curve(order[min(self.rank, len(order)) - 1])


@dataclass(frozen=True)
class MeanOfBest(Replay):
    """Plays the mean, in log rate, of the best schedules of the sweep.

    Attributes:
        count: number of schedules that are averaged.
    """

    name = "latent-ode-mean"
    rules: ClassVar[Rules] = {"count": COUNT}
    count: int = 3

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return a count of three, then as many other counts as there are rates."""
        counts = [3, *(number for number in range(1, len(rates) + 2) if number != 3)]
        return [cls(count=number) for number in counts[: len(rates)]]

    def curve(self, library: ScheduleLibrary) -> RateCurve:
        """Return the mean."""
        return library.mean_of_best(self.count)


def _objective(fitted: FittedModel | None) -> frozenset[str]:
    """Step, and what the objective of a model follows from; the validation loss where none is known."""
    return (VAL_LOSS if fitted is None else fitted.objective).needs | {"step"}


class ReselectingState(ReplanningState):
    """The state of a control that chooses a schedule anew at each plan."""

    whole: Floats  # rates of the schedules of the sweep, (schedules, segments)
    losses: Floats  # log validation losses so far, NaN where not measured, (runs, segments)


@dataclass(frozen=True)
class Reselecting(ReplanningPlanner, ABC):
    """A control that chooses a schedule of the sweep anew whenever `latent-ode` plans, and plays the rest of it.

    Attributes:
        mismatch: what to do if the sweep was of another task, budget or optimizer than those of the run. "refuse": stop
            with an error; "steps" and "rescaled": stretch the schedules to the run.
    """

    control_of = LatentODE.name
    needs = cast("frozenset[str]", SignalsOfModel(_objective))
    rules: ClassVar[Rules] = {"first_plan": SHARE}

    @abstractmethod
    def select_runs(self, state: ReselectingState, now: int, library: ScheduleLibrary) -> list[int]:
        """Return the index of the schedule of the sweep whose rest each run plays from segment `now` on."""

    @classmethod
    def matched(cls, planner: LatentODE) -> Self:
        """Return the control of a planner as it was tuned."""
        names = ("model", "mismatch", "first_plan", "plan_interval", "last_plan")
        return cls(**{name: getattr(planner, name) for name in names})

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return as many times of the first plan as there are rates, the default first."""
        return [cls(first_plan=round(0.9 * number / len(rates), 6)) for number in range(len(rates))]

    def start(self, run: RunSpec, seeds: Sequence[int]) -> ReselectingState:
        """Return the state before the first segment: runs start on the best schedule of a named shape.

        Raises:
            UserError: the model may not be used for the run, see `ModelBasedPlanner.model_for`.
        """
        fitted = self.model_for(run)
        return {
            **self.state_on(fitted.library.best_parametric, fitted, run, seeds),
            "whole": fitted.library.curves.segments(run.num_segments, run.lr_range),
            "losses": np.full((len(seeds), run.num_segments), np.nan),
        }

    def plan(self, state: ReselectingState, signals: Signals) -> tuple[Array, ReselectingState]:
        """Return the rate of each run for the next segment, (runs,), and the new state."""
        require(self, signals)
        fitted: FittedModel = self.check_unchanged(state)
        now = int(np.max(np.asarray(signals["step"])) // state["segment"])
        if now > 0:
            losses = state["losses"].copy()
            seen = fitted.objective.signals(signals)
            losses[:, now - 1] = channel("val_loss", np.asarray(seen["val_loss"], dtype=np.float64))
            state = {**state, "losses": losses}
        if now in self.plans_at(state["rates"].shape[1]):
            rates = state["rates"].copy()
            rates[:, now:] = state["whole"][self.select_runs(state, now, fitted.library), now:]
            state = {**state, "rates": rates}
        return state["rates"][:, now].copy(), state


@dataclass(frozen=True)
class NearestRun(Reselecting):
    """Plays the rest of the schedule of the sweep whose validation losses so far were most like those of the run.

    What `latent-ode` gains over this control, it does not gain by memory.

    Attributes:
        model: the model that `latent-ode` uses; only the schedules and losses of its sweep matter here.
        first_plan: share of the run after which a schedule is first chosen. Before that, the best schedule of the sweep
            that has a named shape, such as cosine, is played.
        plan_interval: share of the run between two choices. 1 chooses once.
        last_plan: share of the run after which no new choice is made.
    """

    name = "latent-ode-nearest"

    def select_runs(self, state: ReselectingState, now: int, library: ScheduleLibrary) -> list[int]:
        """Choose by the mean squared difference of log losses; the best named schedule if nothing was measured."""
        at = np.arange(1, now + 1) / state["rates"].shape[1]
        of_library = np.stack([np.interp(at, TIMES, row) for row in library.log_losses])
        selected = []
        for losses in state["losses"][:, :now]:
            measured = np.isfinite(losses)
            distance = ((of_library[:, measured] - losses[measured]) ** 2).sum(1)
            selected.append(int(distance.argmin()) if measured.any() else library.best_parametric)
        return selected


@dataclass(frozen=True)
class RandomFuture(Reselecting):
    """Plays the rest of a schedule drawn at random from the best ones of the sweep, anew at each plan.

    Its plans stay as near to the sweep as those of `latent-ode`, without knowing where they lead.

    Attributes:
        model: the model that `latent-ode` uses; only the schedules of its sweep matter here.
        first_plan: share of the run after which a schedule is first drawn. Before that, the best schedule of the sweep
            that has a named shape, such as cosine, is played.
        plan_interval: share of the run between two draws. 1 draws once.
        last_plan: share of the run after which none is drawn.
    """

    name = "latent-ode-random"

    def select_runs(self, state: ReselectingState, now: int, library: ScheduleLibrary) -> list[int]:
        """Draw from the schedules that ended near the best, by the seed of each run."""
        good = library.near_best
        return [int(good[np.random.default_rng([seed, now]).integers(len(good))]) for seed in state["seeds"]]


CONTROLS = (BestOfSweep, MeanOfBest, NearestRun, RandomFuture)

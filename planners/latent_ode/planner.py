"""The planner: the rest of the schedule is what the model says would end best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lr_env.isolation import isolating
from lr_env.planner import Belief, RunSpec, Signals, State, require, step_after
from planners.latent_ode.artifact import Trained
from planners.latent_ode.base import REUSE, OfAModel, lasting, rates_of, times_of_plans
from planners.latent_ode.data.dataset import CHANNELS, LOSS, Floats
from planners.latent_ode.filtering.response import Response, response_of, seen, state_now
from planners.latent_ode.planning.problem import Left, as_plan, problem
from planners.latent_ode.planning.search import GRID, Search, played, search
from planners.settings import COUNT, FROM_0, NOT_NEGATIVE, RATIO, SHARE, SWITCH, Array, Rules

_GOING, _BEST, _ANCHORED, _MIDDLE = range(4)
"""Numbers of plans: the earlier one, that of the search, the same anchored, the mean of the sweep's best schedules."""

_NINETY = 1.645
"""Standard deviations on both sides that hold 90 % of a normal distribution."""

# What a sweep of settings goes through, the last the fastest.
_EVERY, _ANCHORS, _BLENDS = (0.2, 1.0), (20.0, 0.0), (2.0, 1.0, 4.0)

_ROUNDED = 1e-3
"""Relative difference of rates that is none."""

ANCHORS = 3
"""Best schedules of a sweep whose mean plans are anchored to."""


@dataclass(frozen=True)
class LatentODE(OfAModel):
    """Plans the rest of the schedule on a learned model of training, again and again.

    The state of a latent ODE that the log of the rate drives follows the run, corrected by what it did not foresee in
    the recent past. A plan is a mean of the schedules whose ends the model likes, the better the more (`blend`), or,
    without it, the best one, found by the cross-entropy method from schedules of known shape and, with `ascents`, by
    its gradients. A part of the first plan gives way to the mean of the three best schedules of the sweep (`anchor`),
    except where the models are sure that theirs is better. Several models vote, and where they disagree a plan counts
    as worse. With a lead, the best schedule of the sweep that has a name is played before the first plan. Origin:
    arXiv:2509.23052 (Sampson & Melchior 2025), with the rate as what drives the path in place of something that is
    read off it; fitted with `lr-env fit TASK`.

    Runs may answer to their rates otherwise than those of the sweep, in larger batches for example. Where that can be
    told from a run's curves so far (`adapt`), later plans allow for it. And rates may not be played as they were
    answered, for a factor that no one spoke of: the next answer makes up for it (`track`).

    Attributes:
        model, reuse: see `OfAModel`.
        lead: share of the run after which the first plan is made; 0 was measured to be better than a tenth.
        every: share of the run between two plans.
        until: share of the run after which none is made.
        horizon: share of what is left at whose end the predicted loss counts.
        trust: how far plans may leave the rates that good runs of the sweep had at that time, in the log; None: as far
            as the task allows.
        pessimism: standard deviations over the models that are added to the mean of what they predict, where `blend`
            is 0: a mean of plans allows for what the models do not know.
        sure: models are sure of a gain that is so many standard deviations, over the models, above 0. A later plan is
            played where they are sure that it is better than going on with the earlier one: what is read off noisy
            losses moves all plans alike, and is no reason to change. The first plan has no anchor where they are sure
            that it is better than that.
        blend: how wide a mean of good plans is played, see `planners.latent_ode.planning.search.blended`; 0: the best
            one.
        anchor: schedules of a sweep of which a model counts as much as the mean of its best three does: of n schedules
            that has a share of anchor / (anchor + n) in the first plan, in the log.
        adapt: by how much in the log the noise that a run's rates let in must be otherwise than in the sweep for plans
            to allow for that, if it is sure, see `planners.latent_ode.filtering.response.Response`; None: they never
            do.
        track: whether answers are divided by what the last one was multiplied by before it was played, as far as the
            range of rates allows.
        rounds, draws, free, ascents: of the search for the best one, see `planners.latent_ode.planning.search.Search`.
    """

    name = "latent-ode"
    kind = "controlled"
    needs = frozenset({"step", "lr", *CHANNELS})
    rules: ClassVar[Rules] = {
        "lead": SHARE,
        "every": RATIO,
        "until": RATIO,
        "horizon": RATIO,
        "pessimism": NOT_NEGATIVE,
        "sure": NOT_NEGATIVE,
        "blend": NOT_NEGATIVE,
        "anchor": NOT_NEGATIVE,
        "rounds": FROM_0,
        "draws": COUNT,
        "free": FROM_0,
        "ascents": FROM_0,
        "track": SWITCH,
    }
    lead: float = 0.0
    every: float = 0.2
    until: float = 0.7
    horizon: float = 1.0
    trust: float | None = 0.0
    pessimism: float = 1.0
    sure: float = 2.0
    blend: float = 2.0
    anchor: float = 20.0
    adapt: float | None = 0.7
    track: bool = True
    rounds: int = 4
    draws: int = 32
    free: int = 0
    ascents: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("trust", "adapt"):
            if (value := getattr(self, setting)) is not None:
                self.settle(setting, NOT_NEGATIVE.apply(self.name, setting, value))

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many settings as there are rates, of which it has none: the default first."""
        tried = itertools.product(_EVERY, _ANCHORS, _BLENDS)
        settings = [cls(every=every, anchor=anchor, blend=blend) for every, anchor, blend in tried]
        more = [cls(blend=_BLENDS[-1] + number) for number in range(1, len(rates) - len(settings) + 1)]
        return [*settings, *more][: len(rates)]

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: see `OfAModel.trained_for`.
        """
        trained = self.trained_for(run)
        lead = rates_of(trained.repertoire.log_rates[trained.repertoire.best_family], run)
        return {
            "model": trained.fingerprint,
            "rates": np.tile(lead, (len(seeds), 1)),
            "points": [],
            "seeds": list(seeds),
            "range": list(run.lr_range),
            "segment": run.segment,
            "unit": self.unit(run),
            "due": False,
            "planned": False,
            "answered": None,
            "beliefs": [],
            "step": None,
        }

    @isolating
    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,)."""
        require(self, signals)
        state = {**state, "step": step_after(self, state, signals)}
        now = state["step"] // state["segment"]
        if now > 0:
            state = {**state, "points": [*state["points"], _point(signals)]}
        total = state["rates"].shape[1]
        if state["due"] or now in self.plans_at(total):
            state = self._planned({**state, "due": False}, now)
        answer = state["rates"][:, now].copy()
        before = state["answered"]
        if self.track and before is not None and not (signals["lr"] == before).all():
            answer = np.clip(answer / _factor(signals["lr"], before), *state["range"])
        return answer, {**state, "answered": answer.copy()}  # the one that is returned is the caller's

    def plans_at(self, total: int) -> tuple[int, ...]:
        """The decisions at which a plan is made, of as many as the run has."""
        return times_of_plans(total, self.lead, self.every, self.until)

    @isolating
    def rebudgeted(self, state: State, run: RunSpec) -> State:
        """The state of runs whose budget has changed: what is left is planned anew at the next decision.

        Args:
            state: of the planner.
            run: as it is now.
        """
        return {**state, "rates": lasting(state["rates"], run), "due": True, "planned": False}

    @isolating
    def explain(self, state: State, run: int = 0) -> list[Belief]:
        """What was considered for a run at each plan, see `lr_env.planner.Belief`.

        Args:
            state: of the planner.
            run: number of the run.
        """
        return [
            Belief(
                belief["segment"],
                belief["rates"][run],
                belief["steps"],
                belief["losses"][:, run],
                belief["notes"][run],
                tuple(belief["ends"][run].tolist()) if np.isfinite(belief["ends"][run]).all() else None,
            )
            for belief in state["beliefs"]
        ]

    @torch.no_grad()
    def _planned(self, state: State, now: int) -> State:
        """The state, with new rates from now on."""
        trained = self.same(state)
        log_rate = trained.scales.log_rate
        count, total = state["rates"].shape
        latent, response, lost = self._followed(trained, state)
        span = (total - now) * state["segment"] / state["unit"]
        left = Left(now / total, span, tuple(state["range"]), self.horizon)
        found, family = problem(trained, latent, left, self.trust, response)
        at, mid = now + np.linspace(0, 1, GRID) * (total - now), np.arange(total) + 0.5
        going = as_plan(np.stack([np.interp(at, mid, np.log(row)) for row in state["rates"]]), log_rate)[:, None]
        settings = Search(
            self.rounds,
            self.draws,
            free=self.free,
            pessimism=self.pessimism,
            ascents=self.ascents,
            blend=self.blend,
        )
        seeds = [[seed, now] for seed in state["seeds"]]
        best, *others = search(found, family, going, settings, seeds).split(1, 1)
        middle = left.rest_of(trained.repertoire.middle(ANCHORS), log_rate).expand_as(best)
        anchored = best + self.anchor / (self.anchor + len(trained.repertoire.names)) * (middle - best)
        own = [going, best, anchored, middle]  # in the order of their numbers
        plans = torch.cat([found.clamp(torch.cat(own, 1)), *others], 1)
        states = found.futures(plans)
        ends = found.ends_of(states)
        first, second = self._choice(ends, state["planned"], response.unusual)
        rest = torch.arange(len(own), plans.shape[1]).expand(count, -1)
        considered = torch.arange(count)[:, None], torch.cat([first[:, None], second[:, None], rest], 1)
        log_rates = played(plans[considered].numpy().astype(np.float64), total - now) + log_rate
        rates = np.clip(np.exp(log_rates), *state["range"])
        kept = (first == _GOING).numpy()
        rates[kept, 0] = state["rates"][kept, now:]  # not by way of the grid
        played_now = state["rates"].copy()
        played_now[:, now:] = rates[:, 0]
        losses = found.losses_of(states[:, *considered]).numpy().astype(np.float64)
        nodes = np.linspace(0, self.horizon, losses.shape[-1])
        belief = {
            "segment": now,
            "rates": rates,
            "steps": (now + nodes * (total - now)) * state["segment"],
            "losses": np.exp(losses * trained.scales.deviations[LOSS] + trained.scales.means[LOSS]),
            "notes": _notes(response, lost),
            "ends": self._range_of(trained, ends[:, considered[0][:, 0], first], lost | response.unusual, now / total),
        }
        return {**state, "rates": played_now, "planned": True, "beliefs": [*state["beliefs"], belief]}

    def _range_of(self, trained: Trained, ends: Tensor, unknown: Tensor, over: float) -> Floats:
        """Where ends lie with a chance of 90 %, (runs, 2): members disagree by less than they err on runs new to all.

        Args:
            trained: the model.
            ends: that members predict of the plans that are played, (members, runs).
            unknown: runs that are like none of the sweep, (runs,); of those it is NaN.
            over: share of the run that is over.
        """
        error = trained.error_after(over)
        if error is None or self.horizon < 1 or self.reuse != REUSE[0]:
            unknown, error = torch.ones_like(unknown), np.nan
        of_members = ends.numpy().astype(np.float64) * trained.scales.deviations[LOSS]
        spread = np.hypot(of_members.std(0, ddof=1), error)
        middle = of_members.mean(0) + trained.scales.means[LOSS]
        found = np.exp(middle[:, None] + _NINETY * spread[:, None] * [-1.0, 1.0])
        return np.where(unknown.numpy()[:, None], np.nan, found)

    def _followed(self, trained: Trained, state: State) -> tuple[Tensor, Response, Tensor]:
        """Where runs are by now, (members, runs, latent), how they answer to their rates, and which are lost."""
        model, count = trained.ensemble, len(state["rates"])
        response = Response.usual(model.sizes.members, count)
        if not state["points"]:
            return model.beginning(count), response, torch.zeros(count, dtype=torch.bool)
        runs = seen(state["points"], trained.scales, state["range"], state["segment"], state["unit"])
        if self.adapt is not None:
            response = response_of(model, runs, self.adapt, self.sure)
        latent, lost = state_now(model, runs, response)
        return latent, response, lost

    def _choice(self, ends: Tensor, planned: bool, unusual: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the plan of each run that is played, and of what it is compared with, (runs,).

        Args:
            ends: that models predict, (members, runs, plans).
            planned: whether there was a plan before.
            unusual: runs of which neither the earlier plan nor the sweep's schedules knew how they answer.
        """

        def surer(before: int, after: int) -> Tensor:
            """Whether the models are sure of a gain."""
            gain = ends[:, :, before] - ends[:, :, after]
            return gain.mean(0) > self.sure * gain.std(0)

        if planned:
            changed = unusual | surer(_GOING, _BEST)
            return torch.where(changed, _BEST, _GOING), torch.where(changed, _GOING, _BEST)
        alone = unusual | surer(_MIDDLE, _BEST)
        return torch.where(alone, _BEST, _ANCHORED), torch.full_like(alone, _MIDDLE, dtype=torch.int64)


def _notes(response: Response, lost: Tensor) -> list[str]:
    words = zip(response.in_words(), lost.tolist(), strict=True)
    return [other or ("its losses are nowhere near what was foreseen" if far else "") for other, far in words]


def _factor(played: Array, answered: Array) -> Array:
    """What answers were multiplied by, (runs,); exactly 1 where they were played, but for rounding."""
    factor = np.asarray(played, dtype=np.float64) / answered
    return np.where(np.isfinite(factor) & (np.abs(factor - 1) > _ROUNDED) & (factor > 0), factor, 1.0)


def _point(signals: Signals) -> Floats:
    """What a model reads of the segment before, (2 + channels, runs): rate, step, and channels as measured."""
    return np.array([signals[name] for name in ("lr", "step", *CHANNELS)], dtype=np.float64)

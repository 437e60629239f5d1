"""The planner: the rest of the schedule is what the model says would end best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lr_env.planner import Belief, RunSpec, Signals, State, require
from planners.latent_ode.model import TOKEN
from planners.latent_ode.of_a_model import OfAModel, rates_of, times_of_plans
from planners.latent_ode.planning import Left, as_plan, problem
from planners.latent_ode.search import GRID, Search, played, search
from planners.latent_ode.series import CHANNELS, LOSS, Floats, channel
from planners.latent_ode.trained import Trained
from planners.latent_ode.windows import scaled, token
from planners.settings import COUNT, FROM_0, NOT_NEGATIVE, RATIO, SHARE, Array, Rules

# What a sweep of settings goes through, the last the fastest.
_EVERY, _ANCHORS, _BLENDS = (0.2, 1.0), (20.0, 0.0), (2.0, 1.0, 4.0)

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
        blend: how wide a mean of good plans is played, see `planners.latent_ode.search.blended`; 0: the best one.
        anchor: schedules of a sweep of which a model counts as much as the mean of its best three does: of n schedules
            that has a share of anchor / (anchor + n) in the first plan, in the log.
        rounds, draws, free, ascents: of the search for the best one, see `planners.latent_ode.search.Search`.
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
    }
    lead: float = 0.0
    every: float = 0.2
    until: float = 0.9
    horizon: float = 1.0
    trust: float | None = 0.0
    pessimism: float = 1.0
    sure: float = 2.0
    blend: float = 2.0
    anchor: float = 20.0
    rounds: int = 4
    draws: int = 32
    free: int = 0
    ascents: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trust is not None:
            self.settle("trust", NOT_NEGATIVE.apply(self.name, "trust", self.trust))

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many settings as there are rates, of which it has none: the default first."""
        tried = itertools.product(_EVERY, _ANCHORS, _BLENDS)
        settings = [cls(every=every, anchor=anchor, blend=blend) for every, anchor, blend in tried]
        more = [cls(blend=_BLENDS[-1] + number) for number in range(1, len(rates) - len(settings) + 1)]
        return [*settings, *more][: len(rates)]

    @staticmethod
    def fitter() -> Any:
        """The module that fits one: `Sweep` and `fit_sweep`."""
        from planners.latent_ode import fitting_report

        return fitting_report

    @staticmethod
    def figures(rounds: int, quick: bool) -> Any:
        """How long fits and plans take, see `planners.latent_ode.speed.figures`."""
        from planners.latent_ode import speed

        return speed.figures(rounds, quick)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: see `OfAModel.trained_for`.
        """
        trained = self.trained_for(run)
        count, members, window = len(seeds), trained.ensemble.sizes.members, trained.ensemble.sizes.window
        lead = rates_of(trained.repertoire.log_rates[trained.repertoire.best_family], run)
        return {
            "model": trained.fingerprint,
            "rates": np.tile(lead, (count, 1)),
            "latent": trained.ensemble.beginning(count).detach().numpy().copy(),
            "tokens": np.zeros((members, count, window, TOKEN), dtype=np.float32),
            "points": 0,
            "unread": [],
            "seeds": list(seeds),
            "range": list(run.lr_range),
            "segment": run.segment,
            "unit": self.unit(run),
            "due": False,
            "planned": False,
            "beliefs": [],
        }

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,)."""
        require(self, signals)
        now = int(np.max(np.asarray(signals["step"])) // state["segment"])
        if now > 0:
            state = {**state, "unread": [*state["unread"], _point(signals)]}
        total = state["rates"].shape[1]
        if state["due"] or now in self.plans_at(total):
            state = self._planned({**self._followed(state), "due": False}, now)
        return state["rates"][:, now].copy(), state

    def plans_at(self, total: int) -> list[int]:
        """The decisions at which a plan is made, of as many as the run has."""
        return times_of_plans(total, self.lead, self.every, self.until)

    def rebudgeted(self, state: State, run: RunSpec) -> State:
        """The state of runs whose budget has changed: what is left is planned anew at the next decision.

        Args:
            state: of the planner.
            run: as it is now.
        """
        before, total = state["rates"], run.num_segments
        at = np.minimum(np.arange(total), before.shape[1] - 1)
        return {**state, "rates": before[:, at], "due": True, "planned": False}

    def explain(self, state: State, run: int = 0) -> list[Belief]:
        """What was considered for a run at each plan, see `lr_env.planner.Belief`.

        Args:
            state: of the planner.
            run: number of the run.
        """
        return [
            Belief(belief["segment"], belief["rates"][run], belief["steps"], belief["losses"][:, run])
            for belief in state["beliefs"]
        ]

    @torch.no_grad()
    def _followed(self, state: State) -> State:
        """The state after what was measured since the last plan: where the dynamics are, what they did not foresee.

        Only plans need to know, and many segments at once cost little more than one.
        """
        unread = state["unread"]
        if not unread:
            return state
        trained = self.same(state)
        model, shape = trained.ensemble, state["latent"].shape[:2]
        lr, step, *measured = np.stack(unread, axis=-1)
        values = np.stack([channel(name, of) for name, of in zip(CHANNELS, measured, strict=True)], axis=-1)

        def for_all(of_points: Floats) -> Tensor:
            return torch.tensor(of_points, dtype=torch.float32).expand(*shape, *of_points.shape[1:])

        lr = np.nan_to_num(lr, nan=state["range"][0])  # of runs that ended
        rates = for_all(np.log(np.clip(lr, *state["range"])) - trained.scales.log_rate)
        span = torch.full(shape, len(unread) * state["segment"] / state["unit"])
        latent = model.solve(torch.from_numpy(state["latent"]), rates, span)
        known, time = for_all(scaled(values, trained.scales)), for_all(step / state["unit"])
        new = token(time, rates, known, model.read(latent[:, :, 1:]))
        tokens = np.concatenate([new.flip(2).numpy(), state["tokens"]], axis=2)
        window = state["tokens"].shape[2]
        return {
            **state,
            "latent": latent[:, :, -1].numpy(),
            "tokens": tokens[:, :, :window],
            "points": min(state["points"] + len(unread), window),
            "unread": [],
        }

    @torch.no_grad()
    def _state_now(self, trained: Trained, state: State) -> Tensor:
        """(members, runs, latent)."""
        latent, tokens = (torch.from_numpy(state[name]) for name in ("latent", "tokens"))
        if not state["points"]:
            return latent
        return trained.ensemble.corrected(latent, tokens, torch.full(latent.shape[:2], state["points"]))

    @torch.no_grad()
    def _planned(self, state: Mapping[str, Any], now: int) -> dict[str, Any]:
        """The state, with new rates from now on."""
        trained = self.same(state)
        total = state["rates"].shape[1]
        span = (total - now) * state["segment"] / state["unit"]
        left = Left(now / total, span, tuple(state["range"]), self.horizon)
        found, family = problem(trained, self._state_now(trained, state), left, self.trust)
        at, mid = now + np.linspace(0, 1, GRID) * (total - now), np.arange(total) + 0.5
        going_on = np.stack([np.interp(at, mid, np.log(row)) for row in state["rates"]])
        known = as_plan(going_on, trained.scales.log_rate)[:, None]
        settings = Search(
            self.rounds,
            self.draws,
            free=self.free,
            pessimism=self.pessimism,
            ascents=self.ascents,
            blend=self.blend,
        )
        draws = [np.random.default_rng([seed, now]) for seed in state["seeds"]]
        best, *others = search(found, family, known, settings, draws).split(1, 1)
        middle = left.rest_of(trained.repertoire.middle(ANCHORS), trained.scales.log_rate)
        anchored = best + self.anchor / (self.anchor + len(trained.repertoire.names)) * (middle - best)
        own = [known, anchored, best, middle.expand_as(best)]
        plans = torch.cat([found.clamp(torch.cat(own, 1)), *others], 1)
        states = found.futures(plans)
        ends = found.ends_of(states)
        every = torch.arange(len(draws))

        def surer(before: Tensor, after: Tensor) -> Tensor:
            """Whether the models are sure of a gain, (runs,), between plans of those numbers."""
            gain = ends[:, every, before] - ends[:, every, after]
            return gain.mean(0) > self.sure * gain.std(0)

        going, fresh, alone, seen = torch.arange(len(own))[:, None].expand(-1, len(draws))
        if state["planned"]:
            fresh, changed = alone, surer(going, alone)
        else:
            fresh, changed = torch.where(surer(seen, alone), alone, fresh), torch.ones(len(draws), dtype=torch.bool)
        first, second = torch.where(changed, fresh, going), torch.where(changed, seen, fresh)
        rest = (len(own) + torch.arange(len(others))).expand(len(draws), -1)
        considered = torch.cat([first[:, None], second[:, None], rest], 1)
        plans, states = plans[every[:, None], considered], states[:, every[:, None], considered]
        log_rates = played(plans.numpy().astype(np.float64), total - now) + trained.scales.log_rate
        rates = np.clip(np.exp(log_rates), *state["range"])
        kept = ~changed.numpy()
        rates[kept, 0] = state["rates"][kept, now:]  # not by way of the grid
        losses = found.model.read(states.flatten(1, 2))[..., LOSS].reshape(states.shape[:-1]).numpy().astype(np.float64)
        nodes = np.linspace(0, self.horizon, losses.shape[-1])
        belief = {
            "segment": now,
            "rates": rates,
            "steps": (now + nodes * (total - now)) * state["segment"],
            "losses": np.exp(losses * trained.scales.deviations[LOSS] + trained.scales.means[LOSS]),
        }
        played_now = state["rates"].copy()
        played_now[:, now:] = rates[:, 0]
        return {**state, "rates": played_now, "planned": True, "beliefs": [*state["beliefs"], belief]}


def _point(signals: Signals) -> Floats:
    """What a model reads of the segment before, (2 + channels, runs): rate, step, and channels as measured."""
    return np.array([signals[name] for name in ("lr", "step", *CHANNELS)], dtype=np.float64)

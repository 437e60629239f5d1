"""The planner `latent-ode`: plans the rest of the schedule on a fitted model of training."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from lr_env.capabilities import PlanForecast
from lr_env.isolation import isolating
from lr_env.planner import RunSpec, Signals, require, step_after
from lr_env.rates import actuation_factor
from lr_env.signals import AGE
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.base import MISMATCH, ReplanningPlanner, ReplanningState, SignalsOfModel, rates_for_budget
from planners.latent_ode.channels import CHANNELS, LOSS, Floats
from planners.latent_ode.data.rate_curve import RateCurve
from planners.latent_ode.filtering.observations import observe
from planners.latent_ode.filtering.state import Estimate, StateEstimator
from planners.latent_ode.planning.problem import RemainingRun, build_problem
from planners.latent_ode.planning.search import GRID, PlanFamily, Problem, SearchSettings, search, to_segments
from planners.settings import COUNT, NON_NEGATIVE_INT, NOT_NEGATIVE, RATIO, SHARE, SWITCH, Array, Rules

_CURRENT, _NEW, _SHRUNK, _PRIOR = range(4)
"""Indices of plans: the current one, the result of the search, the same shrunk towards the prior, and the prior."""

_SIGMAS_OF_90_PERCENT = 1.645
"""A normal distribution is within so many standard deviations of its mean with a probability of 90 %."""

# The grid of settings that a sweep tries; the last varies fastest.
_PLAN_INTERVALS, _PRIOR_STRENGTHS, _TEMPERATURES = (0.2, 1.0), (20.0, 0.0), (2.0, 1.0, 4.0)

PRIOR_SCHEDULES = 3
"""Number of the best schedules of a sweep whose mean is the prior."""


def _channels(fitted: FittedModel | None) -> frozenset[str]:
    """Step, rate, and the channels that a model was fitted to; all of them where none is known."""
    return frozenset({"step", "lr", *(CHANNELS if fitted is None else fitted.channels)})


class PlanRecord(TypedDict):
    """Record of one plan, for all runs. Checkpoints have the same keys."""

    segment: int  # before which the plan was made
    rates: Floats  # of the candidates, the chosen one first, (runs, plans, segments left)
    steps: Floats  # optimizer steps at which losses were forecast, (nodes,)
    losses: Floats  # forecast validation losses, (members, runs, plans, nodes)
    notes: list[str]  # a warning for each run, or ""
    ends: Floats  # 90 % interval of the final loss, (runs, 2)


class PlannerState(ReplanningState):
    """The state of the planner."""

    points: list[Floats]  # measurements of each segment so far, (2 + channels, runs) each
    range: list[float]  # smallest and largest rate
    unit: int  # optimizer steps of one unit of the model's time
    due: bool  # whether to plan before the next segment, whenever that is
    planned: bool  # whether there is a plan
    answered: Floats | None  # the rates commanded last, (runs,)
    beliefs: list[PlanRecord]
    step: int | None  # optimizer step of the last call


@dataclass(frozen=True)
class LatentODE(ReplanningPlanner):
    """Plans the rest of the schedule on a learned model of training, and plans again as the run goes on.

    The model is an ensemble of latent ODEs driven by the log of the learning rate (arXiv:2509.23052, Sampson & Melchior
    2025, with the rate as an input instead of an output). `lr-env fit TASK` fits one to a sweep, and `lr-env fit
    --runs-of NAME` to imported logs of your own training: such a model is used for any task, with a budget within 10 %
    of theirs and segments at most twice as long or short. Values that are not measured (NaN) are skipped. At each plan
    the planner estimates the latent state of the run from its rates and losses so far, forecasts how the run would end
    under many schedules for the rest of it, and plays their mean, weighted by how well they end. The first plan is
    shrunk towards the mean of the three best schedules of the sweep. A later plan replaces the current one only if it
    is clearly better. If the losses show that a run has more or less gradient noise than those of the sweep, because
    its batches are smaller or larger, for example, later plans allow for that.

    Attributes:
        first_plan: share of the run after which the first plan is made. Before that, the best schedule of the sweep
            that has a named shape, such as cosine, is played. 0 was measured to be better than 0.1.
        horizon: share of the remaining run at whose end the predicted loss is minimised; 1: the end of the budget.
        trust_radius: plans stay between the lowest and the highest rate that the best schedules of the sweep had at the
            same time; they may be outside by this much, in natural log. None: plans may have any rate of the task.
        pessimism: penalty for plans about which the ensemble disagrees: so many standard deviations over the ensemble
            are added to the predicted loss. Only used if averaging_temperature is 0.
        confidence_sigmas: a difference counts as certain if it exceeds this many standard deviations over the ensemble.
            The current plan is replaced only if the predicted gain is certain; the first plan is not shrunk towards the
            prior if it is certainly better than the prior; response_threshold has to be exceeded with the same
            certainty.
        averaging_temperature: how far the mean of schedules reaches beyond the best: their weights are exp(-regret /
            temperature), with this factor times the disagreement of the ensemble as temperature. 0: no mean; seek the
            single best schedule.
        prior_strength: weight of the prior (the mean of the three best schedules of the sweep), counted in schedules.
            The first plan is (n * plan + prior_strength * prior) / (n + prior_strength) in log rate, with n distinct
            schedules in the sweep. 0 disables it.
        response_threshold: smallest |log(gradient noise of the run / gradient noise of the sweep)| at which plans allow
            for the difference. 0.7 is a factor of two. None: they never do.
        compensate_actuation: whether to make up for rates that are changed before they are used, by a wrapper or a
            scheduler, for example: the next rate is divided by the factor by which the last one was changed.
        search_rounds: rounds of the cross-entropy method. This and the following settings are of the search for the
            single best schedule, and only used if averaging_temperature is 0.
        samples_per_round: schedules drawn in each round of the search.
        free_rounds: further rounds that change the schedule freely between six knots; 0: none.
        gradient_steps: gradient steps at the end of the search; 0: none.
    """

    name = "latent-ode"
    tuner: ClassVar[str] = "latent-ode"
    kind = "controlled"
    needs = cast("frozenset[str]", SignalsOfModel(_channels))
    rules: ClassVar[Rules] = {
        "first_plan": SHARE,
        "horizon": RATIO,
        "pessimism": NOT_NEGATIVE,
        "confidence_sigmas": NOT_NEGATIVE,
        "averaging_temperature": NOT_NEGATIVE,
        "prior_strength": NOT_NEGATIVE,
        "search_rounds": NON_NEGATIVE_INT,
        "samples_per_round": COUNT,
        "free_rounds": NON_NEGATIVE_INT,
        "gradient_steps": NON_NEGATIVE_INT,
        "compensate_actuation": SWITCH,
    }
    renamed: ClassVar[Mapping[str, str]] = {
        "trust": "trust_radius",
        "sure": "confidence_sigmas",
        "blend": "averaging_temperature",
        "anchor": "prior_strength",
        "adapt": "response_threshold",
        "track": "compensate_actuation",
        "rounds": "search_rounds",
        "draws": "samples_per_round",
        "free": "free_rounds",
        "ascents": "gradient_steps",
    }
    horizon: float = 1.0
    trust_radius: float | None = 0.0
    pessimism: float = 1.0
    confidence_sigmas: float = 2.0
    averaging_temperature: float = 2.0
    prior_strength: float = 20.0
    response_threshold: float | None = 0.7
    compensate_actuation: bool = True
    search_rounds: int = 4
    samples_per_round: int = 32
    free_rounds: int = 0
    gradient_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("trust_radius", "response_threshold"):
            if (value := getattr(self, setting)) is not None:
                self._set(setting, NOT_NEGATIVE.apply(self.name, setting, value))

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return as many settings as there are rates, the default first; the rates themselves are not used."""
        grid = itertools.product(_PLAN_INTERVALS, _PRIOR_STRENGTHS, _TEMPERATURES)
        settings = [
            cls(plan_interval=interval, prior_strength=strength, averaging_temperature=temperature)
            for interval, strength, temperature in grid
        ]
        more = range(1, len(rates) - len(settings) + 1)
        return [*settings, *(cls(averaging_temperature=_TEMPERATURES[-1] + number) for number in more)][: len(rates)]

    @isolating
    def start(self, run: RunSpec, seeds: Sequence[int]) -> PlannerState:
        """Return the state before the first segment.

        Raises:
            UserError: the model may not be used for the run, see `ModelBasedPlanner.model_for`.
        """
        fitted = self.model_for(run)
        return {
            **self.state_on(fitted.library.best_parametric, fitted, run, seeds),
            "points": [],
            "range": np.clip(run.lr_range, sys.float_info.min, sys.float_info.max).tolist(),  # their logs are finite
            "unit": self.unit(run),
            "due": False,
            "planned": False,
            "answered": None,
            "beliefs": [],
            "step": None,
        }

    @isolating
    def plan(self, state: PlannerState, signals: Signals) -> tuple[Array, PlannerState]:
        """Return the rate of each run for the next segment, (runs,), and the new state."""
        require(self, signals)
        step = step_after(self, state, signals)
        state = {**state, "step": step}
        now = step // state["segment"]
        if now > 0:
            seen = self.trained.objective.signals(signals)
            state = {**state, "points": [*state["points"], _point(seen, self.needs, state["segment"])]}
        if state["due"] or now in self.plans_at(state["rates"].shape[1]):
            state = self._planned({**state, "due": False}, now)
        rates = state["rates"][:, now].copy()
        commanded = state["answered"]
        if self.compensate_actuation and commanded is not None and not (signals["lr"] == commanded).all():
            low, high = state["range"]
            rates = np.clip(rates / actuation_factor(signals["lr"], commanded), low, high)
        return rates, {**state, "answered": rates.copy()}  # the caller may change what is returned

    @isolating
    def with_budget(self, state: PlannerState, run: RunSpec) -> PlannerState:
        """Return the state of runs whose budget has changed; the rest is planned anew before the next segment."""
        return {**state, "rates": rates_for_budget(state["rates"], run), "due": True, "planned": False}

    @isolating
    def explain(self, state: PlannerState, row: int = 0) -> list[PlanForecast]:
        """Return what was considered for one run, by its row in the state, at each plan."""
        return [
            PlanForecast(
                record["segment"],
                record["rates"][row],
                record["steps"],
                record["losses"][:, row],
                record["notes"][row],
                tuple(record["ends"][row].tolist()) if np.isfinite(record["ends"][row]).all() else None,
            )
            for record in state["beliefs"]
        ]

    @torch.no_grad()
    def _planned(self, state: PlannerState, now: int) -> PlannerState:
        """Plan the segments from `now` on, and record what was considered."""
        fitted: FittedModel = self.check_unchanged(state)
        (runs, total), (low, high) = state["rates"].shape, state["range"]
        estimate = self._estimate(fitted, state)
        span = (total - now) * state["segment"] / state["unit"]
        remaining = RemainingRun(now / total, span, (low, high), self.horizon)
        problem, family = build_problem(fitted, estimate.state, remaining, self.trust_radius, estimate.response)
        plans = self._candidates(fitted, state, now, problem, family)
        states = problem.roll_out(plans)
        final_losses = problem.final_losses_of(states)
        chosen, runner_up = self._choice(final_losses, state["planned"], estimate.response.is_shifted)
        others = torch.arange(_PRIOR + 1, plans.shape[1]).expand(runs, -1)
        rows, order = torch.arange(runs)[:, None], torch.cat([chosen[:, None], runner_up[:, None], others], 1)
        log_rates = to_segments(plans[rows, order].numpy().astype(np.float64), total - now) + fitted.scales.log_rate
        rates = np.clip(np.exp(log_rates), low, high)
        unchanged = (chosen == _CURRENT).numpy()
        rates[unchanged, 0] = state["rates"][unchanged, now:]  # the grid would round them
        all_rates = state["rates"].copy()
        all_rates[:, now:] = rates[:, 0]
        losses = problem.losses_along(states[:, rows, order]).numpy().astype(np.float64)
        record: PlanRecord = {
            "segment": now,
            "rates": rates,
            "steps": (now + np.linspace(0, self.horizon, losses.shape[-1]) * (total - now)) * state["segment"],
            "losses": np.exp(fitted.scales.log_loss(losses)),
            "notes": _warnings(estimate),
            "ends": self._final_interval(fitted, final_losses[:, rows[:, 0], chosen], estimate, remaining.elapsed),
        }
        return {**state, "rates": all_rates, "planned": True, "beliefs": [*state["beliefs"], record]}

    def _candidates(
        self, fitted: FittedModel, state: PlannerState, now: int, problem: Problem, family: PlanFamily
    ) -> Tensor:
        """Return the plans of which one is chosen, and further good ones for the record, (runs, plans, GRID)."""
        library, log_rate = fitted.library, fitted.scales.log_rate
        current = RateCurve.of_segments(state["rates"], now, GRID).minus(log_rate)[:, None]
        settings = SearchSettings(
            rounds=self.search_rounds,
            samples_per_round=self.samples_per_round,
            free_rounds=self.free_rounds,
            pessimism=self.pessimism,
            gradient_steps=self.gradient_steps,
            averaging_temperature=self.averaging_temperature,
        )
        seeds = [[seed, now] for seed in state["seeds"]]
        new, *others = search(problem, family, current, settings, seeds).split(1, 1)
        elapsed = now / state["rates"].shape[1]
        prior = library.mean_of_best(PRIOR_SCHEDULES).rest(elapsed, GRID).minus(log_rate).expand_as(new)
        shrunk = new + self.prior_strength / (self.prior_strength + len(library.names)) * (prior - new)
        in_order = torch.cat([current, new, shrunk, prior], 1)  # of _CURRENT, _NEW, _SHRUNK, _PRIOR
        return torch.cat([problem.clamp(in_order), *others], 1)

    def _estimate(self, fitted: FittedModel, state: PlannerState) -> Estimate:
        """Estimate the latent state of the runs from all that was measured so far."""
        estimator = StateEstimator(fitted.ensemble, self.response_threshold, self.confidence_sigmas)
        if not state["points"]:
            return estimator.initial(len(state["rates"]))
        return estimator(observe(state["points"], fitted.scales, state["range"], state["segment"], state["unit"]))

    def _choice(self, final_losses: Tensor, planned: bool, shifted: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the plan of each run, and the one that it was compared with: their indices, (runs,) each.

        Args:
            final_losses: scaled log losses that the members predict, (members, runs, plans).
            planned: whether there is a current plan; else the first one is chosen.
            shifted: runs for which neither the current plan nor the prior allows for how they respond, (runs,).
        """

        def certainly_better(plan: int, other: int) -> Tensor:
            gain = final_losses[:, :, other] - final_losses[:, :, plan]
            return gain.mean(0) > self.confidence_sigmas * gain.std(0)

        if planned:
            replaced = shifted | certainly_better(_NEW, _CURRENT)
            return torch.where(replaced, _NEW, _CURRENT), torch.where(replaced, _CURRENT, _NEW)
        alone = shifted | certainly_better(_NEW, _PRIOR)
        return torch.where(alone, _NEW, _SHRUNK), torch.full_like(alone, _PRIOR, dtype=torch.int64)

    def _final_interval(self, fitted: FittedModel, final_losses: Tensor, estimate: Estimate, elapsed: float) -> Floats:
        """Return the interval that holds the final loss with a probability of 90 %, (runs, 2).

        It combines the spread of the scaled log losses that the members predict, (members, runs), and the error of
        their forecasts on held-out runs after that share of the run, for members disagree by less than they err. It is
        NaN for runs that are unlike those of the sweep.
        """
        unknown, error = estimate.out_of_distribution | estimate.response.is_shifted, fitted.forecast_rmse(elapsed)
        if error is None or self.horizon < 1 or self.mismatch != MISMATCH[0]:
            unknown, error = torch.ones_like(unknown), np.nan
        log_losses = final_losses.numpy().astype(np.float64) * fitted.scales.deviations[LOSS]
        deviation = np.hypot(log_losses.std(0, ddof=1), error)
        mean = log_losses.mean(0) + fitted.scales.means[LOSS]
        interval = np.exp(mean[:, None] + _SIGMAS_OF_90_PERCENT * deviation[:, None] * [-1.0, 1.0])
        return np.where(unknown.numpy()[:, None], np.nan, interval)


def _warnings(estimate: Estimate) -> list[str]:
    """Describe what is unusual about each run; empty where nothing is."""
    return [
        response or ("its losses are far from the forecast" if outlier else "")
        for response, outlier in zip(estimate.response.describe(), estimate.out_of_distribution.tolist(), strict=True)
    ]


def _point(signals: Signals, needs: frozenset[str], segment: int) -> Floats:
    """Collect what a model reads of the last segment: rate, step, and channels as measured, (2 + channels, runs).

    A channel is NaN where the model does not know it, or where its value is older than the segment.
    """
    point = [np.asarray(signals["lr"]), np.asarray(signals["step"])]
    for name in CHANNELS:
        usable = (np.asarray(signals.get(f"{name}{AGE}", 0.0)) < segment) & (name in needs)
        point.append(np.where(usable, signals.get(name, np.full(point[0].shape, np.nan)), np.nan))
    return np.array(point, dtype=np.float64)

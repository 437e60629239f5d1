"""The planner `latent-ode-generative`: the published method, which samples futures of a run and plays the best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.capabilities import PlanForecast
from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.planner import RunSpec, Signals, require, step_after
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.base import ReplanningPlanner, ReplanningState, rates_for_budget
from planners.latent_ode.channels import CHANNELS, LOSS, Floats, channel
from planners.latent_ode.data.scaling import scaled
from planners.latent_ode.model.generative import OUTPUTS, RATE, Generative
from planners.settings import COUNT, POSITIVE, RATIO, SWITCH, Array, Rules

TRAIN, SCORE = CHANNELS.index("train_loss"), CHANNELS.index("val_accuracy")


class FutureRecord(TypedDict):
    """The futures of all runs at one plan. Checkpoints have the same keys."""

    segment: int  # before which the plan was made
    decoded: Floats  # the futures, (runs, futures, times, OUTPUTS)
    starts: NDArray[np.int64]  # time at which each would be entered, -1 if it was not accepted, (runs, futures)
    rewards: Floats  # predicted accuracy at the horizon, (runs, futures)
    chosen: list[list[int]]  # indices of the futures that were averaged, for each run


class GenerativeState(ReplanningState):
    """The state of the planner."""

    tokens: NDArray[np.float32]  # recent points, the last first, (runs, window, 1 + OUTPUTS): time, scaled outputs
    points: int  # how many of them are there
    range: list[float]  # smallest and largest rate
    unit: int  # optimizer steps of one unit of the model's time
    beliefs: list[FutureRecord]
    step: int | None  # optimizer step of the last call


@dataclass(frozen=True)
class LatentODEGenerative(ReplanningPlanner):
    """Samples futures of the run from a latent ODE, and plays the mean rates of those that score best.

    This is Algorithm 1 of arXiv:2509.23052: its model predicts the learning rate together with losses and accuracy. At
    each plan, the most recent points of the run are encoded to a latent code, random perturbations of that code are
    decoded to whole runs (futures), and a future is accepted if it has the present training loss at some time. It is
    entered at the one of these times at which its rate is largest. The rates of the accepted futures with the best
    predicted accuracy are averaged. `lr-env fit TASK --kind generative --design paper` fits the model.

    Attributes:
        model: fitted model of the generative kind: a .safetensors file. None is shipped.
        first_plan: share of the run after which the first plan is made. Before that, a schedule of the sweep is played.
        horizon: share of the remaining run at whose end futures are compared by predicted accuracy.
        samples: number of perturbed codes; the code itself is decoded too.
        sigma: standard deviation of the perturbation, as a share of the size of each coordinate of the code.
        tolerance: largest difference between the training loss of a future and the mean of recent losses, in standard
            deviations of these, at which the future is accepted.
        recent_points: number of recent training losses that futures are compared with.
        averaged_futures: number of accepted futures whose rates are averaged.
        two_sided_match: true: the loss of an accepted future is near the present one; false: any lower loss is accepted
            too, as in the published code.
        match_any_time: true: a future may match the present loss at any time of it; false: only at the present time.
        horizon_runs: duration over which futures are decoded, in runs. A future that is entered late still lasts to the
            end of the run if this is 2; where it ends before, its last rate and accuracy are repeated.
        warm_start_family: planner, such as cosine, whose best schedule in the sweep is played before the first plan;
            empty: the best of all named schedules.
    """

    name = "latent-ode-generative"
    tuner: ClassVar[str] = "latent-ode-generative"
    kind = "generative"
    needs = frozenset({"step", "lr", *CHANNELS})
    rules: ClassVar[Rules] = {
        "first_plan": RATIO,
        "horizon": RATIO,
        "samples": COUNT,
        "sigma": POSITIVE,
        "tolerance": POSITIVE,
        "recent_points": COUNT,
        "averaged_futures": COUNT,
        "horizon_runs": COUNT,
        "two_sided_match": SWITCH,
        "match_any_time": SWITCH,
    }
    renamed: ClassVar[Mapping[str, str]] = {
        "recent": "recent_points",
        "best": "averaged_futures",
        "two_sided": "two_sided_match",
        "anywhen": "match_any_time",
        "reach": "horizon_runs",
        "begin": "warm_start_family",
    }
    first_plan: float = 0.1
    plan_interval: float = 0.05
    last_plan: float = 0.95
    horizon: float = 1.0
    samples: int = 30
    sigma: float = 0.15
    tolerance: float = 2.0
    recent_points: int = 3
    averaged_futures: int = 3
    two_sided_match: bool = True
    match_any_time: bool = True
    horizon_runs: int = 2
    warm_start_family: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.warm_start_family, str):
            raise UserError(
                f"planner {self.name!r}: warm_start_family must be the name of a planner, or empty, not "
                f"{self.warm_start_family!r}"
            )

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return as many settings as there are rates, the default first; the rates themselves are not used."""
        grid = itertools.product((0.15, 0.05, 0.3), (True, False), (True, False))
        settings = [
            cls(sigma=sigma, match_any_time=any_time, two_sided_match=two_sided) for sigma, any_time, two_sided in grid
        ]
        more = [cls(sigma=0.3 + 0.01 * number) for number in range(1, len(rates) - len(settings) + 1)]
        return [*settings, *more][: len(rates)]

    @property
    def may_be_missing(self) -> frozenset[str]:
        """No signal, for the model reads the last values of all."""
        return frozenset()

    @classmethod
    def for_task(cls, task: Any) -> Mapping[str, Any] | None:
        """Return None, for no model of this kind is shipped."""
        return None

    @isolating
    def start(self, run: RunSpec, seeds: Sequence[int]) -> GenerativeState:
        """Return the state before the first segment.

        Raises:
            UserError: the model may not be used for the run, see `ModelBasedPlanner.model_for`; or the sweep has no
                schedule of `warm_start_family`.
        """
        fitted = self.model_for(run)
        library = fitted.library
        best_of: dict[str, int] = {}
        for index in library.parametric_order:  # best first
            best_of.setdefault(library.names[index].split(" ")[0], index)
        family = self.warm_start_family
        if family and family not in best_of:
            raise UserError(
                f"planner {self.name!r}: the sweep has no {family!r} to start with, but {', '.join(sorted(best_of))}"
            )
        first = best_of[family] if family else library.best_parametric
        window = max(fitted.model.sizes.window, self.recent_points)
        return {
            **self.state_on(first, fitted, run, seeds),
            "tokens": np.zeros((len(seeds), window, 1 + len(OUTPUTS)), dtype=np.float32),
            "points": 0,
            "range": list(run.lr_range),
            "unit": self.unit(run),
            "beliefs": [],
            "step": None,
        }

    @isolating
    def plan(self, state: GenerativeState, signals: Signals) -> tuple[Array, GenerativeState]:
        """Return the rate of each run for the next segment, (runs,), and the new state."""
        require(self, signals)
        step = step_after(self, state, signals)
        state = {**state, "step": step}
        now = step // state["segment"]
        if now > 0:
            state = self._observed(state, signals)
        if now > 0 and now in self.plans_at(state["rates"].shape[1]):
            state = self._planned(state, now)
        return state["rates"][:, now].copy(), state

    def with_budget(self, state: GenerativeState, run: RunSpec) -> GenerativeState:
        """Return the state of runs whose budget has changed; the rest is planned at the next regular plan."""
        return {**state, "rates": rates_for_budget(state["rates"], run)}

    @isolating
    def explain(self, state: GenerativeState, row: int = 0) -> list[PlanForecast]:
        """Return what was considered for one run at each plan: the mean of the chosen futures, and each of them."""
        fitted: FittedModel = self.check_unchanged(state)
        scales, total = fitted.scales, state["rates"].shape[1]
        beliefs = []
        for record in state["beliefs"]:
            now, left = record["segment"], total - record["segment"]
            decoded, starts = record["decoded"][row], record["starts"][row]
            rests = [
                decoded[index, _times_from(starts[index], left, decoded.shape[1] - 1)]
                for index in record["chosen"][row]
            ]
            futures = np.reshape(rests, (-1, left, len(OUTPUTS)))
            rates = np.exp(futures[..., RATE] + scales.log_rate)
            losses = np.exp(scales.log_loss(futures[..., LOSS]))
            if rests:
                rates, losses = (np.concatenate([of.mean(0, keepdims=True), of]) for of in (rates, losses))
            steps = (now + 1.0 + np.arange(left)) * state["segment"]
            beliefs.append(PlanForecast(now, rates, steps, losses[None]))
        return beliefs

    def _observed(self, state: GenerativeState, signals: Signals) -> GenerativeState:
        """Add the measurements of the last segment."""
        fitted: FittedModel = self.check_unchanged(state)
        seen = fitted.objective.signals(signals)
        values = np.stack([channel(name, np.asarray(seen[name], dtype=np.float64)) for name in CHANNELS], axis=-1)
        low, high = state["range"]
        lr = np.nan_to_num(np.asarray(signals["lr"], dtype=np.float64), nan=low)  # runs that have ended have none
        rates = np.log(np.clip(lr, low, high)) - fitted.scales.log_rate
        time = np.asarray(signals["step"], dtype=np.float64) / state["unit"]
        new = np.concatenate([time[:, None], np.nan_to_num(scaled(values, fitted.scales)), rates[:, None]], axis=1)
        tokens = np.concatenate([new[:, None].astype(np.float32), state["tokens"][:, :-1]], axis=1)
        return {**state, "tokens": tokens, "points": min(state["points"] + 1, tokens.shape[1])}

    @torch.no_grad()
    def _planned(self, state: GenerativeState, now: int) -> GenerativeState:
        """Plan the segments from `now` on, for runs of which a future was accepted."""
        fitted: FittedModel = self.check_unchanged(state)
        model, tokens = fitted.model, torch.from_numpy(state["tokens"])
        assert isinstance(model, Generative)
        (runs, total), (low, high) = state["rates"].shape, state["range"]
        window = tokens[None, :, : model.sizes.window]
        code = model.encode(window, torch.full((1, runs), min(state["points"], model.sizes.window)))[0]
        noise = np.stack(
            [np.random.default_rng(seed).standard_normal((self.samples, code.shape[1])) for seed in state["seeds"]]
        )  # the same at every plan, as in the published code
        shift = torch.as_tensor(noise, dtype=code.dtype) * code.abs()[:, None] * self.sigma
        codes = torch.cat([code[:, None], code[:, None] + shift], 1)
        # Point k after the start is at the end of segment k, and decodes to the rate of that segment.
        times = torch.arange(self.horizon_runs * total + 1, dtype=code.dtype) * state["segment"] / state["unit"]
        decoded = model.decode(codes.flatten(0, 1)[None], times)[0, :, 1:].unflatten(0, codes.shape[:2])
        futures = decoded.numpy().astype(np.float64)
        losses = state["tokens"][:, : min(self.recent_points, state["points"]), 1 + TRAIN].astype(np.float64)
        starts, rewards, chosen, mean_rates = self._accepted(futures, losses, now, total)
        rates = state["rates"].copy()
        for run, row in enumerate(mean_rates):
            if row is not None:
                rates[run, now:] = np.clip(row * np.exp(fitted.scales.log_rate), low, high)
        record: FutureRecord = {
            "segment": now,
            "decoded": futures,
            "starts": starts,
            "rewards": rewards,
            "chosen": chosen,
        }
        return {**state, "rates": rates, "beliefs": [*state["beliefs"], record]}

    def _accepted(
        self, futures: Floats, losses: Floats, now: int, total: int
    ) -> tuple[NDArray[np.int64], Floats, list[list[int]], list[Floats | None]]:
        """Accept futures, choose the best of them, and average their rates.

        Args:
            futures: (runs, futures, times, OUTPUTS).
            losses: recent training losses, (runs, recent).
            now: segments done.
            total: segments of a run.

        Returns:
            The time at which each future would be entered, -1 if it was not accepted, (runs, futures); the predicted
            accuracy at the horizon, (runs, futures); the indices of chosen futures, and their mean rates divided by the
            model's constant, (segments left,), for each run.
        """
        left, last = total - now, futures.shape[2] - 1
        mean, width = losses.mean(1)[:, None, None], self.tolerance * losses.std(1)[:, None, None]
        difference = futures[:, :, :total, TRAIN] - mean
        near = (np.abs(difference) if self.two_sided_match else difference) < width
        if not self.match_any_time:
            near &= np.arange(total) == now - 1  # where the last of the losses was measured
        at = np.where(near, futures[:, :, :total, RATE], -np.inf)
        starts = np.where(near.any(2), at.argmax(2), -1)
        ends = np.clip(starts + round(self.horizon * left) - 1, 0, last)
        scores = np.take_along_axis(futures[..., SCORE], ends[..., None], 2)[..., 0]
        rewards = np.where(starts >= 0, scores, -np.inf)
        chosen, rates = [], []
        for run in range(len(futures)):
            order = np.argsort(-rewards[run], kind="stable")[: self.averaged_futures]
            best = [int(index) for index in order if np.isfinite(rewards[run, index])]
            rows = [futures[run, index, _times_from(starts[run, index], left, last), RATE] for index in best]
            chosen.append(best)
            rates.append(np.mean(np.exp(rows), axis=0) if best else None)
        return starts, rewards, chosen, rates


def _times_from(start: int, count: int, last: int) -> NDArray[np.int64]:
    """Return the indices of so many times from a start on; the last time is repeated, (count,)."""
    return np.minimum(start + np.arange(count), last)

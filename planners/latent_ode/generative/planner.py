"""The published planner: draw futures, keep those that agree with the present, play the mean of the best ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.planner import Belief, RunSpec, Signals, State, require, step_after
from planners.latent_ode.base import OfAModel, lasting, rates_of, times_of_plans
from planners.latent_ode.data.batches import scaled
from planners.latent_ode.data.dataset import CHANNELS, LOSS, Floats, channel
from planners.latent_ode.model.generative import OUTPUTS, RATE, Generative
from planners.settings import COUNT, POSITIVE, RATIO, SWITCH, Array, Rules

TRAIN, SCORE = CHANNELS.index("train_loss"), CHANNELS.index("val_accuracy")


@dataclass(frozen=True)
class LatentODEGenerative(OfAModel):
    """Plays the rates that a latent ODE decodes together with losses and scores (arXiv:2509.23052, Algorithm 1).

    The last points of the run are encoded; the latent code is perturbed; each code gives a whole run. Those that pass,
    somewhere, the training loss of now are accepted, and taken up at the one of these times at which their rate is
    largest. The rates of the few with the best score at the horizon are averaged. Until the first plan the best
    schedule of the sweep that people use is played. Fitted with `lr-env fit TASK --kind generative --design paper`.

    Attributes:
        model, reuse: see `OfAModel`.
        lead, every, until: shares of the run before the first plan, between two, after which none is made.
        horizon: share of what is left at whose end the score counts.
        samples: perturbed codes, beside the code itself.
        sigma: standard deviation of a perturbation, as a share of each coordinate's size.
        tolerance: standard deviations of the recent losses by which a future's loss may differ from their mean.
        recent: last losses that a future is held against.
        best: accepted futures whose rates are averaged.
        two_sided: False: any lower loss is accepted, as the published code does.
        anywhen: False: futures count, and are taken up, only at the time that it is.
        reach: runs that a path is decoded over: a plan may begin late on a path, and still lasts to the end of the run.
            Where it ends before, the last rate and score stay.
        begin: family of the sweep of whose schedules the best is played before the first plan; all if empty.
    """

    name = "latent-ode-generative"
    kind = "generative"
    needs = frozenset({"step", "lr", *CHANNELS})
    rules: ClassVar[Rules] = {
        "lead": RATIO,
        "every": RATIO,
        "until": RATIO,
        "horizon": RATIO,
        "samples": COUNT,
        "sigma": POSITIVE,
        "tolerance": POSITIVE,
        "recent": COUNT,
        "best": COUNT,
        "reach": COUNT,
        "two_sided": SWITCH,
        "anywhen": SWITCH,
    }
    lead: float = 0.1
    every: float = 0.05
    until: float = 0.95
    horizon: float = 1.0
    samples: int = 30
    sigma: float = 0.15
    tolerance: float = 2.0
    recent: int = 3
    best: int = 3
    two_sided: bool = True
    anywhen: bool = True
    reach: int = 2
    begin: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.begin, str):
            raise UserError(f"planner {self.name!r}: begin must be the name of a family, or empty, not {self.begin!r}")

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """As many settings as there are rates, of which it has none: the default first."""
        tried = itertools.product((0.15, 0.05, 0.3), (True, False), (True, False))
        settings = [cls(sigma=sigma, anywhen=anywhen, two_sided=two) for sigma, anywhen, two in tried]
        more = [cls(sigma=0.3 + 0.01 * number) for number in range(1, len(rates) - len(settings) + 1)]
        return [*settings, *more][: len(rates)]

    @classmethod
    def for_task(cls, task: Any) -> Mapping[str, Any] | None:
        """None: no model of this kind is shipped."""
        return None

    @isolating
    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: see `OfAModel.trained_for`; or the sweep has no schedule to begin with.
        """
        trained = self.trained_for(run)
        kept = trained.repertoire
        best: dict[str, int] = {}
        for number in kept.families:  # the best first
            best.setdefault(kept.names[number].split(" ")[0], number)
        if self.begin and self.begin not in best:
            raise UserError(
                f"planner {self.name!r}: the sweep has no {self.begin!r} to begin with, but {', '.join(sorted(best))}"
            )
        lead = rates_of(kept.log_rates[best[self.begin] if self.begin else kept.best_family], run)
        window = max(trained.model.sizes.window, self.recent)
        return {
            "model": trained.fingerprint,
            "rates": np.tile(lead, (len(seeds), 1)),
            "tokens": np.zeros((len(seeds), window, 1 + len(OUTPUTS)), dtype=np.float32),
            "points": 0,
            "seeds": list(seeds),
            "range": list(run.lr_range),
            "segment": run.segment,
            "unit": self.unit(run),
            "beliefs": [],
            "step": None,
        }

    @isolating
    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        """The rate of each run, (num_runs,)."""
        require(self, signals)
        state = {**state, "step": step_after(self, state, signals)}
        now, total = state["step"] // state["segment"], state["rates"].shape[1]
        if now > 0:
            state = self._seen(state, signals)
        if now > 0 and now in times_of_plans(total, self.lead, self.every, self.until):
            state = self._planned(state, now)
        return state["rates"][:, now].copy(), state

    def rebudgeted(self, state: State, run: RunSpec) -> State:
        """The state of runs whose budget has changed: plans are made for what is left, at the next of their times."""
        return {**state, "rates": lasting(state["rates"], run)}

    @isolating
    def explain(self, state: State, run: int = 0) -> list[Belief]:
        """What was considered for a run at each plan: the mean of the futures that were chosen, and these.

        Args:
            state: of the planner.
            run: number of the run.
        """
        scales, total = self.check_unchanged(state).scales, state["rates"].shape[1]
        found = []
        for told in state["beliefs"]:
            now, left = told["segment"], total - told["segment"]
            decoded, starts = told["decoded"][run], told["starts"][run]
            ahead = [
                decoded[number, _ahead(starts[number], left, decoded.shape[1] - 1)] for number in told["chosen"][run]
            ]
            futures = np.reshape(ahead, (-1, left, len(OUTPUTS)))
            rates = np.exp(futures[..., RATE] + scales.log_rate)
            losses = np.exp(futures[..., LOSS] * scales.deviations[LOSS] + scales.means[LOSS])
            if ahead:
                rates, losses = (np.concatenate([of.mean(0, keepdims=True), of]) for of in (rates, losses))
            steps = (now + 1.0 + np.arange(left)) * state["segment"]
            found.append(Belief(now, rates, steps, losses[None]))
        return found

    def _seen(self, state: Mapping[str, Any], signals: Signals) -> dict[str, Any]:
        """The state a segment later."""
        trained = self.check_unchanged(state)
        values = np.stack([channel(name, np.asarray(signals[name], dtype=np.float64)) for name in CHANNELS], axis=-1)
        lr = np.nan_to_num(np.asarray(signals["lr"], dtype=np.float64), nan=state["range"][0])  # of runs that ended
        rates = np.log(np.clip(lr, *state["range"])) - trained.scales.log_rate
        time = np.asarray(signals["step"], dtype=np.float64) / state["unit"]
        new = np.concatenate([time[:, None], np.nan_to_num(scaled(values, trained.scales)), rates[:, None]], axis=1)
        tokens = np.concatenate([new[:, None].astype(np.float32), state["tokens"][:, :-1]], axis=1)
        return {**state, "tokens": tokens, "points": min(state["points"] + 1, tokens.shape[1])}

    @torch.no_grad()
    def _planned(self, state: Mapping[str, Any], now: int) -> dict[str, Any]:
        """The state, with new rates from now on where a future was accepted."""
        trained = self.check_unchanged(state)
        model, tokens = trained.model, torch.from_numpy(state["tokens"])
        assert isinstance(model, Generative)
        runs, total = state["rates"].shape
        read = tokens[None, :, : model.sizes.window]
        code = model.encode(read, torch.full((1, runs), min(state["points"], model.sizes.window)))[0]
        noise = np.stack(
            [np.random.default_rng(seed).standard_normal((self.samples, code.shape[1])) for seed in state["seeds"]]
        )  # the same at every plan, as in the published code
        moved = torch.as_tensor(noise, dtype=code.dtype) * code.abs()[:, None] * self.sigma
        codes = torch.cat([code[:, None], code[:, None] + moved], 1)
        # Point k of a run is at the end of segment k; what was decoded there is the rate of that segment.
        times = torch.arange(self.reach * total + 1, dtype=code.dtype) * state["segment"] / state["unit"]
        decoded = model.decode(codes.flatten(0, 1)[None], times)[0, :, 1:].unflatten(0, codes.shape[:2])
        futures = decoded.numpy().astype(np.float64)
        losses = state["tokens"][:, : min(self.recent, state["points"]), 1 + TRAIN].astype(np.float64)
        starts, rewards, chosen, rates = self._accepted(futures, losses, now, total)
        played = state["rates"].copy()
        for run, row in enumerate(rates):
            if row is not None:
                played[run, now:] = np.clip(row * np.exp(trained.scales.log_rate), *state["range"])
        belief = {"segment": now, "decoded": futures, "starts": starts, "rewards": rewards, "chosen": chosen}
        return {**state, "rates": played, "beliefs": [*state["beliefs"], belief]}

    def _accepted(
        self, futures: Floats, losses: Floats, now: int, total: int
    ) -> tuple[Floats, Floats, list[list[int]], list[Floats | None]]:
        """When and how well futures would be taken up, which are averaged, and their mean rates, over the model's.

        Args:
            futures: (runs, futures, times, OUTPUTS).
            losses: recent ones, (runs, recent).
            now: segments done.
            total: segments of a run.
        """
        left, last = total - now, futures.shape[2] - 1
        middle, width = losses.mean(1)[:, None, None], self.tolerance * losses.std(1)[:, None, None]
        off = futures[:, :, :total, TRAIN] - middle
        near = (np.abs(off) if self.two_sided else off) < width
        if not self.anywhen:
            near &= np.arange(total) == now - 1  # where the last of the losses was measured
        at = np.where(near, futures[:, :, :total, RATE], -np.inf)
        starts = np.where(near.any(2), at.argmax(2), -1)
        ends = np.clip(starts + round(self.horizon * left) - 1, 0, last)
        scores = np.take_along_axis(futures[..., SCORE], ends[..., None], 2)[..., 0]
        rewards = np.where(starts >= 0, scores, -np.inf)
        chosen, rates = [], []
        for run in range(len(futures)):
            order = np.argsort(-rewards[run], kind="stable")[: self.best]
            kept = [int(number) for number in order if np.isfinite(rewards[run, number])]
            rows = [futures[run, number, _ahead(starts[run, number], left, last), RATE] for number in kept]
            chosen.append(kept)
            rates.append(np.mean(np.exp(rows), axis=0) if kept else None)
        return starts, rewards, chosen, rates


def _ahead(start: int, left: int, last: int) -> NDArray[np.int64]:
    """Numbers of the times from a start on, as many as are left, (left,)."""
    return np.minimum(start + np.arange(left), last)

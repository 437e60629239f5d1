"""The planner: the rest of the schedule is what the model says would end best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lr_env.planner import RunSpec, Signals, State, require
from planners.latent_ode.search import GRID, Problem, Search, played, search
from planners.latent_ode.series import CHANNELS, channel
from planners.latent_ode.trained import Trained, find_model
from planners.latent_ode.windows import tokens
from planners.settings import Array


@dataclass(frozen=True)
class LatentODE:
    model: str = "DigitsMLP"
    lead: float = 0.1
    every: float = 0.2
    until: float = 0.9
    horizon: float = 1.0
    trust: float | None = 0.0
    pessimism: float = 1.0
    knots: int = 6
    rounds: int = 5
    candidates: int = 64
    ascents: int = 0

    name = "latent-ode"
    needs = frozenset({"step", "lr", *CHANNELS})

    @property
    def trained(self) -> Trained:
        return find_model(self.model)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        trained = self.trained
        count, window = len(seeds), trained.model.sizes.window
        at = (np.arange(run.num_segments) + 0.5) / run.num_segments
        lead = np.exp(np.interp(at, np.linspace(0, 1, len(trained.lead)), trained.lead))
        return {
            "rates": np.tile(np.clip(lead, *run.lr_range), (count, 1)),
            "steps": np.zeros((count, window)),
            "lr": np.ones((count, window)),
            "values": np.full((count, window, len(CHANNELS)), np.nan),
            "points": 0,
            "seeds": list(seeds),
            "range": list(run.lr_range),
            "segment": run.segment,
            "beliefs": [],
        }

    def plan(self, state: State, signals: Signals) -> tuple[Array, State]:
        require(self, signals)
        now = int(np.max(np.asarray(signals["step"])) // state["segment"])
        if now > 0:
            state = self._seen(state, signals)
        total = state["rates"].shape[1]
        if now in self.replans(total):
            state = self._planned(state, now)
        return state["rates"][:, now].copy(), state

    def replans(self, total: int) -> list[int]:
        shares = np.arange(self.lead, self.until + 1e-9, self.every)
        return sorted({int(round(share * total)) for share in shares})

    def _seen(self, state: Mapping[str, Any], signals: Signals) -> dict[str, Any]:
        """The window, with a point more."""

        def pushed(kept: Array, new: Any) -> Array:
            return np.concatenate([kept[:, 1:], np.asarray(new, dtype=np.float64)[:, None]], axis=1)

        values = np.stack([channel(name, np.asarray(signals[name], dtype=np.float64)) for name in CHANNELS], axis=-1)
        return {
            **state,
            "steps": pushed(state["steps"], signals["step"]),
            "lr": pushed(state["lr"], signals["lr"]),
            "values": pushed(state["values"], values),
            "points": min(state["points"] + 1, state["steps"].shape[1]),
        }

    def _planned(self, state: Mapping[str, Any], now: int) -> dict[str, Any]:
        trained = self.trained
        scales, model = trained.scales, trained.model
        runs, total = state["rates"].shape
        members, window = model.sizes.members, model.sizes.window
        seen = tokens(state["steps"], state["lr"], state["values"], scales)[:, ::-1].copy()
        points = torch.tensor(seen, dtype=torch.float32).expand(members, -1, -1, -1)
        with torch.no_grad():
            z = model.encode(points, torch.full((members, runs), state["points"]))
        left = (total - now) * state["segment"]
        span = torch.full((runs,), left / scales.budget, dtype=torch.float32)
        at = (now + np.linspace(0, 1, GRID) * (total - now)) / total
        grid = np.linspace(0, 1, trained.library.shape[1])
        limits = np.log(state["range"])
        tails = np.stack([np.interp(at, grid, row) for row in trained.library])
        if self.trust is None:
            low, high = (np.full(GRID, limit) for limit in limits)
        else:
            low, high = tails.min(0) - self.trust, tails.max(0) + self.trust
        low, high = (np.clip(bound, *limits) - scales.log_rate for bound in (low, high))
        bounds = [torch.tensor(np.tile(bound, (runs, 1)), dtype=torch.float32) for bound in (low, high)]
        problem = Problem(model, z, span, bounds[0], bounds[1], self.horizon)
        settings = Search(self.knots, self.rounds, self.candidates, pessimism=self.pessimism, ascents=self.ascents)
        mid = (np.arange(total) + 0.5) / total
        going = np.stack([np.interp(at, mid, np.log(row)) for row in state["rates"]])
        known = np.concatenate([going[:, None], np.tile(tails, (runs, 1, 1))], axis=1) - scales.log_rate
        shape = settings.rounds, settings.candidates, self.knots
        noise = np.stack([np.random.default_rng([seed, now]).standard_normal(shape) for seed in state["seeds"]], axis=1)
        plan, _ = search(problem, torch.tensor(known, dtype=torch.float32), settings, noise)
        rates = state["rates"].copy()
        rates[:, now:] = np.clip(
            np.exp(played(plan.numpy().astype(np.float64), total - now) + scales.log_rate), *state["range"]
        )
        with torch.no_grad():
            futures = model.read(problem.futures(plan[:, None])[:, :, 0])
        belief = {"now": now, "rates": rates[:, now:].copy(), "futures": futures.numpy().astype(np.float64)}
        return {**state, "rates": rates, "beliefs": [*state["beliefs"], belief]}

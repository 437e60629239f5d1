"""The latent ODE of training across tasks: several members at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

from planners.forecaster.model.encoders import GraphEncoder, Graphs
from planners.latent_ode.model.layers import Linear, Members, generators
from planners.transfer.grid import STEPS

_FASTEST = 3.0
"""Largest log of the speed, and minus the smallest one."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        known: numbers that describe a task.
        members: networks of the ensemble.
        latent: size of the state.
        context: size of what is made of the description.
        code: size of the task code: what tasks differ in that their descriptions do not say.
        width: units of hidden layers.
        encoder: learned encoder of the architecture, "" for none, or a kind of `GraphEncoder`.
        encoded: size of what it makes of an architecture.
    """

    known: int
    members: int = 5
    latent: int = 10
    context: int = 16
    code: int = 6
    width: int = 48
    encoder: str = ""
    encoded: int = 8


class TransferODE(Members):
    """dz/dt = exp(W c + a x(t)) F(z, c, x(t), t), with t the share of the budget that is over.

    x is the log of the rate in its unit, plus a shift that follows from c: how much rate the task takes. c is the sum
    of what is made of the description of the task, of its code, which is 0 for a task of which no run is known, and of
    what was seen of the run so far. What is read from the state is the log of the validation loss over that of a model
    that has learned nothing, along the run, and at its end on the whole validation split.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        context, latent, width = sizes.context, sizes.latent, sizes.width
        if sizes.encoder:
            self.graph = GraphEncoder(sizes.encoder, draws, sizes.encoded)
        inputs = sizes.known + (sizes.encoded if sizes.encoder else 0)
        self.know_1, self.know_2 = Linear(draws, inputs, width), Linear(draws, width, context)
        self.code = Linear(draws, sizes.code, context, scale=0.3)
        self.see_1 = Linear(draws, 3 * STEPS + context, width)
        self.see_2 = Linear(draws, width, context, scale=0.1)
        self.shift = Linear(draws, context, 1, scale=0.5)
        self.begin = Linear(draws, context, latent, scale=0.5)
        self.speed = Linear(draws, context + 1, 1, scale=0.1)
        self.field_1, self.field_2 = Linear(draws, latent + context + 3, width), Linear(draws, width, latent, scale=0.5)
        self.read_1, self.read_2 = Linear(draws, latent + context + 2, width), Linear(draws, width, 2, scale=0.3)
        self.read = Linear(draws, latent, 2, scale=0.5)

    def context(self, known: Tensor, graphs: Graphs | None = None) -> Tensor:
        """What is made of descriptions, (members or 1, tasks, known), (members, tasks, context)."""
        members = self.sizes.members
        known = known.expand(members, *known.shape[1:])
        if graphs is not None:
            known = torch.cat([known, self.graph(graphs.expand(members))], -1)
        return self.know_2(gelu(self.know_1(known)))

    def of_code(self, code: Tensor) -> Tensor:
        """The part of c that comes from codes, (members, runs, code), in (members, runs, context)."""
        return self.code(code)

    def of_seen(self, context: Tensor, log_rates: Tensor, curves: Tensor) -> Tensor:
        """The part of c that comes from what was seen of runs, (members, runs, context).

        Args:
            context: c without that part, (members, runs, context).
            log_rates: as in `forward`; what lies after the last part seen is not read.
            curves: log losses at the end of each part, NaN where not seen, (members or 1, runs, STEPS).
        """
        seen = torch.isfinite(curves)
        until = seen.flip(-1).cummax(-1).values.flip(-1)
        parts = [torch.nan_to_num(curves), torch.where(until, log_rates / 3, 0.0), seen.to(log_rates.dtype)]
        shown = torch.cat(parts, -1).expand(len(context), -1, -1)
        made = self.see_2(gelu(self.see_1(torch.cat([shown, context], -1))))
        return torch.where(seen.any(-1, keepdim=True), made, 0.0)

    def forward(self, context: Tensor, log_rates: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast runs from their beginning.

        Args:
            context: c of each run, (members, runs, context).
            log_rates: log of the mean rate in each part, in its unit, (members or 1, runs, STEPS).

        Returns:
            The log loss at the end of each part, (members, runs, STEPS), and that at the end on the whole split,
            (members, runs).
        """
        x = log_rates.expand(len(context), *log_rates.shape[1:]) + self.shift(context)
        state, path = self.begin(context), []
        features = torch.stack([x / 3, torch.exp(x.clamp(max=2.0)) / 2], -1)
        for part in range(STEPS):
            now = features[:, :, part]
            speed = self.speed(torch.cat([context, now[..., :1]], -1)).clamp(-_FASTEST, _FASTEST).exp() / STEPS
            middle = state + speed / 2 * self._field(state, context, now, part / STEPS)
            state = state + speed * self._field(middle, context, now, (part + 0.5) / STEPS)
            path.append(state)
        states = torch.stack(path, 2)
        shown = context[:, :, None].expand(-1, -1, STEPS, -1)
        hidden = gelu(self.read_1(torch.cat([states, shown, features], -1)))
        read = self.read_2(hidden) + self.read(states)
        return read[..., 0], read[:, :, -1, 1]

    def _field(self, state: Tensor, context: Tensor, now: Tensor, time: float) -> Tensor:
        at = torch.full_like(now[..., :1], time)
        return self.field_2(gelu(self.field_1(torch.cat([state, context, now, at], -1))))

"""The differential equation of a learning curve, told what is known of its run; several members at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu

from planners.forecaster.curves import POINTS
from planners.forecaster.model.encoders import GraphEncoder, Graphs
from planners.forecaster.times import END, TIMES
from planners.forecaster.window import FEATURES
from planners.latent_ode.model.layers import Linear, Members, generators

_FASTEST = 4.0
"""Largest logarithm of the speed, and minus the smallest one."""

_ENCODED = 12
"""Size of what a learned encoder makes of an architecture."""

DYNAMICS = ("ode", "direct", "paper")
"""A differential equation; a decoder of the same context without one, to compare with; and the published model, see
`planners.forecaster.model.published`."""

_NARROWEST = 3e-3
"""Smallest scale of a forecast's error, as a log ratio."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        known: numbers that describe a run: its settings and its architecture.
        members: networks of the ensemble.
        latent: size of the state.
        context: size of what is made of the known numbers.
        width: units of the field's hidden layer.
        steps: of the midpoint rule, from the last point seen to the end.
        encoder: of the architecture, one of `ENCODERS`.
        dynamics: one of `DYNAMICS`.
    """

    known: int
    members: int = 5
    latent: int = 10
    context: int = 14
    width: int = 44
    steps: int = 8
    dynamics: str = "ode"
    encoder: str = "summary"

    @property
    def learned(self) -> str:
        """The learned encoder of the architecture; empty without one."""
        learned = self.encoder.removeprefix("summary+")
        return "" if learned in ("summary", "none") else learned


@dataclass(frozen=True)
class Inputs:
    """What a forecast is made from, for a batch of runs.

    Attributes:
        known: numbers that describe the run, (members or 1, batch, known).
        window: what was seen, see `planners.forecaster.window`, (members or 1, batch, FEATURES).
        start: time of the last point seen, 0 where none was, (members or 1, batch).
        rates: log of rate / peak rate at each point, in units of 3, (members or 1, batch, POINTS).
        graphs: architectures of the runs, (members or 1, batch, ...), where they are read.
    """

    known: Tensor
    window: Tensor
    start: Tensor
    rates: Tensor
    graphs: Graphs | None = None


class CurveODE(Members):
    """dz/ds = exp(W c + w r(s)) F(z, c, r(s), s), in the time s = log(1 + t).

    c is made of what is known of the run, and r is the log of its rate, relative to the peak. The state starts, at the
    last point seen, from c and from the window. What is read from it, with c, r and s, is the log ratio of the metric
    to the last value seen, and the two scales of a two-piece Laplace distribution around it.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        context, latent, width = sizes.context, sizes.latent, sizes.width
        encoded = _ENCODED if sizes.learned else 0
        if sizes.learned:
            self.graph = GraphEncoder(sizes.learned, draws, _ENCODED)
        self.know_1, self.know_2 = Linear(draws, sizes.known + encoded, 24), Linear(draws, 24, context)
        self.see_1, self.see_2 = Linear(draws, FEATURES + context, 24), Linear(draws, 24, latent)
        self.begin = Linear(draws, context, latent)
        self.speed = Linear(draws, context + 1, 1, scale=0.1)
        self.field_1, self.field_2 = Linear(draws, latent + context + 2, width), Linear(draws, width, latent, scale=0.5)
        self.read = Linear(draws, latent, 1)
        self.read_1, self.read_2 = Linear(draws, latent + context + 2, 24), Linear(draws, 24, 3, scale=0.5)

    def forward(self, inputs: Inputs, at: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast points.

        Args:
            inputs: what is known and seen.
            at: points that are forecast, int64 (members or 1, batch, horizons).

        Returns:
            Medians of the log ratio, (members, batch, horizons), and scales below and above, (2, members, batch,
            horizons).
        """
        members = self.sizes.members
        known, window, start, rates = (
            part.expand(members, *part.shape[1:]) for part in (inputs.known, inputs.window, inputs.start, inputs.rates)
        )
        at = at.expand(members, *at.shape[1:])
        if inputs.graphs is not None:
            known = torch.cat([known, self.graph(inputs.graphs.expand(members))], -1)
        context = self.know_2(gelu(self.know_1(known)))
        state = self.begin(context) + self.see_2(gelu(self.see_1(torch.cat([window, context], -1))))
        times = torch.as_tensor(TIMES, dtype=state.dtype)[at]
        states = (
            state[:, :, None].expand(-1, -1, at.shape[-1], -1)
            if self.sizes.dynamics == "direct"
            else self._states(state, context, start, rates, times)
        )
        beside = torch.stack([rates.gather(-1, at), times / END], -1)
        inputs_of_reading = torch.cat([states, context[:, :, None].expand(-1, -1, at.shape[-1], -1), beside], -1)
        parts = self.read_2(gelu(self.read_1(inputs_of_reading)))
        middle = parts[..., 0] + self.read(states)[..., 0]
        return middle, _NARROWEST + torch.exp((parts[..., 1:] - 2).clamp(-8, 3)).movedim(-1, 0)

    def _states(self, state: Tensor, context: Tensor, start: Tensor, rates: Tensor, times: Tensor) -> Tensor:
        """States at some times, (members, batch, horizons, latent), between nodes by a straight line."""
        steps = self.sizes.steps
        move = (END - start)[..., None] / steps
        stages = start[..., None] + move * torch.arange(2 * steps, dtype=start.dtype) / 2
        of_stages = _at_times(rates, stages)
        nodes = [state]
        for step in range(steps):
            middle = state + move / 2 * self._field(state, context, of_stages, stages, 2 * step)
            state = state + move * self._field(middle, context, of_stages, stages, 2 * step + 1)
            nodes.append(state)
        place = ((times - start[..., None]) / move).clamp(0, steps)
        below = place.floor().clamp(max=steps - 1)
        path = torch.stack(nodes, 2)
        index = below.long()[..., None].expand(-1, -1, -1, path.shape[-1])
        return torch.lerp(path.gather(2, index), path.gather(2, index + 1), (place - below)[..., None])

    def _field(self, state: Tensor, context: Tensor, rates: Tensor, stages: Tensor, stage: int) -> Tensor:
        now = torch.stack([rates[..., stage], stages[..., stage] / END], -1)
        speed = self.speed(torch.cat([context, now[..., :1]], -1)).clamp(-_FASTEST, _FASTEST).exp()
        return speed * self.field_2(gelu(self.field_1(torch.cat([state, context, now], -1))))


def _at_times(rates: Tensor, times: Tensor) -> Tensor:
    """Rates at some times, between the points of the grid by a straight line, of the shape of the times."""
    place = torch.expm1(times).clamp(0, POINTS - 1)
    below = place.floor().clamp(max=POINTS - 2).long()
    return torch.lerp(rates.gather(-1, below), rates.gather(-1, below + 1), place - below)


def two_piece_laplace(error: Tensor, scales: Tensor) -> Tensor:
    """Negative log likelihood of an error, value - median, of the shape of the error, up to a constant.

    The density is exp(-|error| / scale) / (below + above), with the scale of the side on which the error lies.

    Args:
        error: (...).
        scales: below and above, (2, ...).
    """
    below, above = scales
    return torch.log(below + above) + error.abs() / torch.where(error < 0, below, above)

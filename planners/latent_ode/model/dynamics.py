"""The model: a latent ODE that the learning rate drives, corrected by recent surprises, with a linear read-out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from planners.latent_ode.data.dataset import CHANNELS, LOSS
from planners.latent_ode.model.layers import GRU, Linear, Members, drawn, generators
from planners.latent_ode.model.midpoint import midpoint

TOKEN = 2 + len(CHANNELS)
"""What is read of a point: time, u, and what was measured less what was foreseen of each channel."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        members: models of the ensemble, which differ in how they begin and in the runs that they are fitted to.
        latent: dimensions of the state.
        hidden: of the encoder's recurrent network.
        field: width of the vector field's hidden layer.
        window: points that the encoder reads.
        steps: of the solver, from now to the end of the run.
    """

    members: int = 5
    latent: int = 6
    hidden: int = 32
    field: int = 32
    window: int = 10
    steps: int = 16


class Ensemble(Members):
    """Several models of a task's training, computed as one.

    With u the log of the rate less a constant, and time as a share of a whole run:

        dz/dt = exp(u) F tanh(A z + u a + b),  values = R z + r,

    where the factor exp(u) says that to first order an optimizer moves by its rate: at a rate of 0 nothing changes.
    All runs begin in the same state. Where a run is by now is what the dynamics make of its rates so far, and a
    correction that a GRU reads off the recent surprises, backwards, last point first: what was measured less what was
    foreseen. A run that goes as foreseen is not moved, so that plans do not follow the noise of measurements; before
    anything is learned no run is.

    All tensors begin with (members, batch).

    Args:
        sizes: sizes.
        seed: of the initial weights.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        channels = len(CHANNELS)

        def kept(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.eye(*shape).expand(sizes.members, *shape).clone())

        self.encoder = GRU(draws, TOKEN, sizes.hidden)
        self.to_latent = nn.Parameter(torch.zeros(sizes.members, sizes.hidden, sizes.latent))
        self.start = drawn(draws, 1, sizes.latent, scale=0.5)
        self.inner = Linear(draws, sizes.latent, sizes.field)
        self.inner_rate = drawn(draws, 1, sizes.field, scale=0.5)
        self.outer = Linear(draws, sizes.field, sizes.latent, scale=0.5)
        self.read_out = kept(sizes.latent, channels)
        self.read_bias = nn.Parameter(torch.zeros(sizes.members, 1, channels))
        self.read_final = nn.Parameter(self.read_out.detach()[:, :, LOSS].clone())
        self.final_bias = nn.Parameter(torch.zeros(sizes.members, 1))

    def beginning(self, runs: int) -> Tensor:
        """The state in which runs begin, (members, runs, latent)."""
        return self.start.expand(-1, runs, -1)

    def corrected(self, state: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The state after the last point of each window.

        Args:
            state: what the dynamics make of the run so far, (members, batch, latent).
            tokens: (members, batch, window, TOKEN), last point first.
            lengths: points of each window, (members, batch); 0 at the start of a run.
        """
        there = torch.arange(tokens.shape[2]) < lengths[..., None]
        return state + self.encoder(tokens, there) @ self.to_latent

    def advanced(self, state: Tensor, rates: Tensor, span: Tensor) -> Tensor:
        """The state after one step of the solver, (members, batch, latent).

        Args:
            state: (members, batch, latent).
            rates: u, (members, batch).
            span: time, (members, batch).
        """
        return self.solve(state, rates[..., None], span)[:, :, -1]

    def encoding(self) -> list[nn.Parameter]:
        """The parameters that only corrections need."""
        return [*self.encoder.parameters(), self.to_latent]

    def dynamics(self) -> list[nn.Parameter]:
        """All others."""
        encoding = {id(parameter) for parameter in self.encoding()}
        return [parameter for parameter in self.parameters() if id(parameter) not in encoding]

    def solve(self, state: Tensor, rates: Tensor, span: Tensor) -> Tensor:
        """The states at the ends of the solver's steps.

        Args:
            state: at the start, (members, batch, latent).
            rates: u in each step, (members, batch, steps).
            span: time from the start to the end, (members, batch), which steps divide evenly; or, where they do not,
                the length of each times how many there are, (members, batch, steps).

        Returns:
            (members, batch, steps + 1, latent), that at the start first.
        """
        spans = span[..., None] if span.ndim < rates.ndim else span
        rates, spans = (of.permute(2, 0, 1)[:, :, None].contiguous() for of in (rates, spans))
        read = torch.cat([self.inner.weight, self.inner_rate, self.inner.bias[:, None]], 1)
        states = midpoint(
            state.transpose(1, 2),
            rates,
            rates.exp() * spans,
            read.transpose(1, 2),
            self.outer.weight.transpose(1, 2),
            self.outer.bias[..., None],
        )
        return states.permute(1, 3, 0, 2)

    def read(self, states: Tensor) -> Tensor:
        """The channels, scaled, (members, batch, points, channels), of states (members, batch, points, latent)."""
        members, batch, points, latent = states.shape
        flat = states.reshape(members, batch * points, latent) @ self.read_out + self.read_bias
        return flat.reshape(members, batch, points, len(CHANNELS))

    def final(self, states: Tensor) -> Tensor:
        """The scaled log loss on the whole validation split, (members, batch), of states whose last is at the end."""
        return (states[:, :, -1] @ self.read_final[..., None])[..., 0] + self.final_bias


@dataclass(frozen=True)
class Scales:
    """The constants by which what a model sees is scaled; they are kept with its weights.

    Attributes:
        log_rate: mean log rate of the sweep; u is the log rate less this.
        means, deviations: of each channel.
        budget: optimizer steps that are one unit of time.
    """

    log_rate: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    budget: int

    def __post_init__(self) -> None:
        numbers = (self.log_rate, *self.means, *self.deviations)
        whole = isinstance(self.budget, int) and self.budget >= 1
        if not (all(map(math.isfinite, numbers)) and min(self.deviations) > 0 and whole):
            raise ValueError(f"scales are no finite numbers: {self}")

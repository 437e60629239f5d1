"""The model of training: a latent ODE driven by the learning rate, corrected by recent innovations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from planners.latent_ode.channels import CHANNELS, LOSS
from planners.latent_ode.model.layers import GRU, Linear, Members, generators, normal_weights
from planners.latent_ode.model.midpoint import midpoint

NUM_FEATURES = 2 + len(CHANNELS)
"""Innovation features of a point: time, u, and for each channel what was measured less what was forecast."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of an ensemble.

    Attributes:
        members: models of the ensemble. They differ in their initial weights and in the runs that they are fitted to.
        latent: dimensions of the latent state.
        hidden: hidden units of the GRU that corrects the state.
        field: hidden units of the vector field.
        window: most recent points that the GRU reads.
        steps: steps of the solver from any time to the end of the run.
    """

    members: int = 5
    latent: int = 6
    hidden: int = 32
    field: int = 32
    window: int = 10
    steps: int = 16


class Ensemble(Members):
    """Several models of the training of a task, computed as one.

    With u the log of the rate less a constant, and time as a share of a whole run:

        dz/dt = exp(u) F tanh(A z + u a + b),  channels = R z + r.

    The factor exp(u) says that to first order an optimizer moves by its rate: at a rate of 0 nothing changes. All runs
    start in the same state z. The dynamics alone forecast a run from its rates. The differences between measurements
    and that forecast (innovations) go into a GRU, the last point first, whose output is added to the state: the
    correction. A run that goes as forecast is hardly moved, so that plans do not follow measurement noise; before
    anything is learned no run is moved.

    All tensors begin with (members, batch).
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        channels = len(CHANNELS)

        def identity(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.eye(*shape).expand(sizes.members, *shape).clone())

        self.encoder = GRU(draws, NUM_FEATURES, sizes.hidden)  # files of models have the parameters by their names
        self.to_latent = nn.Parameter(torch.zeros(sizes.members, sizes.hidden, sizes.latent))
        self.start = normal_weights(draws, 1, sizes.latent, scale=0.5)
        self.inner = Linear(draws, sizes.latent, sizes.field)
        self.inner_rate = normal_weights(draws, 1, sizes.field, scale=0.5)
        self.outer = Linear(draws, sizes.field, sizes.latent, scale=0.5)
        self.read_out = identity(sizes.latent, channels)
        self.read_bias = nn.Parameter(torch.zeros(sizes.members, 1, channels))
        self.read_final = nn.Parameter(self.read_out.detach()[:, :, LOSS].clone())
        self.final_bias = nn.Parameter(torch.zeros(sizes.members, 1))

    def initial_state(self, runs: int) -> Tensor:
        """Return the state in which all runs start, (members, runs, latent)."""
        return self.start.expand(-1, runs, -1)

    def correct(self, state: Tensor, features: Tensor, lengths: Tensor) -> Tensor:
        """Correct the forecast state by recent innovations, (members, batch, latent).

        Args:
            state: the state as the dynamics forecast it, (members, batch, latent).
            features: innovation features of recent points, last point first, (members, batch, window, NUM_FEATURES).
            lengths: number of points that are valid, (members, batch); 0 at the start of a run.
        """
        mask = torch.arange(features.shape[2]) < lengths[..., None]
        return state + self.encoder(features, mask) @ self.to_latent

    def correction_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the correction."""
        return [*self.encoder.parameters(), self.to_latent]

    def dynamics_parameters(self) -> list[nn.Parameter]:
        """Return all other parameters."""
        correction = {id(parameter) for parameter in self.correction_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in correction]

    def solve(self, state: Tensor, rates: Tensor, span: Tensor) -> Tensor:
        """Integrate the dynamics, and return the states at the start and after each step of the solver.

        Args:
            state: state at the start, (members, batch, latent).
            rates: u in each step, (members, batch, steps).
            span: time from the start to the end, (members, batch), for steps of equal length; or the length of each
                step times the number of steps, (members, batch, steps).

        Returns:
            (members, batch, steps + 1, latent).
        """
        spans = span[..., None] if span.ndim < rates.ndim else span
        rates, spans = (tensor.permute(2, 0, 1)[:, :, None].contiguous() for tensor in (rates, spans))
        inner = torch.cat([self.inner.weight, self.inner_rate, self.inner.bias[:, None]], 1)
        states = midpoint(
            state.transpose(1, 2),
            rates,
            rates.exp() * spans,
            inner.transpose(1, 2),
            self.outer.weight.transpose(1, 2),
            self.outer.bias[..., None],
        )
        return states.permute(1, 3, 0, 2)

    def decode(self, states: Tensor) -> Tensor:
        """Decode states (members, batch, points, latent) to scaled channels, (members, batch, points, channels)."""
        members, batch, points, latent = states.shape
        flat = states.reshape(members, batch * points, latent) @ self.read_out + self.read_bias
        return flat.reshape(members, batch, points, len(CHANNELS))

    def final_loss(self, states: Tensor) -> Tensor:
        """Decode the last of states (members, batch, points, latent), which is that at the end of the run.

        Returns:
            The scaled log loss on the whole validation split, (members, batch).
        """
        return (states[:, :, -1] @ self.read_final[..., None])[..., 0] + self.final_bias

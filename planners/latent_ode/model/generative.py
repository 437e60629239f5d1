"""The published model: a latent ODE whose path decodes to losses, score and learning rate together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchdiffeq import odeint

from planners.latent_ode.data.dataset import CHANNELS
from planners.latent_ode.model.layers import GRU, Linear, Members, generators

OUTPUTS = (*CHANNELS, "lr")
"""What a path decodes to; the rate as u, see `Scales`."""

RATE = OUTPUTS.index("lr")

SOLVER_STEPS = 12
"""Of the fourth-order method over one run; between its nodes states are cubic interpolations."""


@dataclass(frozen=True)
class GenerativeSizes:
    """Sizes; those of the published code.

    Attributes:
        members: models that are fitted; the published planner has one.
        width: of the encoder, the latent state and all hidden layers.
        window: points that the encoder reads.
        time: of a whole run as the encoder reads it; the published code has the number of its points.
    """

    members: int = 1
    width: int = 20
    window: int = 30
    time: float = 1.0


class Generative(Members):
    """An autonomous latent ODE from the start of a run on (arXiv:2509.23052 on the model of arXiv:2410.08923).

    A GRU reads a window backwards, with its absolute time; a linear map of its last state is the latent code z0; a
    network takes it to the state h at time 0, wherever in the run the window lies; dh/dt = s tanh MLP(h), with time as
    a share of a run; a linear read-out gives train loss, validation loss, score, and the log rate.

    All tensors begin with (members, batch).
    """

    def __init__(self, sizes: GenerativeSizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        width = sizes.width

        def layers() -> nn.ModuleList:
            return nn.ModuleList(Linear(draws, width, width) for _ in range(3))

        self.encoder = GRU(draws, 1 + len(OUTPUTS), width)
        self.to_latent = Linear(draws, width, width)
        self.to_state = layers()
        self.field = layers()
        self.pace = nn.Parameter(torch.ones(sizes.members, 1, 1))
        self.read_out = Linear(draws, width, len(OUTPUTS))

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Latent codes, (members, batch, width), of windows (members, batch, window, TOKEN), last point first."""
        there = torch.arange(tokens.shape[2]) < lengths[..., None]
        if self.sizes.time != 1:
            tokens = torch.cat([self.sizes.time * tokens[..., :1], tokens[..., 1:]], -1)
        return self.to_latent(self.encoder(tokens, there))

    def path(self, code: Tensor, times: Tensor) -> Tensor:
        """States (members, batch, times, width) at rising times, in runs."""
        first, second, third = self.to_state
        state = third(torch.relu(second(torch.relu(first(code)))))

        def move(time: Tensor, h: Tensor) -> Tensor:
            first, second, third = self.field
            return self.pace * torch.tanh(third(softplus(second(softplus(first(h))))))

        steps = max(1, math.ceil(float(times[-1]) * SOLVER_STEPS - 1e-6))
        grid = torch.arange(steps + 1, dtype=times.dtype) / SOLVER_STEPS
        states = odeint(move, state, grid, method="rk4")
        assert isinstance(states, Tensor)
        states = states.permute(1, 2, 0, 3)
        # By one product for all times: the solver's own interpolation asks for the field again at each of them.
        of_states, of_slopes = cubic(steps, times * SOLVER_STEPS)
        return of_states @ states + (of_slopes / SOLVER_STEPS) @ move(grid, states)

    def decode(self, code: Tensor, times: Tensor) -> Tensor:
        """`OUTPUTS`, scaled, (members, batch, times, outputs)."""
        return self.read_out(self.path(code, times))


def cubic(steps: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """What takes values and slopes at 0, 1 ... to Hermite's cubic interpolation between them.

    Args:
        steps: the last of these.
        at: where it is wanted, (times,).

    Returns:
        Weights of the values and of the slopes, (times, steps + 1) each.
    """
    before = at.floor().long().clamp(0, steps - 1)
    s = at - before
    last = s * s * (3 - 2 * s)
    weights = at.new_zeros(2, len(at), steps + 1)
    rows = torch.arange(len(at))
    weights[0, rows, before], weights[0, rows, before + 1] = 1 - last, last
    weights[1, rows, before], weights[1, rows, before + 1] = s * (1 - s) ** 2, s * s * (s - 1)
    return weights[0], weights[1]

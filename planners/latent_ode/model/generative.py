"""The published model: a latent ODE whose path decodes to losses, accuracy and learning rate together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchdiffeq import odeint

from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.model.layers import GRU, Linear, Members, generators

OUTPUTS = (*CHANNELS, "lr")
"""Names of what a path decodes to; "lr" is the log of the rate less a constant."""

RATE = OUTPUTS.index("lr")

SOLVER_STEPS = 12
"""Steps of the fourth-order solver over one run. States between its nodes are interpolated by cubics."""


@dataclass(frozen=True)
class GenerativeSizes:
    """Sizes of the model. The defaults are those of the published code.

    Attributes:
        members: models of the ensemble; the published planner has one.
        width: units of the encoder, the latent state and all hidden layers.
        window: most recent points that the encoder reads.
        time: duration of a whole run as the encoder reads it; in the published code it is the number of points.
    """

    members: int = 1
    width: int = 20
    window: int = 30
    time: float = 1.0


class Generative(Members):
    """An autonomous latent ODE that starts at the start of a run (arXiv:2509.23052, model of arXiv:2410.08923).

    A GRU reads a window of points, with their absolute times, the last point first. A linear map of its last hidden
    state is the latent code z0. A network maps the code to the state h at time 0 of the run, wherever the window lies.
    The state follows dh/dt = s tanh MLP(h), with time as a share of a run. A linear read-out gives training loss,
    validation loss, accuracy, and log rate.

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

    def encode(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Encode windows (members, batch, window, features), last point first, to codes, (members, batch, width)."""
        mask = torch.arange(windows.shape[2]) < lengths[..., None]
        if self.sizes.time != 1:
            windows = torch.cat([self.sizes.time * windows[..., :1], windows[..., 1:]], -1)
        return self.to_latent(self.encoder(windows, mask))

    def path(self, code: Tensor, times: Tensor) -> Tensor:
        """Integrate from time 0, and return the states at rising times (in runs), (members, batch, times, width)."""
        first, second, third = self.to_state
        state = third(torch.relu(second(torch.relu(first(code)))))

        def field(time: Tensor, h: Tensor) -> Tensor:
            first, second, third = self.field
            return self.pace * torch.tanh(third(softplus(second(softplus(first(h))))))

        steps = max(1, math.ceil(float(times[-1]) * SOLVER_STEPS - 1e-6))
        grid = torch.arange(steps + 1, dtype=times.dtype) / SOLVER_STEPS
        states = odeint(field, state, grid, method="rk4")
        assert isinstance(states, Tensor)
        states = states.permute(1, 2, 0, 3)
        # One product for all times, because the solver's own interpolation evaluates the field again at each.
        of_states, of_slopes = cubic(steps, times * SOLVER_STEPS)
        return of_states @ states + (of_slopes / SOLVER_STEPS) @ field(grid, states)

    def decode(self, code: Tensor, times: Tensor) -> Tensor:
        """Decode codes to scaled `OUTPUTS` at rising times, (members, batch, times, outputs)."""
        return self.read_out(self.path(code, times))


def cubic(steps: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the weights of cubic Hermite interpolation between values and slopes at 0, 1, ..., steps.

    Args:
        steps: last of the nodes.
        at: times at which to interpolate, (times,).

    Returns:
        Weights of the values, and of the slopes, (times, steps + 1) each.
    """
    before = at.floor().long().clamp(0, steps - 1)
    s = at - before
    last = s * s * (3 - 2 * s)
    weights = at.new_zeros(2, len(at), steps + 1)
    rows = torch.arange(len(at))
    weights[0, rows, before], weights[0, rows, before + 1] = 1 - last, last
    weights[1, rows, before], weights[1, rows, before + 1] = s * (1 - s) ** 2, s * s * (s - 1)
    return weights[0], weights[1]

"""The model: an encoder of a run's recent past, a latent ODE that the learning rate drives, a linear read-out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from planners.latent_ode.series import CHANNELS, LOSS

TOKEN = 2 + len(CHANNELS)
"""What the encoder reads of a point: time, log rate, channels."""

RECENT = 3

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
    latent: int = 8
    hidden: int = 32
    field: int = 32
    window: int = 20
    steps: int = 16


class Ensemble(nn.Module):
    """Several models of a task's training, computed as one.

    With u the log of the rate less a constant, and time t as a share of a whole run:

        dz/dt = exp(u) F tanh(A z + u a + b),  values = R z + r,

    where the factor exp(u) says that to first order an optimizer moves by its rate: at a rate of 0 nothing changes.
    The state z at the time of the last point of a window is a linear map of what a GRU makes of the window, read
    backwards, last point first.

    All tensors begin with (members, batch).

    Args:
        sizes: sizes.
        seed: of the initial weights.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = [torch.Generator().manual_seed(seed * 1000 + member) for member in range(sizes.members)]

        def drawn(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(torch.stack([torch.randn(*shape, generator=draw) * scale for draw in draws]))

        latent, hidden, field = sizes.latent, sizes.hidden, sizes.field
        self.encoders = nn.ModuleList(nn.GRU(TOKEN, hidden, batch_first=True) for _ in draws)
        for encoder, draw in zip(self.encoders, draws, strict=True):
            for weight in encoder.parameters():
                nn.init.uniform_(weight, -(hidden**-0.5), hidden**-0.5, generator=draw)
        self.to_latent = drawn(hidden, latent, scale=hidden**-0.5)
        self.recent = drawn(len(CHANNELS), latent, scale=len(CHANNELS) ** -0.5)
        self.start = drawn(1, latent, scale=0.5)
        self.inner = drawn(latent, field, scale=latent**-0.5)
        self.inner_rate = drawn(1, field, scale=0.5)
        self.inner_bias = drawn(1, field, scale=0.5)
        self.outer = drawn(field, latent, scale=0.5 * field**-0.5)
        self.outer_bias = drawn(1, latent, scale=0.0)
        self.read_out = drawn(latent, len(CHANNELS), scale=latent**-0.5)
        self.read_bias = drawn(1, len(CHANNELS), scale=0.0)
        self.read_final = drawn(latent, 1, scale=latent**-0.5)
        self.final_bias = drawn(1, scale=0.0)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The state at the last point of each window.

        Args:
            tokens: (members, batch, window, TOKEN), last point first.
            lengths: points of each window, (members, batch); 0 at the start of a run.

        Returns:
            (members, batch, latent).
        """
        states = []
        for encoder, points, length in zip(self.encoders, tokens, lengths, strict=True):
            last = (length - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.sizes.hidden)
            states.append(encoder(points)[0].gather(1, last)[:, 0] * (length > 0)[:, None])
        kept = (torch.arange(tokens.shape[2]) < lengths.clamp(max=RECENT)[..., None])[..., None]
        recent = (tokens[..., 2:] * kept).sum(2) / lengths.clamp(min=1, max=RECENT)[..., None]
        return torch.stack(states) @ self.to_latent + recent @ self.recent + self.start

    def solve(self, state: Tensor, rates: Tensor, span: Tensor, method: str = "midpoint") -> Tensor:
        """The states at the ends of the solver's steps, which divide each run's span of time evenly.

        Args:
            state: at the start, (members, batch, latent).
            rates: u in each step, (members, batch, steps).
            span: time from the start to the end, (members, batch).
            method: of torchdiffeq.

        Returns:
            (members, batch, steps + 1, latent), that at the start first.
        """
        steps = rates.shape[-1]
        drive = rates[..., None] * self.inner_rate[:, None] + self.inner_bias[:, None]
        pace = (rates.exp() * span[..., None])[..., None]

        def field(time: Tensor, z: Tensor) -> Tensor:
            step = min(int(time * steps + 1e-3), steps - 1)
            moved = torch.tanh(z @ self.inner + drive[:, :, step])
            return (moved @ self.outer + self.outer_bias) * pace[:, :, step]

        nodes = torch.linspace(0, 1, steps + 1, dtype=state.dtype)
        solved = odeint(field, state, nodes, method=method)
        assert isinstance(solved, Tensor)
        return solved.permute(1, 2, 0, 3)

    def read(self, states: Tensor) -> Tensor:
        """The channels, scaled, (members, batch, points, channels), of states (members, batch, points, latent)."""
        members, batch, points, latent = states.shape
        flat = states.reshape(members, batch * points, latent) @ self.read_out + self.read_bias
        return flat.reshape(members, batch, points, len(CHANNELS))

    def final(self, states: Tensor) -> Tensor:
        """The scaled log loss on the whole validation split, (members, batch), of states whose last is at the end."""
        return (states[:, :, -1] @ self.read_final)[..., 0] + self.final_bias

    def member(self, number: int) -> dict[str, Tensor]:
        """Copies of the weights of a member."""
        own = {name: weight[number].detach().clone() for name, weight in self._stacked()}
        encoder = {f"encoder.{name}": weight.clone() for name, weight in self.encoders[number].state_dict().items()}
        return own | encoder

    def put_member(self, number: int, weights: Mapping[str, Tensor]) -> None:
        """Give a member weights that `member` returned."""
        with torch.no_grad():
            for name, weight in self._stacked():
                weight[number] = weights[name]
        prefix = "encoder."
        self.encoders[number].load_state_dict(
            {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        )

    def _stacked(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, weight) for name, weight in self.named_parameters(recurse=False))


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

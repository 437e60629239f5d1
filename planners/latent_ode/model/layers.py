"""Neural-network layers of several networks at a time: all weights and inputs begin with a dimension of members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn


def generators(members: int, seed: int) -> list[Generator]:
    """Make a random generator for each member; what it draws does not depend on the number of members."""
    return [Generator().manual_seed(seed * 1000 + member) for member in range(members)]


def normal_weights(draws: Sequence[Generator], *shape: int, scale: float) -> nn.Parameter:
    """Draw normal weights of standard deviation `scale` for each member, (members, *shape)."""
    return nn.Parameter(torch.stack([torch.randn(*shape, generator=draw) * scale for draw in draws]))


class Linear(nn.Module):
    """An affine layer: x W + b for inputs (members, ..., inputs)."""

    def __init__(self, draws: Sequence[Generator], inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = normal_weights(draws, inputs, outputs, scale=scale * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(draws), outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (members, ..., outputs)."""
        flat = x.flatten(1, -2)
        out = torch.baddbmm(self.bias[:, None], flat, self.weight)
        return out.reshape(*x.shape[:-1], out.shape[-1])


class GRU(nn.Module):
    """A gated recurrent unit as torch's, which returns its last hidden state only."""

    def __init__(self, draws: Sequence[Generator], inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.read = Linear(draws, inputs, 3 * hidden)  # files of models have these layers by their names
        self.again = Linear(draws, hidden, 3 * hidden)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden state after the last valid point, (members, batch, hidden).

        Args:
            inputs: (members, batch, points, inputs).
            mask: which points are valid, (members, batch, points), boolean; they come first.
        """
        if not torch.is_grad_enabled():
            return self._without_gradient(inputs, mask)
        hidden = self.hidden
        projected = self.read(inputs).unbind(2)  # by an index each gradient would be as large as the whole tensor
        state = inputs.new_zeros(*inputs.shape[:2], hidden)
        for new, valid in zip(projected, mask[..., None].unbind(2), strict=True):
            recurrent = self.again(state)
            gates = torch.sigmoid(new[..., : 2 * hidden] + recurrent[..., : 2 * hidden])
            reset, stay = gates[..., :hidden], gates[..., hidden:]
            proposed = torch.tanh(new[..., 2 * hidden :] + reset * recurrent[..., 2 * hidden :])
            state = state + ((1 - stay) * valid) * (proposed - state)
        return state

    def _without_gradient(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Compute the same in place, with half as many operations."""
        hidden, projected = self.hidden, self.read(inputs)
        projected[..., hidden : 2 * hidden].masked_fill_(~mask[..., None], torch.inf)  # the state stays as it is
        bias, weight = self.again.bias[:, None], self.again.weight
        state = inputs.new_zeros(*inputs.shape[:2], hidden)
        for gate, new in zip(*(part.unbind(2) for part in projected.split((2 * hidden, hidden), -1)), strict=True):
            of_gates, of_new = torch.baddbmm(bias, state, weight).split((2 * hidden, hidden), -1)
            reset, stay = of_gates.add_(gate).sigmoid_().chunk(2, -1)
            state = torch.lerp(torch.addcmul(new, reset, of_new).tanh_(), state, stay)
        return state


class Members(nn.Module):
    """A module whose parameters all begin with a dimension of members."""

    @property
    def count(self) -> int:
        """Number of members."""
        return len(next(self.parameters()))

    def member(self, number: int) -> dict[str, Tensor]:
        """Copy the weights of one member."""
        return {name: weight[number].detach().clone() for name, weight in self.named_parameters()}

    def put_member(self, number: int, weights: Mapping[str, Tensor]) -> None:
        """Give one member the weights that `member` returned."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight[number] = weights[name]

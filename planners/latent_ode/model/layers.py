"""Layers of several networks of one kind, computed as one: all weights and inputs begin with (members, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn


def generators(members: int, seed: int) -> list[Generator]:
    """A generator for each member: what it draws does not depend on how many others there are."""
    return [Generator().manual_seed(seed * 1000 + member) for member in range(members)]


def drawn(draws: Sequence[Generator], *shape: int, scale: float) -> nn.Parameter:
    """Normal weights of that standard deviation for each member."""
    return nn.Parameter(torch.stack([torch.randn(*shape, generator=draw) * scale for draw in draws]))


class Linear(nn.Module):
    """x W + b, of inputs (members, ..., inputs)."""

    def __init__(self, draws: Sequence[Generator], inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = drawn(draws, inputs, outputs, scale=scale * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(draws), outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(members, ..., outputs)."""
        flat = x.flatten(1, -2)
        out = torch.baddbmm(self.bias[:, None], flat, self.weight)
        return out.reshape(*x.shape[:-1], out.shape[-1])


class GRU(nn.Module):
    """torch's gated recurrent unit, of which only the last state is wanted."""

    def __init__(self, draws: Sequence[Generator], inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.read = Linear(draws, inputs, 3 * hidden)
        self.again = Linear(draws, hidden, 3 * hidden)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        """The state after the points that are there, which come first.

        Args:
            tokens: (members, batch, points, inputs).
            there: (members, batch, points), boolean.

        Returns:
            (members, batch, hidden).
        """
        if not torch.is_grad_enabled():
            return self._last(tokens, there)
        hidden = self.hidden
        read = self.read(tokens).unbind(2)  # not by indices: the gradient of each would be as large as all of it
        state = tokens.new_zeros(*tokens.shape[:2], hidden)
        for new, known in zip(read, there[..., None].unbind(2), strict=True):
            before = self.again(state)
            gates = torch.sigmoid(new[..., : 2 * hidden] + before[..., : 2 * hidden])
            reset, stay = gates[..., :hidden], gates[..., hidden:]
            proposed = torch.tanh(new[..., 2 * hidden :] + reset * before[..., 2 * hidden :])
            state = state + ((1 - stay) * known) * (proposed - state)
        return state

    def _last(self, tokens: Tensor, there: Tensor) -> Tensor:
        """The same in half as many operations, and in place, where no gradient is asked for."""
        hidden, read = self.hidden, self.read(tokens)
        read[..., hidden : 2 * hidden].masked_fill_(~there[..., None], torch.inf)  # the state stays as it is
        bias, weight = self.again.bias[:, None], self.again.weight
        state = tokens.new_zeros(*tokens.shape[:2], hidden)
        for gate, new in zip(*(part.unbind(2) for part in read.split((2 * hidden, hidden), -1)), strict=True):
            of_gates, of_new = torch.baddbmm(bias, state, weight).split((2 * hidden, hidden), -1)
            reset, stay = of_gates.add_(gate).sigmoid_().chunk(2, -1)
            state = torch.lerp(torch.addcmul(new, reset, of_new).tanh_(), state, stay)
        return state


class Members(nn.Module):
    """A module of which every parameter begins with a dimension of members."""

    @property
    def count(self) -> int:
        """How many."""
        return len(next(self.parameters()))

    def member(self, number: int) -> dict[str, Tensor]:
        """Copies of the weights of a member."""
        return {name: weight[number].detach().clone() for name, weight in self.named_parameters()}

    def put_member(self, number: int, weights: Mapping[str, Tensor]) -> None:
        """Give a member weights that `member` returned."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight[number] = weights[name]

"""The solver of the dynamics: the midpoint rule with a hand-written gradient.

It takes the same steps as torchdiffeq's "midpoint", against which it is tested. There each step is dozens of small
operations that are recorded one by one for the gradient, which is most of the time of a fit.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from torch import Tensor


def midpoint(state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor, bias: Tensor) -> Tensor:
    """Integrate dz/dt = pace (F tanh(A (z, u, 1)) + b), with pace and u constant within each step.

    Time goes from 0 to 1 in equal steps. The batch comes last.

    Args:
        state: z at the start, (members, latent, batch).
        rates: u in each step, (steps, members, 1, batch).
        pace: speed in each step, (steps, members, 1, batch).
        inner: A, (members, width, latent + 2).
        outer: F, (members, latent, width).
        bias: b, (members, latent, 1).

    Returns:
        States at the start and after each step, (steps + 1, members, latent, batch).
    """
    # tanh(x) = 2 s(2 x) - 1, and the logistic function s takes a third of the time.
    of_logistic = state, rates, pace, 2 * inner, torch.cat([2 * outer, bias - outer.sum(-1, keepdim=True)], -1)
    if not torch.is_grad_enabled():
        return _solve(*of_logistic, keep=False)[0][:, :, : state.shape[1]]
    states = _Midpoint.apply(*of_logistic)
    assert isinstance(states, Tensor)
    return states


def _solve(
    state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs of A at the starts and at the middles of steps, and the inputs of (F, b) at both.

    The latter are overwritten step by step unless `keep`. The last rows of both hold the constants 1 and u, so that no
    operation is needed to add them.
    """
    steps, (members, width, read), (latent, batch) = len(rates), inner.shape, state.shape[1:]
    constant = torch.cat([rates, torch.ones_like(rates)], 2)
    states, middles = state.new_empty(steps + 1, members, read, batch), state.new_empty(steps, members, read, batch)
    states[:steps, :, latent:] = middles[:, :, latent:] = constant
    hidden = state.new_ones(2, steps if keep else 1, members, width + 1, batch)
    states[0, :, :latent] = now = state
    # Views are made at once, because indexing costs more than computing.
    places = pace / steps, states[:steps], middles, states[1:, :, :latent], middles[:, :, :latent]
    layers = *hidden, *hidden[:, :, :, :width]
    of_layers = [layer.unbind(0) if keep else repeat(layer[0], steps) for layer in layers]
    for move, at, within, after, middle, first, second, first_free, second_free in zip(
        *(place.unbind(0) for place in places), *of_layers, strict=True
    ):
        torch.sigmoid(torch.bmm(inner, at), out=first_free)
        torch.addcmul(now, torch.bmm(outer, first), move, value=0.5, out=middle)
        torch.sigmoid(torch.bmm(inner, within), out=second_free)
        torch.addcmul(now, torch.bmm(outer, second), move, out=after)
        now = after
    return states, middles, hidden


class _Midpoint(torch.autograd.Function):
    """`midpoint` with the logistic function in place of tanh, and (F, b) as one matrix."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        states, middles, hidden = _solve(state, rates, pace, inner, outer, keep=True)
        ctx.save_for_backward(states, middles, hidden, pace, inner, outer)
        return states[:, :, : state.shape[1]]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients  # of all states
        states, middles, hidden, pace, inner, outer = ctx.saved_tensors
        steps, width = len(pace), inner.shape[1]
        out, back = outer[..., :width].transpose(1, 2).contiguous(), inner[..., :-2].transpose(1, 2).contiguous()
        moves, free = above.new_empty(2, steps, *above.shape[1:]), hidden[:, :, :, :width]
        within = free * (1 - free)  # the slope of the logistic function, until it is needed
        places = pace / steps, *moves, *within, above[:-1]
        to_state = above[steps]
        for move, move_0, move_1, within_0, within_1, of_step in zip(
            *(reversed(place.unbind(0)) for place in places), strict=True
        ):
            torch.mul(to_state, move, out=move_1)
            to_middle = torch.bmm(back, within_1.mul_(torch.bmm(out, move_1)))
            torch.mul(to_middle, move, out=move_0).mul_(0.5)
            within_0.mul_(torch.bmm(out, move_0))
            to_state = torch.baddbmm(to_middle.add_(to_state).add_(of_step), back, within_0)
        to_rates = to_pace = None
        if ctx.needs_input_grad[1]:
            to_rates = (inner[..., -2, None] * within).sum((0, 3), keepdim=True)[0]
        if ctx.needs_input_grad[2]:  # `moves` are already multiplied by it
            raw = (moves * (outer @ hidden)).sum((0, 3), keepdim=True)[0]
            to_pace = torch.where(pace != 0, raw / torch.where(pace != 0, pace, 1.0), 0.0)
        read = torch.stack([states[:steps], middles])
        to_inner = _by_member(within) @ _by_member(read).transpose(1, 2)
        return to_state, to_rates, to_pace, to_inner, _by_member(moves) @ _by_member(hidden).transpose(1, 2)


def _by_member(tensor: Tensor) -> Tensor:
    """Reshape (2, steps, members, n, batch) to (members, n, 2 steps batch)."""
    return tensor.permute(2, 3, 0, 1, 4).flatten(2)

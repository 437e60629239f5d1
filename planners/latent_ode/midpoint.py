"""The solver of the model's field: the midpoint rule, with the gradient of its steps written out.

It takes the same steps as torchdiffeq's "midpoint", which tests hold it against. There, each step is some dozens of
small operations that are recorded one by one for the gradient, and a fit is little else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def midpoint(state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor, bias: Tensor) -> Tensor:
    """States along dz/dt = pace (F tanh(A (z, u, 1)) + b), with pace and u constant within each step.

    Steps are of the same length, and time goes from 0 to 1. The batch comes last.

    Args:
        state: at the start, (members, latent, batch).
        rates: u in each step, (steps, members, 1, batch).
        pace: in each step, (steps, members, 1, batch).
        inner: A, (members, width, latent + 2).
        outer: F, (members, latent, width).
        bias: b, (members, latent, 1).

    Returns:
        At the start and after each step, (steps + 1, members, latent, batch).
    """
    # tanh(x) = 2 s(2 x) - 1, and the logistic function s takes a third of the time.
    of_logistic = state, rates, pace, 2 * inner, 2 * outer, bias - outer.sum(-1, keepdim=True)
    if not torch.is_grad_enabled():
        return _solved(*of_logistic, kept=False)[0]
    found = _Midpoint.apply(*of_logistic)
    assert isinstance(found, Tensor)
    return found


def _solved(
    state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor, bias: Tensor, *, kept: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The states, those in the middles of steps, and the hidden layer at both; only the first unless `kept`."""
    steps, width = len(rates), inner.shape[1]
    of_state = inner[..., :-2].contiguous()
    of_rate, by_itself = inner[..., -2:].unsqueeze(-1).unbind(2)
    room = steps if kept else 1
    states, middles = state.new_empty(steps + 1, *state.shape), state.new_empty(room, *state.shape)
    hidden = state.new_empty(2, room, len(inner), width, state.shape[-1])
    states[0] = now = state
    # By views that are made at once: to index is dearer than to compute.
    within = middles.expand(steps, *state.shape), *hidden.expand(-1, steps, -1, -1, -1)
    places = rates, pace / steps, *within, states[1:]
    for rate, move, middle, first, second, after in zip(*(place.unbind(0) for place in places), strict=True):
        driven = torch.addcmul(by_itself, of_rate, rate)
        torch.sigmoid(torch.baddbmm(driven, of_state, now), out=first)
        torch.addcmul(now, torch.baddbmm(bias, outer, first), move, value=0.5, out=middle)
        torch.sigmoid(torch.baddbmm(driven, of_state, middle), out=second)
        torch.addcmul(now, torch.baddbmm(bias, outer, second), move, out=after)
        now = after
    return states, middles, hidden


class _Midpoint(torch.autograd.Function):
    """`midpoint` with the logistic function in place of tanh."""

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, rates: Tensor, pace: Tensor, inner: Tensor, outer: Tensor, bias: Tensor
    ) -> Tensor:
        states, middles, hidden = _solved(state, rates, pace, inner, outer, bias, kept=True)
        ctx.save_for_backward(states, middles, hidden, rates, pace, inner, outer, bias)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        states, middles, hidden, rates, pace, inner, outer, bias = ctx.saved_tensors
        steps = len(pace)
        out, back = outer.transpose(1, 2).contiguous(), inner[..., :-2].transpose(1, 2).contiguous()
        moves, within = states.new_empty(2, *middles.shape), torch.empty_like(hidden)
        torch.mul(hidden, 1 - hidden, out=within)  # the slope, until it is needed
        places = pace / steps, *moves, *within, above[:-1]
        to_state = above[steps]
        for move, move_0, move_1, within_0, within_1, own in zip(
            *(reversed(place.unbind(0)) for place in places), strict=True
        ):
            torch.mul(to_state, move, out=move_1)
            to_middle = torch.bmm(back, within_1.mul_(torch.bmm(out, move_1)))
            torch.mul(to_middle, move, out=move_0).mul_(0.5)
            within_0.mul_(torch.bmm(out, move_0))
            to_state = torch.baddbmm(to_middle.add_(to_state).add_(own), back, within_0)
        to_rates = to_pace = None
        if ctx.needs_input_grad[1]:
            to_rates = (inner[..., -2, None] * within).sum((0, 3), keepdim=True)[0]
        if ctx.needs_input_grad[2]:  # what moves hold has been multiplied by it
            raw = (moves * (bias + outer @ hidden)).sum((0, 3), keepdim=True)[0]
            to_pace = torch.where(pace != 0, raw / torch.where(pace != 0, pace, 1.0), 0.0)
        driven = torch.cat([rates, torch.ones_like(rates)], 2)
        read = torch.stack([torch.cat([place, driven], 2) for place in (states[:-1], middles)])
        moved = _by_member(moves)
        to_inner = _by_member(within) @ _by_member(read).transpose(1, 2)
        return to_state, to_rates, to_pace, to_inner, moved @ _by_member(hidden).transpose(1, 2), moved.sum(-1, True)


def _by_member(tensor: Tensor) -> Tensor:
    """(2, steps, members, n, batch) as (members, n, 2 steps batch)."""
    return tensor.permute(2, 3, 0, 1, 4).flatten(2)

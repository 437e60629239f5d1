"""Gradient descent that keeps, for each member of a model, the weights at which it did best on what is held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lr_env.errors import UserError
from planners.latent_ode.model.layers import Members

Progress = Callable[[int], None]
"""Told how many iterations were done since the last call."""

History = Sequence[tuple[str, int, float, float]]
"""(phase, iteration, loss on the runs fitted to, lowest so far on those held out), means over members."""


class Descent:
    """Phases of gradient descent, all members of a model at once.

    Args:
        model: the model.
        weight_decay: decoupled.
        looks: times in each phase that what is held out is looked at.
        progress: told of iterations.
    """

    def __init__(self, model: Members, weight_decay: float, looks: int, progress: Progress) -> None:
        self.model, self.weight_decay, self.looks, self.progress = model, weight_decay, looks, progress
        self.history: list[tuple[str, int, float, float]] = []

    def run(
        self,
        phase: str,
        iterations: int,
        learning_rate: float,
        parameters: list[nn.Parameter],
        loss: Callable[[], Tensor],
        held: Callable[[], Tensor],
    ) -> None:
        """Descend, and take for each member the weights that were best on the runs held out."""
        optimizer = torch.optim.AdamW(
            parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True
        )
        best, between = _Best(self.model), max(1, iterations // self.looks)
        for iteration in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _pace((iteration + 1) / iterations)
            if iteration % between == 0:
                self._look(best, held)
            losses = loss()
            optimizer.zero_grad()
            losses.sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            self.progress(1)
            if iteration % between == 0 or iteration + 1 == iterations:
                after = float(best.losses.mean())
                self.history.append((phase, iteration, float(losses.detach().mean()), after))
        self._look(best, held)
        if not best.found:
            raise UserError("the fit diverged: give a smaller learning rate")
        best.into(self.model)

    def _look(self, best: _Best, held: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            best.keep(self.model, held())


def path_length(states: Tensor) -> Tensor:
    """Mean length of latent paths, (members,), of states (members, batch, points, latent); arXiv:2410.08923.

    Sum over steps of sqrt(dz' S^-1 dz), with S the diagonal of the variances over the batch, divided by the mean
    standard deviation of first states over the batch, without which the latent space would shrink.
    """
    moved = (states[:, :, 1:] - states[:, :, :-1]) ** 2
    variance = states.var((1, 2), keepdim=True) + 1e-6
    lengths = ((moved / variance).sum(-1) + 1e-12).sqrt().sum(-1).mean(1)
    return lengths / (states[:, :, 0].std(1).mean(-1) + 1e-3)


def _pace(done: float) -> float:
    return min(1.0, done / 0.1) * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (done - 0.1) / 0.9))) + 1e-3


class _Best:
    """The weights of each member at which it did best."""

    def __init__(self, model: Members) -> None:
        self.losses = torch.full((model.count,), torch.inf)
        self.members = [model.member(number) for number in range(model.count)]

    @property
    def found(self) -> bool:
        return bool(torch.isfinite(self.losses).all())

    def keep(self, model: Members, losses: Tensor) -> None:
        for number in torch.nonzero(losses < self.losses)[:, 0].tolist():
            self.losses[number] = losses[number]
            self.members[number] = model.member(number)

    def into(self, model: Members) -> None:
        for number, weights in enumerate(self.members):
            model.put_member(number, weights)

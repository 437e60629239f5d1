"""Training with early stopping: each member keeps the weights at which it did best on held-out runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lr_env.errors import UserError
from planners.latent_ode.model.layers import Members

LossHistory = Sequence[tuple[str, int, float, float]]
"""(phase, iteration, training loss, lowest validation loss so far), means over members."""


class EarlyStoppedTrainer:
    """Trains all members of a model at once, in phases, and stops each member early.

    The weight decay is decoupled. The validation loss is computed `validation_checks` times in each phase. `history` is
    a `LossHistory`.
    """

    def __init__(self, model: Members, weight_decay: float, validation_checks: int) -> None:
        self.model, self.weight_decay, self.validation_checks = model, weight_decay, validation_checks
        self.history: list[tuple[str, int, float, float]] = []

    def run(
        self,
        phase: str,
        iterations: int,
        learning_rate: float,
        parameters: list[nn.Parameter],
        training_loss: Callable[[], Tensor],
        validation_loss: Callable[[], Tensor],
    ) -> None:
        """Train some parameters, then give each member the weights that were best on its held-out runs.

        The rate of Adam rises to its peak for a tenth of the iterations, then falls by a cosine. Both losses are
        functions that compute the loss of each member, (members,); the second does so on held-out runs.

        Raises:
            UserError: the validation loss of a member was never finite.
        """
        optimizer = torch.optim.AdamW(
            parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True
        )
        best, interval = BestWeights(self.model), max(1, iterations // self.validation_checks)
        for iteration in range(iterations):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _learning_rate_factor((iteration + 1) / iterations)
            if iteration % interval == 0:
                best.update(validation_loss)
            losses = training_loss()
            optimizer.zero_grad()
            losses.sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            if iteration % interval == 0 or iteration + 1 == iterations:
                lowest = float(best.losses.mean())
                self.history.append((phase, iteration, float(losses.detach().mean()), lowest))
        best.update(validation_loss)
        if not torch.isfinite(best.losses).all():
            raise UserError("the fit diverged: give a smaller learning rate")
        best.restore()


def path_length(states: Tensor) -> Tensor:
    """Mean length of latent paths, (members,), of states (members, batch, points, latent); arXiv:2410.08923.

    It is the sum over steps of sqrt(dz' S^-1 dz), with S the diagonal of the variances over the batch, divided by the
    mean standard deviation of first states over the batch. Without that divisor the latent space would shrink.
    """
    moved = (states[:, :, 1:] - states[:, :, :-1]) ** 2
    variance = states.var((1, 2), keepdim=True) + 1e-6
    lengths = ((moved / variance).sum(-1) + 1e-12).sqrt().sum(-1).mean(1)
    return lengths / (states[:, :, 0].std(1).mean(-1) + 1e-3)


def _learning_rate_factor(done: float) -> float:
    return min(1.0, done / 0.1) * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (done - 0.1) / 0.9))) + 1e-3


class BestWeights:
    """The weights of each member at its lowest validation loss so far."""

    def __init__(self, model: Members) -> None:
        self.model = model
        self.losses = torch.full((model.count,), torch.inf)
        self.weights = [model.member(number) for number in range(model.count)]

    @torch.no_grad()
    def update(self, validation_loss: Callable[[], Tensor]) -> None:
        """Keep the weights of the members whose loss is lower than ever."""
        losses = validation_loss()
        for number in torch.nonzero(losses < self.losses)[:, 0].tolist():
            self.losses[number] = losses[number]
            self.weights[number] = self.model.member(number)

    def restore(self) -> None:
        """Give each member its best weights."""
        for number, weights in enumerate(self.weights):
            self.model.put_member(number, weights)

"""Optimizers as settings: torch's optimizer for one child, and the same update for a stack of children.

An optimizer of torch has one learning rate for all parameters of a group, but a stack of children has one for each
child. The updates here follow the documented algorithms of `torch.optim`, and are tested against them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.errors import UserError

Coefficients = dict[str, NDArray[np.float64]]


class Optimizer(Protocol):
    """Settings of an optimizer without the learning rate.

    An optimizer without `update` (see `stackable`) is used by the loop backend only.
    """

    @property
    def stackable(self) -> bool:
        """Whether it has `update`, which steps a stack of children at once."""
        ...

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the running averages of every parameter, as in the state of torch's optimizer."""
        ...

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's optimizer with these settings."""
        ...

    def coefficients(self, lr: NDArray[np.float64], step: NDArray[np.int64]) -> Coefficients:
        """Return the numbers that a step derives from rate and time, in float64 like torch.

        Args:
            lr: learning rate of every child, group of parameters and step, (children, groups, steps).
            step: number of the step, 1 for a child's first one, (children, 1, steps).

        Returns:
            Name -> numbers that broadcast to the shape of the rates.
        """
        ...

    def update(
        self, parameters: Tensor, gradients: Tensor, slots: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> None:
        """Step some parameters of all children in place; `gradients` may be overwritten.

        Args:
            parameters: parameters, (children, ...).
            gradients: their gradients, of the same shape.
            slots: name -> running averages of the same shape.
            now: coefficients of this step, name -> (children, 1, ...).
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013), as `torch.optim.SGD`."""

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    stackable = True

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise UserError(f"{self}: momentum must be in [0, 1), weight_decay finite and at least 0")
        if self.nesterov and not self.momentum:
            raise UserError(f"{self}: nesterov needs a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum buffer, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD` with these settings."""
        return torch.optim.SGD(
            parameters, lr=0.0, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
        )

    def coefficients(self, lr: NDArray[np.float64], step: NDArray[np.int64]) -> Coefficients:
        """Return the rate."""
        return {"lr": lr}

    def update(
        self, parameters: Tensor, gradients: Tensor, slots: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> None:
        """Compute b <- momentum b + g;  p <- p - lr b  (Nesterov: p - lr (g + momentum b))."""
        if self.weight_decay:
            gradients.add_(parameters, alpha=self.weight_decay)
        direction = gradients
        if self.momentum:
            buffer = slots["momentum_buffer"]
            torch.add(gradients, buffer, alpha=self.momentum, out=buffer)  # one pass over memory, not two
            direction = gradients.add_(buffer, alpha=self.momentum) if self.nesterov else buffer
        parameters.addcmul_(direction, now["lr"], value=-1)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980), as `torch.optim.Adam`: weight decay is added to the gradient."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    torch_class: ClassVar[type[torch.optim.Adam]] = torch.optim.Adam

    stackable = True

    def __post_init__(self) -> None:
        if not (all(0 <= beta < 1 for beta in self.betas) and self.eps > 0 and 0 <= self.weight_decay < math.inf):
            raise UserError(f"{self}: betas must be in [0, 1), eps above 0, weight_decay finite and at least 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """The running averages of the gradient and of its square."""
        return "exp_avg", "exp_avg_sq"

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's optimizer of the same name with these settings."""
        return self.torch_class(parameters, lr=0.0, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def coefficients(self, lr: NDArray[np.float64], step: NDArray[np.int64]) -> Coefficients:
        """Return -rate / first bias correction, the root of the second one, and the factor of decoupled decay."""
        return {
            "size": -lr / (1 - self.betas[0] ** step),
            "root": np.sqrt(1 - self.betas[1] ** step),
            "keep": 1 - lr * self.weight_decay,
        }

    def update(
        self, parameters: Tensor, gradients: Tensor, slots: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> None:
        """Compute m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) g^2; p <- p - lr/(1-b1^t) m / (sqrt(v/(1-b2^t)) + eps)."""
        self._decay(parameters, gradients, now)
        mean = slots["exp_avg"].lerp_(gradients, 1 - self.betas[0])
        square = slots["exp_avg_sq"].mul_(self.betas[1]).addcmul_(gradients, gradients, value=1 - self.betas[1])
        scale = square.sqrt().div_(now["root"]).add_(self.eps)
        parameters.add_(scale.reciprocal_().mul_(mean).mul_(now["size"]))

    def _decay(self, parameters: Tensor, gradients: Tensor, now: Mapping[str, Tensor]) -> None:
        if self.weight_decay:
            gradients.add_(parameters, alpha=self.weight_decay)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), as `torch.optim.AdamW`."""

    weight_decay: float = 0.01
    torch_class: ClassVar[type[torch.optim.Adam]] = torch.optim.AdamW

    def _decay(self, parameters: Tensor, gradients: Tensor, now: Mapping[str, Tensor]) -> None:
        """Compute p <- (1 - lr decay) p."""
        if self.weight_decay:
            parameters.mul_(now["keep"])

"""The hypergradient: how the loss of the next batch changes with the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lr_env.signals import Signal

_DIRECTION = "direction"


class HypergradientMeter:
    """Inner product and cosine of each step's gradient and the last update over its rate (Baydin et al., ICLR 2018).

    An update theta <- theta - lr u makes the loss of the next batch change with the rate by -<gradient, u>: a positive
    product says that a larger rate would have been better. Both are 0 at the first step, where there is no update yet.
    """

    signals: ClassVar[tuple[Signal, ...]] = (
        Signal(
            "update_product",
            "nats/example/rate",
            "inner product of the gradient and the last update over its rate (1703.04782)",
            "step",
        ),
        Signal(
            "update_cosine", "1", "cosine of the angle between the gradient and the last update (1703.04782)", "step"
        ),
    )
    slots: ClassVar[tuple[str, ...]] = (_DIRECTION,)

    def before_update(self, gradients: Tensor, parameters: Tensor, slots: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Compare the gradients with the last updates; see `lr_env.signals.Meter`."""
        direction = slots[_DIRECTION]
        products = (gradients * direction).sum(1)
        norms = gradients.norm(dim=1) * direction.norm(dim=1)
        cosines = torch.where(norms > 0, products / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
        direction.copy_(parameters)
        return products, cosines

    def after_update(self, parameters: Tensor, lr: Tensor | float, slots: Mapping[str, Tensor]) -> None:
        """Keep the update over the rate that it was made with."""
        slots[_DIRECTION].sub_(parameters).div_(lr)

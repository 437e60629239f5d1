"""How a gradient lies to the update before it: what the loss says of the rate that the update was made with."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment(gradients: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Inner product and cosine of each child's gradient and its last update over the rate (Baydin et al., ICLR 2018).

    An update theta <- theta - lr u makes the loss of the next batch change with the rate by -<gradient, u>: a positive
    product says that a larger rate would have been better.

    Args:
        gradients: (children, parameters), before clipping.
        directions: u of each child's last update, (children, parameters); 0 before the first.

    Returns:
        Products and cosines, (children,) each; 0 where there is no direction.
    """
    products = (gradients * directions).sum(1)
    norms = gradients.norm(dim=1) * directions.norm(dim=1)
    return products, torch.where(norms > 0, products / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)

"""The norm of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from lr_env.signals import Signal


class GradientNormMeter:
    """Euclidean norm of each step's gradient, before it is clipped."""

    signals: ClassVar[tuple[Signal, ...]] = (
        Signal("gradient_norm", "nats/example/weight", "Euclidean norm of the gradient before clipping", "step"),
    )
    slots: ClassVar[tuple[str, ...]] = ()

    def before_update(self, gradients: Tensor, parameters: Tensor, slots: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The norm of each child's gradient; see `lr_env.signals.Meter`."""
        return (gradients.norm(dim=1),)

    def after_update(self, parameters: Tensor, lr: Tensor | float, slots: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""

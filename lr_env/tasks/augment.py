"""Augmentation: random changes of the training inputs, on the device where the children train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lr_env.errors import UserError


class Augment(Protocol):
    """Settings of an augmentation."""

    @property
    def draws(self) -> int:
        """Number of random integers that one example needs."""
        ...

    def apply(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Return changed inputs.

        Args:
            inputs: (examples, *input_shape), normalised; not changed in place.
            draws: uniform integers in [0, 2**24), (examples, self.draws) int32.

        Returns:
            A tensor of the shape of the inputs.
        """
        ...


@dataclass(frozen=True)
class CropFlip:
    """A random crop after zero padding, and a horizontal flip with probability 1/2 (He et al., arXiv 1512.03385, 4.2).

    Attributes:
        padding: pixels on each side; 0 for no crop.
        flip: whether to flip.
    """

    padding: int = 4
    flip: bool = True
    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int) or self.padding < 0:
            raise UserError(f"padding is {self.padding!r}: it must be a whole number of pixels, from 0 up")

    def apply(self, inputs: Tensor, draws: Tensor) -> Tensor:
        """Shift each image by up to `padding` pixels in each direction, and flip half of them."""
        _, channels, height, width = inputs.shape
        shifts = draws[:, :2].remainder(2 * self.padding + 1).long() - self.padding
        rows = torch.arange(height, device=inputs.device) + shifts[:, :1]
        columns = torch.arange(width, device=inputs.device).expand(len(inputs), -1)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 2**23, columns, width - 1 - columns)
        columns = columns + shifts[:, 1:]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        place = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        place = place.flatten(1)[:, None].expand(-1, channels, -1)
        return inputs.flatten(2).gather(2, place).view_as(inputs) * inside[:, None].to(inputs.dtype)

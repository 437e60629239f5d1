"""Child networks: frozen settings that build a `torch.nn.Module`.

A network of your own needs no registration: any frozen dataclass with `build` fits a `Task`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

from torch import nn


class Network(Protocol):
    """Settings of a child network.

    The module that `build` returns maps (batch, *input_shape) to logits (batch, num_classes). Its last `nn.Linear` is
    taken for the output layer. Its initial weights must come from torch's random functions, which draw from the
    child's own generator (see `children.initial`).
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A new module with initial weights."""
        ...


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU between them.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (128, 128)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Layers input -> hidden... -> classes; inputs are flattened."""
        widths = (math.prod(input_shape), *self.hidden, num_classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 (LeCun et al., Proc. IEEE 1998) in today's usual form: ReLU and max pooling, 28x28 inputs.

    Convolutions 6@5x5 (padding 2) and 16@5x5, each followed by 2x2 pooling; dense 400-120-84-classes.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network for images (channels, 28, 28)."""
        return nn.Sequential(
            nn.Conv2d(input_shape[0], 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

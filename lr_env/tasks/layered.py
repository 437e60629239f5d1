"""Networks whose layers differ from each other: width, activation, norm and skip of each layer are settings.

Task families draw such networks, see `lr_env.tasks.families`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lr_env.errors import UserError, find, whole
from lr_env.tasks.networks import _check, _MaxPool2

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
"""Name of an activation -> its module."""


def _for_each(network: object, field: str, values: Sequence[Any], default: Any, layers: int) -> tuple[Any, ...]:
    """Return the settings of all layers as a tuple; an empty one stands for the default in every layer.

    Raises:
        UserError: there are neither none nor one for each layer.
    """
    values = tuple(values) or (default,) * layers
    if len(values) != layers:
        raise UserError(
            f"{type(network).__name__}: {field} has {len(values)} values for {layers} layers: give one each"
        )
    return values


@dataclass(frozen=True)
class LayeredMLP:
    """Fully connected layers, each with a width, an activation, layer norm or not, and a skip connection or not.

    Layer i computes `dropout(activation(norm(W x + b) + skip))`, where x is the output of layer i - 1. The skip is the
    output of an earlier layer: as it is where the widths match, and otherwise through a linear projection without a
    bias. Layers count from 1; 0 is the (flattened) input.

    >>> LayeredMLP((64, 32, 32), activations=("relu", "tanh", "gelu"), skips=(None, 0, 1)).norms
    (False, False, False)

    Attributes:
        hidden: widths of the hidden layers.
        activations: name of each layer's activation, in `ACTIVATIONS`; empty: ReLU everywhere.
        norms: whether each layer has layer norm (Ba et al., arXiv 1607.06450); empty: nowhere.
        skips: number of the layer whose output is added to each layer, at least two below it; None for no skip;
            empty: no skips.
        dropout: probability that a hidden unit is dropped in training.

    Raises:
        UserError: a setting is out of range, or is not given once for each layer.
    """

    hidden: tuple[int, ...]
    activations: tuple[str, ...] = ()
    norms: tuple[bool, ...] = ()
    skips: tuple[int | None, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        hidden = tuple(whole("LayeredMLP: hidden", width) for width in self.hidden)
        object.__setattr__(self, "hidden", hidden)
        for field, default in (("activations", "relu"), ("norms", False), ("skips", None)):
            object.__setattr__(self, field, _for_each(self, field, getattr(self, field), default, len(hidden)))
        for name in self.activations:
            find("activation", name, ACTIVATIONS)
        for number, skip in enumerate(self.skips, 1):
            if skip is not None and whole("LayeredMLP: skips", skip, 0) > number - 2:
                raise UserError(
                    f"LayeredMLP: layer {number} has a skip from layer {skip}: it must come from at least two layers "
                    "below (0 is the input)"
                )
        _check(self, self.dropout)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the layers input -> hidden... -> classes; inputs are flattened."""
        return _LayeredMLP(self, math.prod(input_shape), num_classes)


class _LayeredMLP(nn.Module):
    def __init__(self, settings: LayeredMLP, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.skips = settings.skips
        widths = (inputs, *settings.hidden)
        self.layers = nn.ModuleList(
            _Layer(
                widths[number],
                widths[number + 1],
                ACTIVATIONS[activation](),
                norm,
                None if skip is None else widths[skip],
                settings.dropout,
            )
            for number, (activation, norm, skip) in enumerate(
                zip(settings.activations, settings.norms, settings.skips, strict=True)
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x.flatten(1)]
        for layer, skip in zip(self.layers, self.skips, strict=True):
            outputs.append(layer(outputs[-1], None if skip is None else outputs[skip]))
        return self.head(outputs[-1])


class _Layer(nn.Module):
    """dropout(activation(norm(linear(x)) + project(earlier)))."""

    def __init__(
        self, inputs: int, outputs: int, activation: nn.Module, norm: bool, skipped: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()
        self.project = nn.Identity() if skipped in (None, outputs) else nn.Linear(skipped or 0, outputs, bias=False)
        self.activation = activation
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()  # the noise of a rate of 0 would cost time

    def forward(self, x: Tensor, earlier: Tensor | None) -> Tensor:
        x = self.norm(self.linear(x))
        if earlier is not None:
            x = x + self.project(earlier)
        return self.dropout(self.activation(x))


POOLINGS = ("max", "mean")
"""Kinds of pooling over 2x2 pixels."""


@dataclass(frozen=True)
class LayeredCNN:
    """Convolutions, each with its channels, kernel, batch norm or not and 2x2 pooling or not, then dense layers.

    Convolutions keep the size of the image (stride 1, zero padding). Layer i computes
    `pool(activation(norm(conv(x))))`. Dense layers are `dropout(activation(linear(x)))`.

    Attributes:
        channels: channels of the convolutions.
        kernels: odd width of each kernel, pixels; empty: 3 everywhere.
        norms: whether each convolution has batch norm (Ioffe & Szegedy, arXiv 1502.03167); empty: nowhere.
        pools: whether each convolution is followed by pooling, which halves the image; empty: nowhere.
        dense: widths of the dense layers; may be empty.
        activation: name of the activation everywhere, in `ACTIVATIONS`.
        pooling: "max" or "mean".
        dropout: probability that a unit of a dense layer is dropped in training.

    Raises:
        UserError: a setting is out of range, or is not given once for each layer.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...] = ()
    norms: tuple[bool, ...] = ()
    pools: tuple[bool, ...] = ()
    dense: tuple[int, ...] = ()
    activation: str = "relu"
    pooling: str = "max"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("channels", "dense"):
            widths = tuple(whole(f"LayeredCNN: {field}", width) for width in getattr(self, field))
            object.__setattr__(self, field, widths)
        if not self.channels:
            raise UserError("LayeredCNN: it needs at least one convolution: give channels")
        for field, default in (("kernels", 3), ("norms", False), ("pools", False)):
            object.__setattr__(self, field, _for_each(self, field, getattr(self, field), default, len(self.channels)))
        for kernel in self.kernels:
            if whole("LayeredCNN: kernels", kernel) % 2 == 0:
                raise UserError(f"LayeredCNN: a kernel is {kernel} pixels wide: it must be odd")
        find("activation", self.activation, ACTIVATIONS)
        find("pooling", self.pooling, dict.fromkeys(POOLINGS))
        _check(self, self.dropout)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images (channels, height, width).

        Raises:
            UserError: the inputs are no images, or too small for so much pooling.
        """
        halvings = sum(self.pools)
        if len(input_shape) != 3 or min(input_shape[1:]) < 2**halvings:
            raise UserError(
                f"LayeredCNN: inputs of shape {input_shape} cannot be pooled {halvings} times: use images (channels, "
                "height, width), or fewer pools"
            )
        inputs, height, width = input_shape
        activation = ACTIVATIONS[self.activation]
        layers: list[nn.Module] = []
        for outputs, kernel, norm, pool in zip(self.channels, self.kernels, self.norms, self.pools, strict=True):
            layers.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm))
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers.append(activation())
            layers += [_MaxPool2() if self.pooling == "max" else _MeanPool2()] if pool else []
            inputs = outputs
        features = inputs * (height >> halvings) * (width >> halvings)
        layers.append(nn.Flatten())
        for outputs in self.dense:
            layers += [nn.Linear(features, outputs), activation()]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
            features = outputs
        return nn.Sequential(*layers, nn.Linear(features, num_classes))


class _MeanPool2(nn.Module):
    """2x2 mean pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

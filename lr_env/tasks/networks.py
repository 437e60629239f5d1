"""Child networks: frozen settings that build a `torch.nn.Module`.

A network of your own needs no registration: any frozen dataclass with `build` fits a `Task`.
"""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lr_env.errors import UserError, whole


class Network(Protocol):
    """Settings of a child network.

    The module that `build` returns maps (batch, *input_shape) to logits (batch, num_classes), or, for text, to logits
    (batch, context, num_classes) for the token after each token. Its last `nn.Linear` is taken as the output layer. Its
    initial weights must come from torch's random functions, which draw from the child's own generator (see
    `children.initial`). Randomness in training must come from `nn.Dropout`.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return a new module with initial weights."""
        ...


def _check(network: object, dropout: float = 0.0, **counts: int) -> None:
    """Check the settings of a network: a probability and counts."""
    for name, value in counts.items():
        whole(f"{type(network).__name__}: {name}", value)
    if not 0 <= dropout < 1:
        raise UserError(f"{type(network).__name__}: dropout is {dropout!r}: it must be at least 0 and below 1")


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU between them.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))  # a list, e.g. from JSON, cannot be hashed
        for width in self.hidden:
            _check(self, hidden=width)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the layers input -> hidden... -> classes; inputs are flattened."""
        widths = (math.prod(input_shape), *self.hidden, num_classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 (LeCun et al., Proc. IEEE 1998) in its present form: ReLU and max pooling, 28x28 inputs.

    Convolutions 6@5x5 (padding 2) and 16@5x5, each followed by 2x2 pooling; dense 400-120-84-classes.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images (channels, 28, 28)."""
        return nn.Sequential(
            nn.Conv2d(input_shape[0], 6, 5, padding=2),
            nn.ReLU(),
            _MaxPool2(),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            _MaxPool2(),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )


@dataclass(frozen=True)
class CNN:
    """The convolutional network of the latent-ODE scheduler's paper (Sampson & Melchior, arXiv 2509.23052).

    Two 3x3 convolutions, 2x2 max pooling, two with twice the channels, pooling, a dense layer with dropout.

    Attributes:
        width: channels of the first two convolutions; 64 in the paper.
        dense: units of the dense layer.
        dropout: probability that a unit of the dense layer is dropped in training.
    """

    width: int = 64
    dense: int = 256
    dropout: float = 0.25

    def __post_init__(self) -> None:
        _check(self, self.dropout, width=self.width, dense=self.dense)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images (channels, height, width)."""
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for outputs in (self.width, 2 * self.width):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), _MaxPool2()]
            channels = outputs
        features = channels * (height // 4) * (width // 4)
        layers += [nn.Flatten(), nn.Linear(features, self.dense), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(self.dense, num_classes))


def _check_stages(network: ResNet | SwishResNet) -> None:
    """Check the numbers of blocks in the stages of a network, and keep them as a tuple."""
    object.__setattr__(network, "blocks", tuple(network.blocks))
    if not network.blocks:
        raise UserError(f"{type(network).__name__}: it needs at least one stage of blocks")
    for blocks in network.blocks:
        _check(network, blocks=blocks)


@dataclass(frozen=True)
class ResNet:
    """A residual network with batch norm and a 3x3 stem, for small images (He et al., arXiv 1512.03385).

    Every stage after the first halves the image and doubles the channels, in its first block, whose shortcut is a 1x1
    convolution. `ResNet((2, 2, 2, 2), 64)` is ResNet-18 with a 3x3 stem; `ResNet((1, 1, 1), 16)` has 8 layers.

    Attributes:
        blocks: number of blocks, of two 3x3 convolutions each, in each stage.
        width: channels of the first stage.
        stem_stride: 2 halves the image in the first convolution, which makes the network 4 times as fast.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem_stride: int = 1

    def __post_init__(self) -> None:
        _check_stages(self)
        _check(self, width=self.width, stem_stride=self.stem_stride)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images (channels, height, width)."""
        stem = nn.Conv2d(input_shape[0], self.width, 3, self.stem_stride, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(self.width), nn.ReLU()]
        channels = self.width
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                outputs = self.width * 2**stage
                layers.append(_Residual(channels, outputs, 2 if stage and not block else 1))
                channels = outputs
        return nn.Sequential(*layers, _MeanOverImage(), nn.Linear(channels, num_classes))


class _MaxPool2(nn.Module):
    """2x2 max pooling; without gradients it uses slices, which is 2 to 15 times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.max_pool2d(x, 2)
        height, width = (2 * (size // 2) for size in x.shape[-2:])
        rows = torch.maximum(x[..., 0:height:2, :width], x[..., 1:height:2, :width])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class _MeanOverImage(nn.Module):
    """The mean over height and width: simpler under vmap, and faster on a CPU, than `nn.AdaptiveAvgPool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class _Residual(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        # A slice, not a 1x1 convolution with a stride: the gradient of that, in torch 2.13, writes beyond its memory if
        # the format is channels-last, there are fewer than 8 input channels, and the CPU has AVX2 but no AVX-512.
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x[..., :: self.stride, :: self.stride]))


@dataclass(frozen=True)
class SwishResNet:
    """The variant of ResNet-18 that arXiv:2509.23052 trains on CIFAR-100: swish, max pooling, dropout before the head.

    Three 3x3 convolutions of 32, 32 and 64 channels come first. A later stage begins with 2x2 max pooling in place of
    a stride, the gain of a block's last norm begins at 0, and a share of the features is dropped before the head. Where
    the source does not say it, this is as in `ResNet`: blocks of two convolutions, and 1x1 convolutions as shortcuts.

    Attributes:
        blocks: number of blocks in each stage.
        width: channels of the first stage.
        dropout: probability of dropping a feature before the head.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    dropout: float = 0.3

    def __post_init__(self) -> None:
        _check_stages(self)
        _check(self, self.dropout, width=self.width)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for images (channels, height, width)."""
        half = max(1, self.width // 2)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((input_shape[0], half, half, self.width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]
        channels = self.width
        for stage, blocks in enumerate(self.blocks):
            if stage:
                layers.append(_MaxPool2())
            for _ in range(blocks):
                outputs = self.width * 2**stage
                layers.append(_SwishResidual(channels, outputs))
                channels = outputs
        head = nn.Linear(channels, num_classes)
        return nn.Sequential(*layers, _MeanOverImage(), nn.Dropout(self.dropout), head)


class _SwishResidual(_Residual):
    """silu(norm(conv(silu(norm(conv(x))))) + shortcut(x)), with a last norm whose gain begins at 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(y)) + self.shortcut(x))


@dataclass(frozen=True)
class GPT:
    """A character transformer after GPT-2 (Radford et al., 2019): pre-norm, causal, learned positions, tied weights.

    Initial weights are normal with standard deviation 0.02, those that end a residual branch with 0.02 / sqrt(2
    layers); biases are 0.

    Attributes:
        width: width of the residual stream.
        layers: number of blocks of attention and a two-layer network.
        heads: number of attention heads; divides the width.
        dropout: probability of dropping an element of the embeddings, or of a branch's output, in training.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(self, self.dropout, width=self.width, layers=self.layers, heads=self.heads)
        if self.width % self.heads:
            raise UserError(f"GPT: the width of {self.width} is not a multiple of the {self.heads} heads")

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the network for tokens (context,)."""
        return _GPT(self, input_shape[0], num_classes)


class _GPT(nn.Module):
    def __init__(self, settings: GPT, context: int, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.tokens = nn.Embedding(num_classes, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.Sequential(*[_Block(settings) for _ in range(settings.layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_branch = name.endswith("out.weight")
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * settings.layers) if ends_branch else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[-1], device=x.device)
        return self.head(self.norm(self.blocks(self.dropout(self.tokens(x) + self.positions(places)))))


class _Block(nn.Module):
    def __init__(self, settings: GPT) -> None:
        super().__init__()
        width = settings.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, settings.heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.dropout1 = nn.Dropout(settings.dropout)
        self.dropout2 = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.norm1(x)))
        return x + self.dropout2(self.out(F.gelu(self.up(self.norm2(x)), approximate="tanh")))


class _Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, context, width = x.shape
        split = self.qkv(x).view(batch, context, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind()
        # Inside torch.autocast, torch.func cannot differentiate attention (torch 2.13); the inputs are cast already.
        lower = query.dtype == torch.bfloat16
        with torch.autocast(x.device.type, enabled=False) if lower else nullcontext():
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, context, width))

"""Distributions of networks, optimizers and whole tasks: frozen dataclasses of bounds and shares.

Every `draw` reads a sequence of random numbers in a fixed order, so the same sequence gives the same task. A further
draw changes all that is drawn after it: tests pin a few tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from lr_env.errors import find
from lr_env.optimizers import SGD, Adam, AdamW, Optimizer
from lr_env.tasks.catalogue import Task
from lr_env.tasks.draws import Draws, rounded
from lr_env.tasks.layered import ACTIVATIONS, POOLINGS, LayeredCNN, LayeredMLP
from lr_env.tasks.networks import GPT, Network, ResNet

LR_RANGE = (1e-10, 10.0)
"""Smallest and largest rate of every sampled task: one range, so that the spaces of an environment stay the same."""

SEGMENTS = 50
"""Segments in a run of every sampled task."""

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""Names of the kinds of optimizers that can be drawn."""


class Networks(Protocol):
    """A distribution of networks."""

    def draw(self, draws: Draws) -> Network:
        """Draw a network."""
        ...


@dataclass(frozen=True)
class LayeredMLPs:
    """Distribution of `LayeredMLP`: depth, widths, activations, norms, skips and dropout.

    Half of the networks have one activation in all layers, half have no norm, and half have no skip, so that plain
    networks are among them.

    Attributes:
        depth: fewest and most hidden layers, uniform.
        width: narrowest and widest layer, log-uniform for each layer.
        activations: names of those that are drawn from.
        norms: share of the layers with layer norm, in networks that have some.
        skips: share of the layers, from the second on, with a skip from a random earlier layer, in networks that have
            some. Skips between layers of different width are projected, see `LayeredMLP`.
        dropout_share: share of the networks with dropout.
        dropout: bounds of its probability, uniform.
    """

    depth: tuple[int, int] = (1, 7)
    width: tuple[int, int] = (8, 128)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    norms: float = 0.6
    skips: float = 0.5
    dropout_share: float = 0.3
    dropout: tuple[float, float] = (0.05, 0.5)

    def draw(self, draws: Draws) -> LayeredMLP:
        """Draw a network."""
        depth = draws.whole(self.depth)
        layers = range(1, depth + 1)
        hidden = tuple(draws.log_whole(self.width) for _ in layers)
        mixed, activation = draws.chance(0.5), draws.choice(self.activations)
        activations = tuple(draws.choice(self.activations) if mixed else activation for _ in layers)
        normed = draws.chance(0.5)
        norms = tuple(draws.chance(self.norms if normed else 0) for _ in layers)
        skipping = draws.chance(0.5)
        skips = tuple(
            draws.whole((0, number - 2)) if number > 1 and draws.chance(self.skips if skipping else 0) else None
            for number in layers
        )
        return LayeredMLP(hidden, activations, norms, skips, _dropout(draws, self.dropout_share, self.dropout))


@dataclass(frozen=True)
class LayeredCNNs:
    """Distribution of `LayeredCNN`: channels and kernel of each convolution, norm, pooling, dense layers, dropout.

    Attributes:
        depth: fewest and most convolutions, uniform.
        channels: fewest and most channels, log-uniform for each convolution.
        kernels: widths of kernels, pixels.
        norms: share of the networks with batch norm, which all their convolutions have.
        pools: most poolings, at random places; each network has at least one.
        dense: narrowest and widest dense layer; no, one or two layers with equal probability.
        dropout_share: share of the networks with dense layers that have dropout.
        dropout: bounds of its probability, uniform.
    """

    depth: tuple[int, int] = (1, 3)
    channels: tuple[int, int] = (4, 16)
    kernels: tuple[int, ...] = (3, 5)
    norms: float = 0.5
    pools: int = 2
    dense: tuple[int, int] = (16, 64)
    dropout_share: float = 0.3
    dropout: tuple[float, float] = (0.05, 0.5)

    def draw(self, draws: Draws) -> LayeredCNN:
        """Draw a network."""
        depth = draws.whole(self.depth)
        channels = tuple(draws.log_whole(self.channels) for _ in range(depth))
        kernels = tuple(draws.choice(self.kernels) for _ in range(depth))
        normed = draws.chance(self.norms)
        places = list(range(depth))
        pooled = {
            places.pop(draws.whole((0, len(places) - 1))) for _ in range(draws.whole((1, min(self.pools, depth))))
        }
        dense = tuple(draws.log_whole(self.dense) for _ in range(draws.whole((0, 2))))
        return LayeredCNN(
            channels,
            kernels,
            (normed,) * depth,
            tuple(number in pooled for number in range(depth)),
            dense,
            draws.choice(tuple(ACTIVATIONS)),
            draws.choice(POOLINGS),
            _dropout(draws, self.dropout_share if dense else 0, self.dropout),
        )


@dataclass(frozen=True)
class ResNets:
    """Distribution of `ResNet`.

    Attributes:
        stages: fewest and most stages, uniform.
        blocks: most blocks in all stages together; each stage has at least one.
        width: fewest and most channels of the first stage, log-uniform.
        stem_strides: strides of the first convolution.
    """

    stages: tuple[int, int] = (1, 2)
    blocks: int = 2
    width: tuple[int, int] = (4, 12)
    stem_strides: tuple[int, ...] = (1, 2)

    def draw(self, draws: Draws) -> ResNet:
        """Draw a network."""
        blocks = [1] * draws.whole(self.stages)
        for _ in range(draws.whole((0, self.blocks - len(blocks)))):
            blocks[draws.whole((0, len(blocks) - 1))] += 1
        return ResNet(tuple(blocks), draws.log_whole(self.width), draws.choice(self.stem_strides))


@dataclass(frozen=True)
class GPTs:
    """Distribution of `GPT`.

    Attributes:
        layers: fewest and most blocks, uniform.
        heads: numbers of heads.
        width: smallest and largest width, log-uniform, rounded to a multiple of 8, which heads must divide.
        dropout_share: share of the networks with dropout.
        dropout: bounds of its probability, uniform.
    """

    layers: tuple[int, int] = (1, 2)
    heads: tuple[int, ...] = (1, 2, 4)
    width: tuple[int, int] = (16, 32)
    dropout_share: float = 0.3
    dropout: tuple[float, float] = (0.05, 0.3)

    def draw(self, draws: Draws) -> GPT:
        """Draw a network."""
        layers, heads = draws.whole(self.layers), draws.choice(self.heads)
        width = 8 * draws.log_whole((self.width[0] // 8, self.width[1] // 8))
        return GPT(width, layers, heads, _dropout(draws, self.dropout_share, self.dropout))


@dataclass(frozen=True)
class Optimizers:
    """Distribution of optimizers with their momenta and weight decay.

    Attributes:
        kinds: names of the kinds that are drawn with equal probability, in `OPTIMIZERS`.
        friction: bounds of 1 - momentum of SGD, log-uniform.
        beta1_gap, beta2_gap: bounds of 1 - beta of Adam and AdamW, log-uniform.
        decay_share: share of the optimizers with weight decay.
        decay: bounds of the weight decay that is added to the gradient, by SGD and Adam, log-uniform.
        decoupled_decay: bounds of the weight decay of AdamW, log-uniform.
    """

    kinds: tuple[str, ...] = OPTIMIZERS
    friction: tuple[float, float] = (0.02, 0.5)
    beta1_gap: tuple[float, float] = (0.05, 0.3)
    beta2_gap: tuple[float, float] = (0.001, 0.05)
    decay_share: float = 0.5
    decay: tuple[float, float] = (1e-5, 1e-2)
    decoupled_decay: tuple[float, float] = (1e-3, 0.3)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            find("kind of optimizer", kind, dict.fromkeys(OPTIMIZERS))

    def draw(self, draws: Draws) -> Optimizer:
        """Draw an optimizer."""
        kind = draws.choice(self.kinds)
        # Every kind takes as many random numbers, so that what is drawn later does not depend on the kind.
        momentum = rounded(1 - draws.log_uniform(self.friction))
        betas = rounded(1 - draws.log_uniform(self.beta1_gap)), rounded(1 - draws.log_uniform(self.beta2_gap), 5)
        decays, share = draws.chance(self.decay_share), self.decoupled_decay if kind == "adamw" else self.decay
        decay = draws.log_uniform(share) if decays else 0.0
        if kind in ("adam", "adamw"):
            return (AdamW if kind == "adamw" else Adam)(betas, weight_decay=decay)
        return SGD(0.0 if kind == "sgd" else momentum, kind == "nesterov", decay)


def rates_of(optimizer: Optimizer, scale: float = 1.0) -> tuple[float, tuple[float, float]]:
    """Return the rate to start from and the peak rates to tune over, for an optimizer.

    For SGD they are in proportion to 1 - momentum, because a gradient moves the weights by lr / (1 - momentum) in the
    end.

    >>> rates_of(SGD(momentum=0.9))
    (0.01, (0.003, 0.3))
    >>> rates_of(AdamW())
    (0.001, (0.0003, 0.03))
    """
    start, low, high = 0.001, 0.0003, 0.03
    if isinstance(optimizer, SGD):
        start, low, high = (rate * (1 - optimizer.momentum) for rate in (0.1, 0.03, 3.0))
    return rounded(start * scale), (rounded(low * scale), rounded(high * scale))


@dataclass(frozen=True)
class Tasks:
    """Distribution of tasks on some data sets with networks of one kind.

    Attributes:
        data: names of the data sets.
        networks: distribution of the networks.
        optimizers: distribution of the optimizers.
        segment: bounds of the optimizer steps in a segment, log-uniform; the budget is `SEGMENTS` times as large.
        batch_sizes: batch sizes; powers of two are uniform in their log.
        val_subset: validation examples measured after every segment.
        fraction_share, fraction: share of the tasks that use a part of the training split; bounds of the part,
            log-uniform.
        noise_share, noise: share of the tasks with wrong labels; bounds of the share of the labels, uniform.
        clip_norm: largest norm of a gradient, if any.
        rate_scale: factor on the rates of `rates_of`.
        tuning_range: peak rates to tune over, whatever the optimizer; by default those of `rates_of`.
    """

    data: tuple[str, ...]
    networks: Networks
    optimizers: Optimizers = Optimizers()
    segment: tuple[int, int] = (4, 16)
    batch_sizes: tuple[int, ...] = (16, 32, 64, 128)
    val_subset: int = 250
    fraction_share: float = 0.5
    fraction: tuple[float, float] = (0.2, 1.0)
    noise_share: float = 0.3
    noise: tuple[float, float] = (0.02, 0.4)
    clip_norm: float | None = None
    rate_scale: float = 1.0
    tuning_range: tuple[float, float] | None = None

    def draw(self, name: str, draws: Draws) -> Task:
        """Draw a task, and give it a name."""
        data = draws.choice(self.data)
        batch_size, segment = draws.choice(self.batch_sizes), draws.log_whole(self.segment)
        part, fraction = draws.chance(self.fraction_share), draws.log_uniform(self.fraction)
        noisy, noise = draws.chance(self.noise_share), draws.uniform(self.noise)
        optimizer = self.optimizers.draw(draws)
        network = self.networks.draw(draws)
        lr_start, tuning_range = rates_of(optimizer, self.rate_scale)
        if self.tuning_range is not None:
            tuning_range = self.tuning_range
            lr_start = rounded(math.sqrt(tuning_range[0] * tuning_range[1]))
        return Task(
            name,
            data,
            network,
            optimizer,
            batch_size=batch_size,
            budget=SEGMENTS * segment,
            segment=segment,
            val_subset=self.val_subset,
            lr_start=lr_start,
            lr_range=LR_RANGE,
            tuning_range=tuning_range,
            clip_norm=self.clip_norm,
            train_fraction=fraction if part else 1.0,
            label_noise=noise if noisy else 0.0,
        )


def _dropout(draws: Draws, share: float, bounds: tuple[float, float]) -> float:
    """Draw a probability of dropout, 0 for all but a share of the networks."""
    dropped, dropout = draws.chance(share), draws.uniform(bounds)
    return dropout if dropped else 0.0

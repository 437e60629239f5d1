"""Made-up learning curves whose course follows from the rate and the depth of the network."""

from __future__ import annotations

import numpy as np

from lr_env.architecture import Architecture, Node
from planners.forecaster.curves import POINTS, CurveSet


def chain(depth: int, width: int = 16) -> Architecture:
    """A chain of linear layers."""
    layers = [Node("linear", fan_in=width, fan_out=width, parameters=width * width) for _ in range(depth)]
    nodes = [Node("input", fan_out=width), *layers, Node("output", fan_in=width, fan_out=10)]
    return Architecture(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))


def made_up(count: int = 120, seed: int = 0, tasks: int = 2, decayed: bool = False) -> CurveSet:
    """Curves that fall faster with a larger rate and a deeper network, with two seeds of each configuration."""
    draw = np.random.Generator(np.random.PCG64(seed))
    half = count // 2
    rate, depth = np.exp(draw.uniform(-5, 0, half)), draw.integers(1, 5, half)
    rate, depth = np.repeat(rate, 2), np.repeat(depth, 2)
    t = np.arange(POINTS)
    speed = rate * depth
    values = 0.2 + 2.1 * (1 + speed[:, None] * t) ** -0.7 * np.exp(0.01 * draw.normal(size=(count, POINTS)))
    values = np.asarray(values, np.float64)
    rates = np.repeat(rate[:, None], POINTS, axis=1)
    if decayed:
        rates = rates * np.cos(0.5 * np.pi * t / POINTS) ** 2
    names = tuple(f"configuration {row // 2}" for row in range(count))
    return CurveSet(
        "val_loss",
        values,
        rates,
        {"batch_size": np.full(count, 32.0), "optimizer=SGD": np.ones(count)},
        tuple(chain(number) for number in range(1, 5)),
        depth - 1,
        np.full(count, np.log(10)),
        tuple(f"task {row // 2 % tasks}" for row in range(count)),
        names,
        tuple(f"{name}, seed {row % 2}" for row, name in enumerate(names)),
    )

"""Kinds of nodes and groups of activations."""

from __future__ import annotations

KINDS = ("linear", "conv", "norm", "embedding", "attention", "join", "input", "output", "other")
"""Kinds of nodes. A join combines two or more nodes without weights; `other` has weights but no kind of its own."""

ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu",
    "threshold": "relu",
    "leaky_relu": "leaky",
    "rrelu": "leaky",
    "prelu": "leaky",
    "gelu": "smooth",
    "silu": "smooth",
    "mish": "smooth",
    "hardswish": "smooth",
    "elu": "smooth",
    "selu": "smooth",
    "celu": "smooth",
    "softplus": "smooth",
    "tanh": "saturating",
    "sigmoid": "saturating",
    "logsigmoid": "saturating",
    "hardtanh": "saturating",
    "hardsigmoid": "saturating",
    "softsign": "saturating",
    "tanhshrink": "other",
    "softshrink": "other",
    "hardshrink": "other",
    "glu": "other",
}
"""Activation -> its group. Activations of a group are one feature."""


def group_of(activation: str) -> str:
    """Return the group of an activation; empty where there is none."""
    return ACTIVATIONS.get(activation, "other") if activation else ""

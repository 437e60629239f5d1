"""Numbers that describe an architecture: features of its nodes, and a summary of the whole graph.

The features and the summary follow GRAF (Kadlecová et al., "Surprisingly strong performance prediction with neural
graph features", ICML 2024), which found such numbers hard to beat by learned encoders of graphs.
"""

from __future__ import annotations

from math import log1p
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lr_env.architecture.kinds import KINDS, group_of

if TYPE_CHECKING:
    from lr_env.architecture.graph import Architecture

_GROUPS = ("relu", "leaky", "smooth", "saturating", "other")
_LOGS = ("fan_in", "fan_out", "parameters", "multiply_adds", "positions")

NODE_FEATURES = (
    *KINDS,
    *(f"log_{name}" for name in _LOGS),
    *(f"{group}_activation" for group in _GROUPS),
    "dropout",
    "tied",
    "relative_depth",
    "in_degree",
    "out_degree",
)
"""Names of the features of a node. Kinds and activations are 0 or 1; logs are log(1 + x); the relative depth is the
longest path to the node over the longest path of the graph; degrees are numbers of edges."""

_COUNTED = ("linear", "conv", "norm", "attention")

SUMMARY_FEATURES = (
    "log_parameters",
    "log_multiply_adds",
    "longest_path",
    "shortest_path",
    *(f"{kind}_nodes" for kind in _COUNTED),
    "joins",
    "mean_skip",
    "mean_log_width",
    "min_log_width",
    "max_log_width",
    "sd_log_width",
    "first_log_width",
    "last_log_width",
    "relu_share",
    "smooth_share",
    "norm_before_output",
    "dropout",
)
"""Names of the numbers of a summary, see `summary`."""


def node_features(architecture: Architecture) -> NDArray[np.float64]:
    """Return the features of each node, (nodes, features), in the order of `NODE_FEATURES`."""
    longest = max(max(architecture.depths), 1)
    rows = [
        [
            *(float(node.kind == kind) for kind in KINDS),
            *(log1p(getattr(node, name)) for name in _LOGS),
            *(float(group_of(node.activation) == group) for group in _GROUPS),
            node.dropout,
            float(node.tied),
            architecture.depths[number] / longest,
            len(architecture.sources[number]),
            len(architecture.targets[number]),
        ]
        for number, node in enumerate(architecture.nodes)
    ]
    return np.array(rows, dtype=np.float64)


def summary(architecture: Architecture) -> dict[str, float]:
    """Return the numbers that describe the whole graph, by their names in `SUMMARY_FEATURES`.

    Returns:
        log_parameters, log_multiply_adds: log(1 + the sum over nodes).
        longest_path, shortest_path: edges from an input to the output.
        linear_nodes, conv_nodes, norm_nodes, attention_nodes, joins: numbers of nodes.
        mean_skip: mean number of layers that an edge skips, plus 1, over the edges that skip any; 0 without skips.
        mean_, min_, max_, sd_log_width: of log(1 + fan_out) over the layers but norms and attention.
        first_log_width, last_log_width: of the first and last of these layers.
        relu_share: share of the activations that are ReLU or a leaky form of it.
        smooth_share: the same for GELU, SiLU, ELU and their like.
        norm_before_output: whether a norm is the last layer, or feeds the last layer; 0 or 1.
        dropout: the largest probability of dropping.
    """
    nodes = architecture.nodes
    kinds = [node.kind for node in nodes]
    layers = [n for n in architecture.order if nodes[n].weighted and kinds[n] not in ("norm", "attention")]
    widths = np.array([log1p(nodes[n].fan_out) for n in layers if nodes[n].fan_out] or [0.0])
    groups = [group_of(node.activation) for node in nodes if node.activation]
    skips = [depth for start, end in architecture.edges if (depth := _rise(architecture, start, end)) > 1]
    values = (
        log1p(sum(node.parameters for node in nodes)),
        log1p(sum(node.multiply_adds for node in nodes)),
        max(architecture.depths),
        _shortest_path(architecture),
        *(kinds.count(kind) for kind in _COUNTED),
        kinds.count("join"),
        np.mean(skips) if skips else 0.0,
        widths.mean(),
        widths.min(),
        widths.max(),
        widths.std(),
        widths[0],
        widths[-1],
        (groups.count("relu") + groups.count("leaky")) / max(len(groups), 1),
        groups.count("smooth") / max(len(groups), 1),
        _norm_before_output(architecture),
        max(node.dropout for node in nodes),
    )
    return {name: float(value) for name, value in zip(SUMMARY_FEATURES, values, strict=True)}


def _rise(architecture: Architecture, start: int, end: int) -> int:
    """By how much the depth grows along an edge: more than 1 where it skips layers."""
    return architecture.depths[end] - architecture.depths[start]


def _shortest_path(architecture: Architecture) -> int:
    """Edges of the shortest path from an input to the output; 0 where there is none."""
    far = len(architecture.nodes)
    away = [far] * far
    for number in architecture.order:
        before = [away[source] + 1 for source in architecture.sources[number]]
        away[number] = 0 if architecture.nodes[number].kind == "input" else min(before, default=far)
    ends = [away[n] for n, node in enumerate(architecture.nodes) if node.kind == "output" and away[n] < far]
    return min(ends, default=0)


def _norm_before_output(architecture: Architecture) -> bool:
    """Whether a norm is the last layer, or feeds it."""
    nodes, sources = architecture.nodes, architecture.sources
    last = [source for n, node in enumerate(nodes) if node.kind == "output" for source in sources[n]]
    return any(nodes[n].kind == "norm" or any(nodes[before].kind == "norm" for before in sources[n]) for n in last)

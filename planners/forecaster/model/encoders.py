"""Encoders of architectures: what a network says of itself, as a vector of fixed size; several members at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu, relu, softmax

from lr_env.architecture.features import NODE_FEATURES
from lr_env.architecture.graph import Architecture
from planners.latent_ode.model.layers import Linear

ENCODERS = ("summary", "none", "gcn", "summary+gcn", "set", "gru", "paper")
"""What a model is told of an architecture: numbers that are read off the graph, nothing, or what a learned encoder
makes of its nodes: a graph convolution along and against the edges; the nodes as a set, without edges; a GRU over the
nodes in their order; or the encoder of LC-GODE (arXiv 2412.15554)."""

MOST_NODES = 64
"""Nodes of a graph that are read; of larger ones the first, and the output."""


@dataclass(frozen=True)
class Graphs:
    """Architectures as tensors, for a batch of runs.

    Attributes:
        nodes: features of the nodes, (..., nodes, features); 0 where there is none.
        edges: 1 at [from, to], (..., nodes, nodes).
        there: 1 where there is a node, (..., nodes).
    """

    nodes: Tensor
    edges: Tensor
    there: Tensor

    def __getitem__(self, index: Tensor) -> Graphs:
        return Graphs(self.nodes[index], self.edges[index], self.there[index])

    def expand(self, members: int) -> Graphs:
        """The same for every member."""
        parts = (part.expand(members, *part.shape[1:]) for part in (self.nodes, self.edges, self.there))
        return Graphs(*parts)


def graphs_of(architectures: Sequence[Architecture]) -> Graphs:
    """Architectures as tensors, (architectures + 1, ...); the last one is that of an unknown network, without nodes."""
    kept = [_kept(architecture) for architecture in architectures]
    size = max((len(order) for _, order in kept), default=1)
    nodes = np.zeros((len(kept) + 1, size, len(NODE_FEATURES)), np.float32)
    edges = np.zeros((len(kept) + 1, size, size), np.float32)
    there = np.zeros((len(kept) + 1, size), np.float32)
    for place, (architecture, order) in enumerate(kept):
        nodes[place, : len(order)] = architecture.features()[order]
        edges[place, : len(order), : len(order)] = architecture.adjacency()[np.ix_(order, order)]
        there[place, : len(order)] = 1
    return Graphs(torch.from_numpy(nodes), torch.from_numpy(edges), torch.from_numpy(there))


def _kept(architecture: Architecture) -> tuple[Architecture, list[int]]:
    """The nodes that are read, so that each comes after those that feed it."""
    order = list(architecture.order)
    return architecture, order if len(order) <= MOST_NODES else [*order[: MOST_NODES - 1], order[-1]]


class GraphEncoder(nn.Module):
    """Makes a vector of each graph.

    Args:
        kind: "gcn", "set", "gru" or "paper".
        draws: a generator for each member.
        size: of the vector.
        width: units of a node.
    """

    def __init__(self, kind: str, draws: Sequence[Generator], size: int = 12, width: int = 16) -> None:
        super().__init__()
        self.kind = kind
        if kind == "paper":
            self.first, self.second, self.score = Linear(draws, 1, 8), Linear(draws, 8, 16), Linear(draws, 16, 1)
            self.out = Linear(draws, 16, size)
            return
        self.inward = Linear(draws, len(NODE_FEATURES), width)
        if kind == "gcn":
            self.here_1, self.before_1, self.after_1 = (Linear(draws, width, width, scale=0.6) for _ in range(3))
            self.here_2, self.before_2, self.after_2 = (Linear(draws, width, width, scale=0.6) for _ in range(3))
        if kind == "gru":
            self.new, self.again = Linear(draws, width, 3 * width), Linear(draws, width, 3 * width)
        self.out = Linear(draws, width if kind == "gru" else 2 * width, size)

    def forward(self, graphs: Graphs) -> Tensor:
        """Return the vectors, (members, batch, size), of graphs (members, batch, nodes, ...)."""
        there = graphs.there[..., None]
        if self.kind == "paper":
            return self._paper(graphs)
        x = gelu(self.inward(graphs.nodes)) * there
        if self.kind == "gru":
            return self.out(self._walk(x, there))
        if self.kind == "gcn":
            back = graphs.edges.transpose(-1, -2)
            for here, before, after in (
                (self.here_1, self.before_1, self.after_1),
                (self.here_2, self.before_2, self.after_2),
            ):
                x = (x + gelu(here(x) + before(back @ x) + after(graphs.edges @ x))) * there
        count = there.sum(-2).clamp_min(1)
        return self.out(torch.cat([x.sum(-2) / 8, x.sum(-2) / count], -1))

    def _walk(self, x: Tensor, there: Tensor) -> Tensor:
        """The last state of a GRU over the nodes."""
        state = x.new_zeros(*x.shape[:2], x.shape[-1])
        for node, valid in zip(self.new(x).unbind(2), there.unbind(2), strict=True):
            again = self.again(state)
            reset, stay, _ = (node + again).sigmoid().chunk(3, -1)
            proposed = torch.tanh(node.chunk(3, -1)[2] + reset * again.chunk(3, -1)[2])
            state = state + valid * (1 - stay) * (proposed - state)
        return state

    def _paper(self, graphs: Graphs) -> Tensor:
        """The encoder of LC-GODE: width / largest width, symmetric normalisation, and pooling by a softmax."""
        width = torch.expm1(graphs.nodes[..., _FAN_OUT : _FAN_OUT + 1])
        x = width / width.amax(-2, keepdim=True).clamp_min(1e-6)
        both = graphs.edges + graphs.edges.transpose(-1, -2)
        both = both + torch.diag_embed(graphs.there)
        root = both.sum(-1).clamp_min(1e-6).rsqrt() * graphs.there
        smooth = root[..., None] * both * root[..., None, :]
        hidden = smooth @ self.second(smooth @ self.first(x))
        score = (smooth @ self.score(hidden))[..., 0].masked_fill(graphs.there == 0, -1e9)
        return self.out((softmax(score, -1)[..., None] * relu(hidden)).sum(-2))


_FAN_OUT = NODE_FEATURES.index("log_fan_out")

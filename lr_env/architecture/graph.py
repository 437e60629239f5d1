"""The architecture of a network as a directed graph without cycles: layers and joins, and who feeds whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.architecture.features import node_features, summary
from lr_env.architecture.kinds import KINDS
from lr_env.errors import UserError, unknown

_COUNTS = ("fan_in", "fan_out", "parameters", "multiply_adds", "positions")
_TEXTS = ("kind", "operation", "name", "activation", "pooling")
_MOST = 2**63
"""Counts stay below this, so that they fit into 64 bits."""


@dataclass(frozen=True)
class Node:
    """A layer with weights, a join, an input or the output of a network.

    What follows it without weights of its own (an activation, pooling, dropout) belongs to it.

    Attributes:
        kind: one of `KINDS`.
        operation: what it computes, e.g. "conv2d" or "add".
        name: path of the module that computes it, e.g. "blocks.0.up"; only for readers, so it is not part of the key.
        fan_in: inputs of one output unit: features, or channels times the size of the kernel; rows of an embedding.
        fan_out: width: features or channels of the output.
        parameters: weights that no earlier node uses: the sum over nodes counts each weight once.
        multiply_adds: multiplications with an addition in the forward pass of one example.
        positions: places in the output of one example at which the same weights are used, e.g. pixels or tokens.
        activation: the first activation after it, e.g. "relu"; empty if there is none.
        pooling: "max" or "mean" where its output is pooled; else empty.
        dropout: probability of dropping an element of its output in training.
        tied: whether an earlier node uses some of its weights, too.
    """

    kind: str
    operation: str = ""
    name: str = ""
    fan_in: int = 0
    fan_out: int = 0
    parameters: int = 0
    multiply_adds: int = 0
    positions: int = 1
    activation: str = ""
    pooling: str = ""
    dropout: float = 0.0
    tied: bool = False

    def __post_init__(self) -> None:
        for field in _TEXTS:
            if not isinstance(getattr(self, field), str):
                raise UserError(f"node: {field} is {getattr(self, field)!r}: it must be text")
        if self.kind not in KINDS:
            raise unknown("kind of node", self.kind, KINDS)
        for field in _COUNTS:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
                raise UserError(f"node: {field} is {value!r}: it must be a whole number from 0 up, below 2**63")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout <= 1:
            raise UserError(f"node: dropout is {self.dropout!r}: it must be a number from 0 to 1")
        if not isinstance(self.tied, bool):
            raise UserError(f"node: tied is {self.tied!r}: it must be true or false")

    @property
    def weighted(self) -> bool:
        """Whether it is a layer, i.e. no join, input or output."""
        return self.kind not in ("join", "input", "output")


@dataclass(frozen=True)
class Architecture:
    """A network as a graph of layers. `lr_env.architecture.tracing.architecture_of` reads it off a module.

    Attributes:
        nodes: layers, joins, inputs and the output.
        edges: pairs (from, to) of positions in `nodes`, each given once.

    Raises:
        UserError: a node or an edge is malformed, or there is a cycle.

    >>> chain = Architecture((Node("input", fan_out=4), Node("linear", fan_in=4, fan_out=2)), ((0, 1),))
    >>> chain.depths
    (0, 1)
    >>> Architecture.from_json(chain.to_json()) == chain
    True
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "edges", tuple(map(_edge, self.edges)))
        if not self.nodes:
            raise UserError("architecture: it has no nodes")
        for node in self.nodes:
            if not isinstance(node, Node):
                raise UserError(f"architecture: a node is of type {type(node).__name__}: it must be a Node")
        for start, end in self.edges:
            if not (0 <= start < len(self.nodes) and 0 <= end < len(self.nodes)):
                raise UserError(f"architecture: the edge ({start}, {end}) leaves the {len(self.nodes)} nodes")
        if len(set(self.edges)) < len(self.edges):
            raise UserError("architecture: an edge is given twice")
        if len(self.order) < len(self.nodes):
            raise UserError("architecture: the edges make a cycle")

    @classmethod
    def from_json(cls, content: Any) -> Architecture:
        """Make the architecture that `to_json` gave.

        Args:
            content: the dict, or its JSON text.

        Raises:
            UserError: the content is malformed; the message is one line that names what is wrong.
        """
        if isinstance(content, str | bytes):
            try:
                content = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise UserError(f"architecture: this is not JSON ({error})") from None
        if not isinstance(content, Mapping) or set(content) != {"nodes", "edges"}:
            raise UserError('architecture: the content must be a JSON object with "nodes" and "edges"')
        for part in ("nodes", "edges"):
            if not isinstance(content[part], list | tuple):
                raise UserError(f'architecture: "{part}" must be a list')
        return cls(tuple(map(_node, content["nodes"])), tuple(content["edges"]))

    def to_json(self) -> dict[str, Any]:
        """Return the nodes and edges as JSON-able values."""
        return {"nodes": [asdict(node) for node in self.nodes], "edges": [list(edge) for edge in self.edges]}

    @cached_property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that feed it."""
        return _grouped(len(self.nodes), ((end, start) for start, end in self.edges))

    @cached_property
    def targets(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes that it feeds."""
        return _grouped(len(self.nodes), self.edges)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The nodes so that each comes after those that feed it; nodes behind a cycle are missing."""
        waiting = [len(sources) for sources in self.sources]
        order = [number for number, count in enumerate(waiting) if not count]
        for number in order:  # grows on the way
            for target in self.targets[number]:
                waiting[target] -= 1
                if not waiting[target]:
                    order.append(target)
        return tuple(order)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """For each node, the edges of the longest path that ends there."""
        depths = [0] * len(self.nodes)
        for number in self.order:
            depths[number] = max((depths[source] + 1 for source in self.sources[number]), default=0)
        return tuple(depths)

    @cached_property
    def key(self) -> str:
        """Hash of the content, 16 hexadecimal digits.

        It depends neither on the names of modules nor on the order of nodes. Networks that differ in a layer, a width
        or a connection have different keys.
        """
        labels = [_digest([value for name, value in asdict(node).items() if name != "name"]) for node in self.nodes]
        before, after = list(labels), list(labels)
        for number in self.order:
            before[number] = _digest([labels[number], *sorted(before[source] for source in self.sources[number])])
        for number in reversed(self.order):
            after[number] = _digest([labels[number], *sorted(after[target] for target in self.targets[number])])
        places = [_digest(pair) for pair in zip(before, after, strict=True)]
        return _digest([sorted(places), sorted((places[start], places[end]) for start, end in self.edges)])[:16]

    def adjacency(self) -> NDArray[np.float64]:
        """Return 1 at [from, to] for each edge, else 0, (nodes, nodes)."""
        matrix = np.zeros((len(self.nodes), len(self.nodes)))
        for start, end in self.edges:
            matrix[start, end] = 1.0
        return matrix

    def features(self) -> NDArray[np.float64]:
        """Return the features of the nodes, (nodes, features), in the order of `NODE_FEATURES`."""
        return node_features(self)

    def summary(self) -> dict[str, float]:
        """Return the features of the whole graph by the names in `SUMMARY_FEATURES`."""
        return summary(self)


def _edge(edge: Any) -> tuple[int, int]:
    """Return an edge as a pair of ints.

    Raises:
        UserError: it is none.
    """
    if isinstance(edge, list | tuple) and len(edge) == 2 and all(type(end) is int for end in edge):
        return edge[0], edge[1]
    raise UserError(f"architecture: an edge is {edge!r}: it must be a pair of node numbers")


def _node(content: Any) -> Node:
    """Return the node of JSON content.

    Raises:
        UserError: it is malformed.
    """
    names = [field.name for field in fields(Node)]
    if not isinstance(content, Mapping) or "kind" not in content:
        raise UserError('architecture: a node must be a JSON object with a "kind"')
    for name in content:
        if name not in names:
            raise unknown("field of a node", name, names)
    return Node(**content)


def _grouped(count: int, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """For each number below `count`, the second entries of the pairs that begin with it."""
    groups: list[list[int]] = [[] for _ in range(count)]
    for first, second in pairs:
        groups[first].append(second)
    return tuple(map(tuple, groups))


def _digest(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

"""From the operations of a forward pass to the graph of its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lr_env.architecture.graph import Architecture, Node
from lr_env.architecture.operations import MULTIPLY
from lr_env.architecture.recorder import Operation


def contracted(operations: Sequence[Operation], weights: Sequence[tuple[int, ...]], batch: int) -> Architecture:
    """Return the graph of the layers, joins, inputs and output.

    An operation without weights that has one source is no node: its activation, pooling, dropout and multiply-adds
    belong to the node before it. Layers whose results reach no output are left out.

    Args:
        operations: of a forward pass; the last one is the output.
        weights: the shape of each weight.
        batch: examples in the batch.
    """
    needed = _needed(operations)
    home: dict[int, tuple[int, ...]] = {}  # operation -> the nodes whose results it passes on
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    scores = _scores(operations)
    seen: set[int] = set()  # weights of earlier nodes
    for number, operation in enumerate(operations):
        if number not in needed:
            continue
        sources = tuple(dict.fromkeys(node for source in operation.sources for node in home[source]))
        if number in scores:
            home[number] = sources
            continue
        if not operation.kind and not operation.weights and len(sources) == 1:
            home[number] = sources
            nodes[sources[0]] = _with(nodes[sources[0]], operation, batch)
            continue
        node = _node(operation, [nodes[source] for source in sources], weights, batch)
        for part in (n for n, attention in scores.items() if attention == number):
            node = _with(node, operations[part], batch)
        mine = set(operation.weights)
        fresh = sum(math.prod(weights[weight]) for weight in mine - seen)
        nodes.append(replace(node, parameters=fresh, tied=bool(mine & seen)))
        seen |= mine
        home[number] = (len(nodes) - 1,)
        edges += [(source, len(nodes) - 1) for source in sources]
    return Architecture(tuple(nodes), tuple(edges))


def _needed(operations: Sequence[Operation]) -> set[int]:
    """The operations on which the output depends, and the inputs."""
    needed = {number for number, operation in enumerate(operations) if operation.kind in ("input", "output")}
    for number in reversed(range(len(operations))):
        if number in needed:
            needed.update(operations[number].sources)
    return needed


def _with(node: Node, operation: Operation, batch: int) -> Node:
    """A node with an operation that follows it: the first activation and pooling count, and the largest dropout."""
    return replace(
        node,
        activation=node.activation or operation.activation,
        pooling=node.pooling or operation.pooling,
        dropout=max(node.dropout, operation.dropout),
        multiply_adds=node.multiply_adds + round(operation.multiply_adds / batch),
    )


def _scores(operations: Sequence[Operation]) -> dict[int, int]:
    """Operation -> the attention that it is part of: where attention is spelled out, it is still one node.

    These are the operations from the product of queries and keys to the softmax and the dropout after it.
    """
    found: dict[int, int] = {}
    for number, operation in enumerate(operations):
        if operation.kind == "attention":
            for source in operation.sources:
                if operations[source].softmaxed:
                    found |= dict.fromkeys(_back_to_product(operations, source), number)
    return found


def _back_to_product(operations: Sequence[Operation], number: int, most: int = 8) -> list[int]:
    """The operations from one back to a product of two results, at most so many; none where there is no product."""
    operation = operations[number]
    if operation.kind or operation.weights or not most:
        return []
    if operation.operation in MULTIPLY:
        return [number]
    paths = (_back_to_product(operations, source, most - 1) for source in operation.sources)
    return next(([number, *path] for path in paths if path), [])


def _node(operation: Operation, sources: Sequence[Node], weights: Sequence[tuple[int, ...]], batch: int) -> Node:
    """The node of an operation; its weights are counted by the caller."""
    kind = operation.kind or ("other" if operation.weights else "join")
    shapes = [weights[weight] for weight in operation.weights]
    largest = max(shapes, key=math.prod, default=())
    batch = batch if operation.sources or kind == "input" else 1
    size = max(math.prod(operation.shape) // batch, 1)
    width = _width(kind, operation, sources, largest)
    fan_in = max((source.fan_out for source in sources), default=0)
    if kind in ("linear", "conv", "other") and shapes and operation.operation != "module":
        fan_in = max(math.prod(largest) // max(width, 1), 1)
    elif kind == "embedding":
        fan_in = largest[0] if largest else 0
    elif kind == "norm":
        fan_in = width
    elif kind == "input":
        fan_in = 0
    name = {"linear": "linear", "attention": "attention"}.get(kind, operation.operation)
    return Node(
        kind,
        name,
        operation.name,
        fan_in,
        width,
        multiply_adds=round(operation.multiply_adds / batch),
        positions=max(size // max(width, 1), 1),
        activation=operation.activation,
        pooling=operation.pooling,
        dropout=operation.dropout,
    )


def _width(kind: str, operation: Operation, sources: Sequence[Node], largest: tuple[int, ...]) -> int:
    """Units, channels or features of the result of an operation."""
    shape = operation.shape
    if kind == "conv":
        spatial = next((int(digit) for digit in operation.operation if digit.isdigit()), 2)
        return shape[-1 - spatial] if len(shape) > spatial else shape[0]
    if kind in ("linear", "embedding") and shape:
        return shape[-1]
    if kind == "attention" and len(shape) > 3:  # heads are beside the positions
        return shape[-3] * shape[-1]
    if kind == "norm" and largest:
        return math.prod(largest)
    candidates = [source.fan_out for source in sources]
    if kind == "input":
        return shape[1] if len(shape) > 3 else shape[-1] if len(shape) > 1 else 1
    likely = [sum(candidates), max(candidates, default=0)] if operation.operation in ("cat", "concat") else candidates
    for width in (*likely, *largest[-1:]):
        if width and width in shape[1:]:
            return width
    return shape[1] if len(shape) > 3 else shape[-1] if shape else 1

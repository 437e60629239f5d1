"""Trace functions of stacked children into flat lists of torch operations, once a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

_MOST_GRAPHS = 64
_graphs: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()


def traced(
    key: Hashable, function: Callable[[], Callable[..., Any]], *inputs: Any, compiled: bool = False
) -> Callable[..., Any]:
    """Trace a function, or take the graph of an earlier call with the same key: tracing takes seconds.

    Args:
        key: all that the graph depends on, including the shapes of the inputs.
        function: returns the function.
        inputs: examples of its inputs.
        compiled: whether `torch.compile` fuses its operations, when it is first called.
    """
    if key not in _graphs:
        graph = trace(function(), *inputs)
        _graphs[key] = torch.compile(graph, dynamic=False) if compiled else graph
        while len(_graphs) > _MOST_GRAPHS:
            _graphs.popitem(last=False)
    _graphs.move_to_end(key)
    return _graphs[key]


def trace(function: Callable[..., Any], *inputs: Any) -> GraphModule:
    """Trace a function into a flat list of torch operations."""
    # functorch has no rules for the backward passes of attention kernels, and would unroll them child by child; spelled
    # out, attention batches like anything else.
    with sdpa_kernel([SDPBackend.MATH]):
        return simplify(make_fx(function)(*inputs))


def simplify(graph: GraphModule) -> GraphModule:
    """Remove operations that change nothing: functorch adds many, and each costs microseconds a step."""
    aten = torch.ops.aten
    reshapes = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
    for node in graph.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, torch.fx.Node):
            continue
        same_shape = node.target in reshapes and node.meta["val"].shape == source.meta["val"].shape
        same_order = node.target is aten.permute.default and [*cast("list[int]", node.args[1])] == [
            *range(len(cast("list[int]", node.args[1])))
        ]
        times_one = node.target is aten.mul.Scalar and node.args[1] == 1
        if same_shape or same_order or times_one or node.target is aten.detach.default:
            node.replace_all_uses_with(source)
            continue
        both = (node.target, source.target)
        if both == (aten.transpose.int, aten.transpose.int) and set(_dims(node)) == set(_dims(source)):
            node.replace_all_uses_with(source.args[0])  # there and back
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _dims(node: torch.fx.Node) -> tuple[int, ...]:
    """The dimensions in the arguments of a transpose or a permutation."""
    _, *dims = cast("list[Any]", list(node.args))
    return tuple(dims if len(dims) > 1 else dims[0])

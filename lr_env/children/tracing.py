"""Trace functions of stacked children into flat lists of torch operations, once a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.nn.attention import SDPBackend, sdpa_kernel

aten: Any = torch.ops.aten

_FILLED = {
    aten.ones_like.default: 1,
    aten.new_ones.default: 1,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
}
"""Operation that fills a tensor -> what with."""

_LARGEST_CONSTANT = 2**18
"""Elements of a tensor that is kept from call to call."""

_MOST_GRAPHS = 64
_graphs: OrderedDict[Hashable, object] = OrderedDict()

G = TypeVar("G")


def traced(
    key: Hashable,
    function: Callable[[], Callable[..., Any]],
    *inputs: Any,
    compiled: bool = False,
) -> Callable[..., Any]:
    """Trace a function, or take the graph of an earlier call with the same key: tracing takes seconds.

    Args:
        key: all that the graph depends on, including the shapes of the inputs.
        function: returns the function.
        inputs: examples of its inputs.
        compiled: whether `torch.compile` fuses its operations, when it is first called.
    """

    def made() -> Callable[..., Any]:
        graph = trace(function(), *inputs)
        return torch.compile(graph, dynamic=False) if compiled else graph

    return kept(key, made)


def kept(key: Hashable, made: Callable[[], G]) -> G:
    """The graph of an earlier call with this key, or a new one."""
    if key not in _graphs:
        _graphs[key] = made()
        while len(_graphs) > _MOST_GRAPHS:
            _graphs.popitem(last=False)
    _graphs.move_to_end(key)
    return cast("G", _graphs[key])


def trace(function: Callable[..., Any], *inputs: Any) -> GraphModule:
    """Trace a function into a flat list of torch operations."""
    # functorch has no rules for the backward passes of attention kernels, and would unroll them child by child; spelled
    # out, attention batches like anything else.
    with sdpa_kernel([SDPBackend.MATH]):
        graph = make_fx(function)(*inputs)
    simplify(graph)
    fold_constants(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def simplify(graph: GraphModule) -> None:
    """Remove operations that change nothing: functorch adds many, and each costs microseconds a step."""
    reshapes = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
    for node in graph.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, Node):
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
        if both == (aten.transpose.int, aten.transpose.int) and set(dims(node)) == set(dims(source)):
            node.replace_all_uses_with(source.args[0])  # there and back


def fold_constants(graph: GraphModule) -> None:
    """Compute once what is the same at every call, such as the gradient of the loss by itself, which is 1."""
    changed, values = changed_in(graph), dict[Node, torch.Tensor]()
    for node in list(graph.graph.nodes):
        target, sources = node.target, node.all_input_nodes
        if not isinstance(target, OpOverload) or target._schema.is_mutable or base(node) in changed:
            continue
        known = node.meta["val"]
        if not isinstance(known, torch.Tensor) or known.numel() > _LARGEST_CONSTANT:
            continue
        if target in _FILLED:
            value = torch.full(known.shape, _FILLED[target], dtype=known.dtype, device=known.device)
        elif sources and all(source in values for source in sources):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            value = target(*args, **kwargs)
        else:
            continue
        name = f"constant_{len(values)}"
        graph.register_buffer(name, value, persistent=False)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta["val"] = value
        values[constant] = value
        node.replace_all_uses_with(constant)


def changed_in(graph: GraphModule) -> set[Node]:
    """Results whose memory is changed later: by an operation in place, or by whoever gets them."""
    changed = set()
    for node in graph.graph.nodes:
        if node.op == "output":
            changed |= {base(result) for result in node.all_input_nodes}
        elif isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            changed |= {base(source) for source in node.all_input_nodes}
    return changed


def is_view(node: Node) -> bool:
    """Whether a result shares the memory of its first argument and nothing was computed."""
    if not (isinstance(node.target, OpOverload) and node.args and isinstance(node.args[0], Node)):
        return False
    shares = any(one.alias_info is not None for one in node.target._schema.returns)
    return (node.target is aten._unsafe_view.default or shares) and not node.target._schema.is_mutable


def base(node: Node) -> Node:
    """The result whose memory another one shares, which is a view of it; the result itself if it is none."""
    while is_view(node):
        node = cast("Node", node.args[0])
    return node


def dims(node: Node) -> tuple[int, ...]:
    """The dimensions in the arguments of a transpose or a permutation."""
    _, *dims = cast("list[Any]", list(node.args))
    return tuple(dims if len(dims) > 1 else dims[0])

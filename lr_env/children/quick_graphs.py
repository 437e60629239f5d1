"""Graphs of torch operations whose calls cost as little as they can: fewer operations, in place, views made once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

from lr_env.children.tracing import base, changed_in, dims, is_view, kept, simplify, trace

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class QuickGraph:
    """A function in two parts.

    Attributes:
        views: takes the fixed inputs; returns what the operations need of them, which are views.
        operations: takes those views, then the varying inputs.
    """

    views: Callable[..., tuple[Tensor, ...]]
    operations: Callable[..., Tensor]

    def given(self, *fixed: Tensor) -> Callable[..., Tensor]:
        """The function of the varying inputs alone."""
        return partial(self.operations, *self.views(*fixed))


def traced_quick(
    key: Hashable, function: Callable[[], Callable[..., Tensor]], fixed: Sequence[Tensor], varying: Sequence[Tensor]
) -> QuickGraph:
    """Trace a function whose calls are to cost as little as they can; otherwise as `traced`.

    Args:
        key: all that the graph depends on, including the shapes of the inputs.
        function: returns the function, of tensors that returns one.
        fixed: examples of its first inputs, which are the same tensors in many calls, though their numbers may change.
        varying: examples of the others.
    """

    def made() -> QuickGraph:
        graph = trace(function(), *fixed, *varying)
        add_product_in_average(graph)
        simplify(graph)
        scatter_into_sum(graph)
        compute_in_place(graph)
        join_equal_views(graph)
        graph.graph.eliminate_dead_code()
        return split_off_views(graph, len(fixed))

    return kept(key, made)


def add_product_in_average(graph: GraphModule) -> None:
    """Turn a matrix product and its sum with a running average into one operation: average <- product + factor average.

    The product is a weight's gradient then, which is not written to memory and read again.
    """
    changed = changed_in(graph)
    for node in list(graph.graph.nodes):
        if node.target is not aten.add.out or len(node.args) != 2 or node.kwargs["out"] is not node.args[1]:
            continue
        term, average = cast("tuple[Node, Node]", node.args)
        turned = term.target is aten.transpose.int and set(dims(term)) == {1, 2}
        product = cast("Node", term.args[0]) if turned else term
        if product.target is not aten.bmm.default or len(term.users) > 1 or len(product.users) > 1:
            continue
        if {base(source) for source in product.all_input_nodes} & changed:
            continue
        into, factors = average, list(cast("tuple[Node, Node]", product.args))
        with graph.graph.inserting_before(node):
            if not average.meta["val"].is_contiguous():
                into, turned = _transposed(graph, average), not turned
            if turned:
                factors = [_transposed(graph, factor) for factor in reversed(factors)]
            if not into.meta["val"].is_contiguous():
                continue
            graph.graph.call_function(aten.baddbmm_.default, (into, *factors), {"beta": node.kwargs.get("alpha", 1)})
        node.replace_all_uses_with(average)
        graph.graph.erase_node(node)


def _transposed(graph: GraphModule, node: Node) -> Node:
    """Add the transposition of a stack of matrices to a graph."""
    transposed = graph.graph.call_function(aten.transpose.int, (node, 1, 2))
    transposed.meta["val"] = node.meta["val"].transpose(1, 2)
    return transposed


def scatter_into_sum(graph: GraphModule) -> None:
    """Turn a sum with numbers that are scattered among zeros into one operation in place."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or not all(isinstance(one, Node) for one in node.args):
            continue
        order = _order(graph)  # anew, for the graph was changed
        total, scattered = cast("tuple[Node, Node]", node.args)
        if scattered.target is not aten.scatter_add.default or len(scattered.users) > 1:
            continue
        if not _is_free(total, node, order):
            continue
        zeros, *where = scattered.args
        zeros = cast("Node", zeros)
        if zeros.op == "get_attr" and not getattr(graph, str(zeros.target)).any() and _alike(node, total):
            with graph.graph.inserting_before(node):
                into = graph.graph.call_function(aten.scatter_add_.default, (total, *where))
            into.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(into)
            graph.graph.erase_node(node)


_IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.exp.default: aten.exp_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
}
"""Operation of each element -> the same, in place of its first argument."""


def compute_in_place(graph: GraphModule) -> None:
    """Let operations write over results that nothing else reads."""
    order = _order(graph)
    for node in graph.graph.nodes:
        if node.target not in _IN_PLACE:
            continue
        first, *others = node.args
        if node.target in (aten.add.Tensor, aten.mul.Tensor) and not node.kwargs and not _is_free(first, node, order):
            first, *others = [*others, first]  # the order does not matter
        if _is_free(first, node, order) and _alike(node, first):
            node.target, node.args = _IN_PLACE[node.target], (first, *others)


def _order(graph: GraphModule) -> dict[Node, int]:
    """The place of each operation."""
    return {node: place for place, node in enumerate(graph.graph.nodes)}


def _is_free(result: object, reader: Node, order: dict[Node, int]) -> bool:
    """Whether a result has memory of its own, that nothing reads after `reader`."""
    if not isinstance(result, Node) or not isinstance(result.target, OpOverload) or is_view(result):
        return False
    own = result.target in _IN_PLACE.values() or all(one.alias_info is None for one in result.target._schema.returns)
    return own and all(order[user] <= order[reader] and not is_view(user) for user in result.users)


def _alike(a: Node, b: Node) -> bool:
    """Whether two results have the same shape and type."""
    return a.meta["val"].shape == b.meta["val"].shape and a.meta["val"].dtype == b.meta["val"].dtype


def join_equal_views(graph: GraphModule) -> None:
    """Make each view once."""
    made: dict[Hashable, Node] = {}
    for node in list(graph.graph.nodes):
        if is_view(node) and not node.kwargs:
            same = made.setdefault((node.target, str(node.args)), node)
            if same is not node:
                node.replace_all_uses_with(same)
                graph.graph.erase_node(node)


def split_off_views(graph: GraphModule, fixed: int) -> QuickGraph:
    """Split a graph into the views of its first inputs, which are made once, and what is computed at each call."""
    inputs = graph.graph.find_nodes(op="placeholder")
    early = dict.fromkeys(inputs[:fixed])
    for node in graph.graph.nodes:
        if is_view(node) and all(source in early for source in node.all_input_nodes):
            early[node] = None
    needed = [node for node in early if any(user not in early for user in node.users)]
    views, copies = Graph(), dict[Node, Node]()
    for node in early:
        copies[node] = views.node_copy(node, copies.__getitem__)
    views.output(tuple(copies[node] for node in needed))
    for node in needed:
        with graph.graph.inserting_before(inputs[fixed]):
            given = graph.graph.placeholder(f"given_{node.name}")
        given.meta = dict(node.meta)
        node.replace_all_uses_with(given, delete_user_cb=lambda user: user not in early)
    for node in reversed(early):
        graph.graph.erase_node(node)
    return QuickGraph(GraphModule({}, views).forward, quickened(graph))


def quickened(graph: GraphModule) -> Callable[..., Any]:
    """A function that calls the operations by torch's functions and methods.

    That takes a microsecond less for each than `torch.ops`, and a step of a small network has sixty.
    """
    for node in graph.graph.nodes:
        if not isinstance(node.target, OpOverload) or node.target.namespace != "aten" or not node.args:
            continue
        name = node.target._schema.name.removeprefix("aten::")
        if isinstance(function := getattr(torch, name, None), BuiltinFunctionType):
            node.target = function
        elif isinstance(node.args[0], Node) and isinstance(getattr(torch.Tensor, name, None), MethodDescriptorType):
            node.op, node.target = "call_method", name
    graph.graph.set_codegen(CodeGen())  # without trees of inputs
    graph.recompile()
    return graph.forward

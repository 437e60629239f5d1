"""All children as one computation: `torch.func` over stacked parameters, a learning rate per child."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from lr_env.children.state import ChildrenState, Layout
from lr_env.errors import UserError
from lr_env.tasks.data import Split

# Up to so many numbers, joining the gradients into one tensor and stepping once costs less than stepping each layer.
_FLAT_ELEMENTS = 2**19

Graph = Callable[..., tuple[dict[str, Tensor], Tensor]]


class StackedEngine:
    """Trains blocks of children as stacked tensors.

    `vmap(grad_and_value(...))` is traced once for each block size into a flat list of torch operations, which then
    runs without functorch's own cost in Python (about half of a step of a small network). A block, rather than all
    children at once, is trained for the whole segment, so that its parameters stay in the processor's cache.

    Args:
        state: the children; changed in place.
        template: a module of the children's kind; only its structure is used.
        train: the training split.
        block: children in one computation at most.

    Raises:
        UserError: the network has buffers (e.g. batch norm).
    """

    def __init__(self, state: ChildrenState, template: nn.Module, train: Split, block: int) -> None:
        if state.layout.buffers:
            raise UserError("a network with buffers (e.g. batch norm) cannot be stacked yet: use backend='loop'")
        self.state = state
        self.template = template
        self.train_split = train
        num_children = len(state.parameters)
        blocks = math.ceil(num_children / block)
        edges = [num_children * i // blocks for i in range(blocks + 1)]  # blocks of at most two sizes
        self.blocks = list(itertools.pairwise(edges))
        self._gradient_graphs: dict[int, Graph] = {}
        self._logit_graphs: dict[tuple[int, torch.Size], Callable[..., Tensor]] = {}

    def train(
        self, batches: Tensor, lr: NDArray[np.float64], steps: NDArray[np.int64], active: Sequence[int]
    ) -> Tensor:
        """Train every active child for one segment.

        Args:
            batches: row numbers of the training split, (children, steps, batch) on the device.
            lr: learning rate of every child and step, (children, steps).
            steps: optimizer steps that each child has done, (children,).
            active: children to train; the others stay as they are.

        Returns:
            Mean training loss over the segment, (children,), nats per example; of the others meaningless.
        """
        dtype, device = self.state.parameters.dtype, self.state.parameters.device
        resting = np.ones(len(lr), dtype=bool)
        resting[list(active)] = False
        number = steps[:, None] + np.arange(1, batches.shape[1] + 1)
        coefficients = {
            name: torch.tensor(values.T[:, :, None], device=device).to(dtype)
            for name, values in self.state.optimizer.coefficients(lr, number).items()
        }
        losses = torch.zeros(len(lr), device=device, dtype=dtype)
        for start, end in self.blocks:
            idle = start + np.flatnonzero(resting[start:end])
            if len(idle) == end - start:
                continue
            kept = self.state.get(idle) if len(idle) else {}
            now = {name: values[:, start:end] for name, values in coefficients.items()}
            self._train_block(slice(start, end), batches[start:end], now, losses[start:end])
            if kept:  # the others of the block were trained along, which is cheaper than a stack of another size
                self.state.set(idle, kept)
        return losses / batches.shape[1]

    def logits(self, rows: Sequence[int], inputs: Tensor) -> Tensor:
        """What children answer to the same inputs.

        Args:
            rows: which children.
            inputs: (examples, *input_shape).

        Returns:
            (rows, examples, classes).
        """
        wanted = list(rows)
        answers = []
        for start, end in self.blocks:
            inside = [row - start for row in wanted if start <= row < end]
            if not inside:
                continue
            views = self.state.layout.views(self.state.parameters[start:end])
            key = (end - start, inputs.shape)
            with torch.no_grad():
                if key not in self._logit_graphs:
                    call = vmap(lambda p, x: functional_call(self.template, p, (x,)), in_dims=(0, None))
                    self._logit_graphs[key] = simplify(make_fx(call)(views, inputs))
                block = self._logit_graphs[key](views, inputs)
                answers.append(block if len(inside) == end - start else block[inside])
        return torch.cat(answers)

    def _train_block(self, rows: slice, batches: Tensor, now: Mapping[str, Tensor], total: Tensor) -> None:
        parameters = self.state.parameters[rows]
        slots = {name: slot[rows] for name, slot in self.state.slots.items()}
        views = self.state.layout.views(parameters)
        small = parameters.numel() < _FLAT_ELEMENTS
        pieces = [(parameters, slots)] if small else _pieces(self.state.layout, parameters, slots)
        count, num_steps, batch_size = batches.shape
        by_step = batches.transpose(0, 1).reshape(num_steps, -1)
        for step in range(num_steps):
            # index_select is several times faster here than indexing with [].
            inputs = self.train_split.inputs.index_select(0, by_step[step])
            inputs = inputs.view(count, batch_size, *inputs.shape[1:])
            labels = self.train_split.labels.index_select(0, by_step[step]).view(count, batch_size)
            if count not in self._gradient_graphs:
                gradient = vmap(grad_and_value(self._loss()))
                self._gradient_graphs[count] = simplify(make_fx(gradient)(views, inputs, labels))
            with torch.no_grad():
                found, loss = self._gradient_graphs[count](views, inputs, labels)
                gradients = [found[name] for name in views]
                if small:
                    gradients = [torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)]
                for (piece, averages), gradient in zip(pieces, gradients, strict=True):
                    shape = (count, *[1] * (piece.dim() - 1))
                    current = {name: values[step].view(shape) for name, values in now.items()}
                    self.state.optimizer.update(piece, gradient, averages, current)
                total += loss

    def _loss(self) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
        def loss(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
            # Cross-entropy without the classes to ignore that F.cross_entropy looks for, a third of all operations.
            scores = F.log_softmax(functional_call(self.template, parameters, (inputs,)), dim=-1)
            return -scores.gather(-1, labels.unsqueeze(-1)).mean()

        return loss


def simplify(graph: GraphModule) -> GraphModule:
    """Leave out the operations that change nothing: functorch adds many, and each costs microseconds a step."""
    aten = torch.ops.aten
    reshapes = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
    for node in graph.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, torch.fx.Node):
            continue
        same_shape = node.target in reshapes and node.meta["val"].shape == source.meta["val"].shape
        times_one = node.target is aten.mul.Scalar and node.args[1] == 1
        if same_shape or times_one or node.target is aten.detach.default:
            node.replace_all_uses_with(source)
            continue
        both = (node.target, source.target)
        if both == (aten.transpose.int, aten.transpose.int) and _dims(node) == _dims(source):
            node.replace_all_uses_with(source.args[0])  # there and back
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _dims(transpose: torch.fx.Node) -> set[Any]:
    return set(cast("tuple[int, ...]", transpose.args[1:]))


def _pieces(layout: Layout, parameters: Tensor, slots: Mapping[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    averages = {name: layout.views(slot) for name, slot in slots.items()}
    return [
        (piece, {name: views[parameter] for name, views in averages.items()})
        for parameter, piece in layout.views(parameters).items()
    ]

"""Train children as one computation: `torch.func` over stacked parameters, with a learning rate for each child."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from lr_env.children.batches import Batches
from lr_env.children.cuda_graphs import Replay
from lr_env.children.losses import losses
from lr_env.children.numerics import EXACT, BatchNormForFunctorch, Numerics
from lr_env.children.parts import Parts, parts_of
from lr_env.children.quick_graphs import QuickGraph, traced_quick
from lr_env.children.state import ChildrenState, restored_afterwards
from lr_env.children.tracing import traced
from lr_env.children.workers import Workers
from lr_env.signals import Meter

# Up to this number of parameters, joining the gradients and stepping once is faster than stepping each layer.
_FLAT_ELEMENTS = 2**19

# So many numbers of batches are gathered at once: they should stay in the processor's cache until they are used.
_GATHERED_ELEMENTS = 2**20

_RATE = "rate of the step"
_NOT_OF_UPDATE = ("index", "keys", _RATE)

Tensors = dict[str, Tensor]
Graph = Callable[..., tuple[dict[str, Tensor], Tensor]]


class StackedEngine:
    """Trains blocks of children as stacked tensors.

    `vmap(grad_and_value(...))` is traced once for each block size into a flat list of torch operations, which then runs
    without functorch's cost in Python (about half of a step of a small network). Blocks are trained one after another
    for a whole segment, so that a block's parameters stay in the processor's cache; with several workers each has one
    on a core. Small networks on a CPU spend half of their time on calling operations, so that a whole step there is one
    graph, update included, of as few operations as it takes, on parameters that are taken apart (see `Parts`). On CUDA
    a step of a block is captured as a graph, and the host only replays it. A block of one child needs no `vmap` and
    uses the device's own kernels: on an H100 a step of ResNet-18 under bf16 takes 2.4 ms instead of 6.5.

    Args:
        state: the children; changed in place.
        template: a module of the children's kind; only its structure is used.
        batches: the training examples.
        clip_norm: norm to which a child's gradient is scaled down, if it is larger.
        numerics: precision and determinism.
        meters: measure further signals at every step.
        block: largest number of children in one computation.
        workers: threads that have a block each; on a CPU.
        key: of the children's kind in the cache of traced functions.
        compiled: whether `torch.compile` fuses the operations of a step.
    """

    def __init__(
        self,
        state: ChildrenState,
        template: nn.Module,
        batches: Batches,
        clip_norm: float | None = None,
        numerics: Numerics = EXACT,
        meters: Sequence[Meter] = (),
        block: int = 1,
        workers: int = 1,
        key: Hashable = None,
        compiled: bool = False,
    ) -> None:
        self.state = state
        self.template = template
        self.batches = batches
        self.clip_norm = clip_norm
        self.numerics = numerics
        self.meters = meters
        self._compiled = compiled
        self._key = (key, compiled, numerics, state.parameters.device, state.parameters.dtype)
        num_children = len(state.parameters)
        count = math.ceil(num_children / block)
        edges = [num_children * i // count for i in range(count + 1)]  # blocks of at most two sizes
        self.blocks = list(itertools.pairwise(edges))
        self._gradient_graphs: dict[tuple[int, int], Graph] = {}
        self._logit_graphs: dict[tuple[int, torch.Size], Callable[..., Tensor]] = {}
        self._replayed = state.parameters.is_cuda
        self.workers = Workers(1 if self._replayed else workers)
        self._whole = not (self._replayed or compiled or meters)  # whether whole steps are graphs
        self._traced: set[tuple[int, bool]] = set()  # sizes of blocks that have trained before, and with which rates
        self._step_graphs: dict[tuple[int, bool, torch.Size], QuickGraph] = {}
        self._parts: dict[tuple[int, int, bool], list[Parts]] = {}
        self._linear = {
            f"{name}.weight".removeprefix(".") for name, part in template.named_modules() if type(part) is nn.Linear
        }
        self._replays: dict[tuple[int, bool], Replay] = {}

    def train(
        self,
        index: Tensor,
        keys: Tensor | None,
        lr: NDArray[np.float64],
        steps: NDArray[np.int64],
        active: Sequence[int],
    ) -> Tensor:
        """Train every active child for one segment.

        Args:
            index: row numbers of the training split, (children, steps, batch) on the device.
            keys: keys of the random numbers, (children, steps, 2) on the device; None where nothing is random.
            lr: learning rate of every child and step, (children, steps), or of every group of its parameters as well,
                (children, groups, steps).
            steps: optimizer steps that each child has done, (children,).
            active: children to train; the others stay as they are.

        Returns:
            (children, steps, 1 + signals): training losses, nats per example, then the signals of the meters. Rows of
            children that are not active have no meaning.
        """
        dtype, device = self.state.parameters.dtype, self.state.parameters.device
        resting = np.ones(len(lr), dtype=bool)
        resting[list(active)] = False
        by_group = lr.ndim == 3
        lr = lr if by_group else lr[:, None]
        number = steps[:, None, None] + np.arange(1, index.shape[1] + 1)
        coefficients = {
            name: torch.tensor(np.broadcast_to(values, lr.shape).transpose(2, 0, 1), device=device).to(dtype)
            for name, values in self._coefficients(lr, number).items()
        }
        columns = 1 + sum(len(meter.signals) for meter in self.meters)
        measured = torch.zeros(index.shape[1], len(lr), columns, device=device, dtype=dtype)
        before_block: list[tuple[NDArray[np.int64], Tensors]] = []
        running: list[tuple[slice, Replay, Tensors, Tensor]] = []
        waiting: list[tuple[slice, Tensors]] = []
        for start, end in self.blocks:
            rows = slice(start, end)
            idle = start + np.flatnonzero(resting[rows])
            if len(idle) == end - start:
                continue
            if len(idle):  # they are trained, too, and put back: cheaper than a stack of another size
                before_block.append((idle, self.state.get(idle)))
            tables = {
                "index": index[rows].transpose(0, 1).flatten(1),
                **({} if keys is None else {"keys": keys[rows].transpose(0, 1)}),
                **{name: values[:, rows] for name, values in coefficients.items()},
            }
            if self._replayed:
                if (start, by_group) not in self._replays:
                    restored = partial(self.state.restored_afterwards, rows)
                    self._replays[start, by_group] = Replay(partial(self._step, rows, by_group), tables, restored)
                replay = self._replays[start, by_group]
                with replay.started():
                    running.append((rows, replay, tables, replay.run(tables)))
            elif (end - start, by_group) in self._traced:
                waiting.append((rows, tables))
            else:  # tracing is for one thread
                measured[:, rows] = self._train_block(rows, by_group, tables)
                self._traced.add((end - start, by_group))
        for (rows, _), of_block in zip(
            waiting,
            self.workers.each(lambda block: self._train_block(block[0], by_group, block[1]), waiting),
            strict=True,
        ):
            measured[:, rows] = of_block
        for rows, replay, _, of_block in running:  # holds the tables until the block's stream has read them
            replay.join()
            measured[:, rows] = of_block
        for idle, before in before_block:
            self.state.set(idle, before)
        return measured.transpose(0, 1)

    def logits(self, rows: Sequence[int], inputs: Tensor) -> Tensor:
        """Logits of children for the same inputs, in evaluation mode.

        Args:
            rows: which children.
            inputs: (examples, *input_shape).

        Returns:
            (rows, examples, classes), or (rows, examples, context, classes).
        """
        logits = []
        for start, end in self.blocks:
            inside = [row - start for row in rows if start <= row < end]
            if not inside:
                continue
            views, buffers = (
                self.state.layout.views(self.state.parameters[start:end]),
                self.state.buffers(slice(start, end)),
            )
            key = (end - start, inputs.shape)
            given = [*views.values(), *buffers.values(), inputs]
            with torch.no_grad():
                if key not in self._logit_graphs:
                    self._logit_graphs[key] = self._traced_logits((self._key, *key), end - start, given)
                block = self._logit_graphs[key](*given)
                logits.append(block if len(inside) == end - start else block[inside])
        return torch.cat(logits)

    def _traced_logits(self, key: Hashable, count: int, given: Sequence[Tensor]) -> Callable[..., Tensor]:
        """The graph of a forward pass: of parameters and buffers in the order of the layout, then inputs."""

        def function() -> Callable[..., Tensor]:
            forward, names, buffers = self._forward(count), [*self.state.layout.shapes], [*self.state.layout.buffers]

            def of_tensors(*tensors: Tensor) -> Tensor:
                of_buffers = tensors[len(names) : -1]
                parameters = dict(zip(names, tensors[: len(names)], strict=True))
                return forward(parameters, dict(zip(buffers, of_buffers, strict=True)), tensors[-1])

            return of_tensors

        if self._compiled or self._replayed:
            return traced(key, function, *given)
        return traced_quick(key, function, [], given).given()

    def _train_block(self, rows: slice, by_group: bool, tables: Tensors) -> Tensor:
        """Train a block for one segment; returns what its steps measure, (steps, block, 1 + signals)."""
        if self._whole:
            return self._train_whole_steps(rows, by_group, tables)
        of_step = {name: table.unbind() for name, table in tables.items()}
        steps = [{name: table[number] for name, table in of_step.items()} for number in range(len(tables["index"]))]
        return torch.stack([self._step(rows, by_group, now) for now in steps])

    def _train_whole_steps(self, rows: slice, by_group: bool, tables: Tensors) -> Tensor:
        """Train a block for one segment by graphs of whole steps; see `_train_block`."""
        layout, count = self.state.layout, rows.stop - rows.start
        names = sorted(tables.keys() - {"index", "keys"})
        buffers = self.state.buffers(rows)
        keys = tables["keys"].unbind() if "keys" in tables else None
        if layout.key is not None:
            buffers.pop(layout.key)
        current = [tables[name].unbind() for name in names]
        step, measured = None, []
        with torch.no_grad():
            flat = [tensor[rows] for tensor in (self.state.parameters, *self.state.slots.values())]
            parts = self._parts_of(flat, by_group)
            for part, tensor in zip(parts, flat, strict=True):
                part.read(tensor)
            fixed = [*parts[0].views.values(), *(tensor for part in parts for tensor in part.tensors)]
            fixed += buffers.values()
            for number, (inputs, labels) in enumerate(self._batches_of_segment(tables["index"], keys, count)):
                drawn = [keys[number]] if layout.key is not None and keys is not None else []
                varying = [inputs, labels, *drawn, *(table[number] for table in current)]
                step = step or self._step_graph(fixed, varying, names, by_group).given(*fixed)
                measured.append(step(*varying))
            for part, tensor in zip(parts, flat, strict=True):
                part.write(tensor)
        return torch.stack(measured).flatten(2).mean(2, keepdim=True)

    def _parts_of(self, flat: Sequence[Tensor], by_group: bool) -> list[Parts]:
        """Memory for the parts of several flat tensors of a block; a thread allocates it once."""
        kind = threading.get_ident(), len(flat[0]), by_group
        if kind not in self._parts:
            self._parts[kind] = [Parts(self.state.layout, tensor, self._linear, by_group) for tensor in flat]
        return self._parts[kind]

    def _batches_of_segment(
        self, index: Tensor, keys: Sequence[Tensor] | None, count: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of each step, (children, batch, ...); gathered at once where they are small."""
        steps, examples = index.shape
        size = examples * self.batches.split.inputs[0].numel()
        at_once = max(1, _GATHERED_ELEMENTS // size) if keys is None else 1
        for start in range(0, steps, at_once):
            part = index[start : start + at_once]
            inputs, labels = self.batches.take(part.flatten(), None if keys is None else keys[start])
            shape = len(part), count, -1
            yield from zip(
                inputs.view(*shape, *inputs.shape[1:]).unbind(),
                labels.view(*shape, *labels.shape[1:]).unbind(),
                strict=True,
            )

    def _step_graph(
        self, fixed: Sequence[Tensor], varying: Sequence[Tensor], names: Sequence[str], by_group: bool
    ) -> QuickGraph:
        """The graph of a whole step; see `_whole_step` for its inputs."""
        kind = len(fixed[0]), by_group, varying[0].shape
        if kind not in self._step_graphs:
            with torch.enable_grad(), restored_afterwards(dict(enumerate(fixed))):  # tracing takes a step
                self._step_graphs[kind] = traced_quick(
                    (self._key, self.state.optimizer, self.clip_norm, *kind),
                    partial(self._whole_step, len(fixed[0]), names, by_group),
                    fixed,
                    varying,
                )
        return self._step_graphs[kind]

    def _whole_step(self, count: int, names: Sequence[str], by_group: bool) -> Callable[..., Tensor]:
        """A function that trains a block for one step and returns the losses, (block, batch, ...).

        Its inputs are tensors: each parameter, the parts of the parameters (see `Parts`) and of each slot of the
        optimizer, the buffers; then inputs, labels, the keys of the random numbers where the network draws any, and
        the coefficients of the update, (block, groups or 1) each.
        """
        layout, optimizer = self.state.layout, self.state.optimizer
        parts, groups = parts_of(layout, by_group), layout.group_of
        buffer_names = [name for name in layout.buffers if name != layout.key]
        gradients = self._gradients(count, means=False)

        def step(*inputs_of_step: Tensor) -> Tensor:
            given = iter(inputs_of_step)
            views = {name: next(given) for name in layout.shapes}
            parameters = [next(given) for _ in parts]
            slots = {name: [next(given) for _ in parts] for name in optimizer.slots}
            buffers = {name: next(given) for name in buffer_names}
            inputs, labels = next(given), next(given)
            if layout.key is not None:
                buffers[layout.key] = next(given)
            now = dict(zip(names, given, strict=True))
            gradient, measured = gradients(views, buffers, inputs, labels)
            of_parts = [gradient[part[0]] if len(part) == 1 else layout.only(part).flatten(gradient) for part in parts]
            if self.clip_norm is not None:
                clip_(of_parts, self.clip_norm)
            for number, (part, of_part) in enumerate(zip(parameters, of_parts, strict=True)):
                current = _of_piece(now, part, groups[parts[number][0]] if by_group else 0)
                optimizer.update(part, of_part, {name: slot[number] for name, slot in slots.items()}, current)
            return measured

        return step

    def _step(self, rows: slice, by_group: bool, now: Mapping[str, Tensor]) -> Tensor:
        """Train a block for one step, given one row of each table; returns what it measures, (block, 1 + signals)."""
        layout, parameters = self.state.layout, self.state.parameters[rows]
        count = len(parameters)
        views, buffers = layout.views(parameters), self.state.buffers(rows)
        keys = now.get("keys")
        if layout.key is not None and keys is not None:
            buffers[layout.key] = keys
        with torch.no_grad():
            inputs, labels = self.batches.take(now["index"], keys)
        inputs = inputs.view(count, -1, *inputs.shape[1:])
        labels = labels.view(count, -1, *labels.shape[1:])
        # Compiled code has the number of threads in it, which changes in a forked process.
        kind = count, torch.get_num_threads() if self._compiled else 0
        if kind not in self._gradient_graphs:
            with restored_afterwards(buffers):  # tracing runs the network, which moves running averages
                self._gradient_graphs[kind] = traced(
                    (self._key, *kind, inputs.shape),
                    partial(self._gradients, count),
                    *(views, buffers, inputs, labels),
                    compiled=self._compiled,
                )
        with torch.no_grad():
            gradient, loss = self._gradient_graphs[kind](views, buffers, inputs, labels)
            slots = {name: slot[rows] for name, slot in self.state.slots.items()}
            if parameters.numel() < _FLAT_ELEMENTS:
                flat, where = layout.flatten(gradient), layout.group_slices if by_group else [slice(None)]
                pieces = [
                    (number, parameters[:, part], {name: slot[:, part] for name, slot in slots.items()})
                    for number, part in enumerate(where)
                ]
                gradients = [flat[:, part] for part in where]
            else:
                averages = {name: layout.views(slot) for name, slot in slots.items()}
                groups = layout.group_of if by_group else dict.fromkeys(views, 0)
                pieces = [
                    (groups[name], view, {slot: of[name] for slot, of in averages.items()})
                    for name, view in views.items()
                ]
                gradients = [gradient[name] for name in views]
            measured = [loss]
            meter_slots = {name: slot[rows] for name, slot in self.state.meter_slots.items()}
            if self.meters:
                whole = layout.flatten(gradient)
                for meter in self.meters:
                    measured += meter.before_update(whole, parameters, meter_slots)
            if self.clip_norm is not None:
                clip_(gradients, self.clip_norm)
            coefficients = {name: value for name, value in now.items() if name not in _NOT_OF_UPDATE}
            for (group, piece, piece_slots), piece_gradient in zip(pieces, gradients, strict=True):
                of_piece = _of_piece(coefficients, piece, group)
                self.state.optimizer.update(piece, piece_gradient, piece_slots, of_piece)
            for meter in self.meters:
                rate = layout.spread(now[_RATE]) if by_group else now[_RATE]
                meter.after_update(parameters, rate, meter_slots)
        return torch.stack(measured, dim=1)

    def _coefficients(self, lr: NDArray[np.float64], number: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        """Numbers that updates compute from rates and step numbers, (children, groups or 1, steps) each."""
        rate = {_RATE: lr} if self.meters else {}
        return {**self.state.optimizer.coefficients(lr, number), **rate}

    def _gradients(self, count: int, means: bool = True) -> Callable[..., Any]:
        """A function that returns gradients of the mean losses, and these, or the losses of all predictions."""

        def loss(parameters: Tensors, buffers: Tensors, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            with self.numerics.autocast(inputs.device), self._batch_norm(count):
                each = losses(functional_call(self.template, (parameters, buffers), (inputs,)), labels)
            mean = each.mean()
            return mean, mean if means else each

        def gradients(*given: Any) -> tuple[Tensors, Tensor]:
            gradient, (_, measured) = grad_and_value(loss, has_aux=True)(*given)
            return gradient, measured

        return _each(gradients, count, (0, 0, 0, 0))

    def _forward(self, count: int) -> Callable[..., Any]:
        def forward(parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
            self.template.eval()
            try:
                with self.numerics.autocast(inputs.device), self._batch_norm(count):
                    logits = functional_call(self.template, (parameters, buffers), (inputs,))
                return logits.to(self.state.parameters.dtype)
            finally:
                self.template.train()

        return _each(forward, count, (0, 0, None))

    def _batch_norm(self, count: int) -> AbstractContextManager[object]:
        return nullcontext() if count == 1 else BatchNormForFunctorch(not self.state.layout.channels_last)


def _of_piece(coefficients: Mapping[str, Tensor], piece: Tensor, group: int) -> dict[str, Tensor]:
    """The coefficients of a step for some parameters of one group, name -> (children, 1, ...).

    Args:
        coefficients: name -> (children, groups or 1).
        piece: the parameters, (children, ...).
        group: number of the group.
    """
    shape = (len(piece), *[1] * (piece.dim() - 1))
    of_group = {name: value if value.shape[1] == 1 else value[:, group] for name, value in coefficients.items()}
    return {name: value.reshape(shape) for name, value in of_group.items()}


def _each(function: Callable[..., Any], count: int, in_dims: tuple[int | None, ...]) -> Callable[..., Any]:
    """Turn a function of one child into one of `count` children: by `vmap`, unless there is only one.

    Without `vmap` operations use the device's own kernels, such as batch norm by cuDNN.

    Args:
        function: of one child.
        count: number of children.
        in_dims: for each input 0, where each child has its own, or None, where they share it.
    """
    if count > 1:
        return vmap(function, in_dims)

    def of_one(*inputs: Any) -> Any:
        single = [
            tree_map(lambda tensor: tensor[0], argument) if dim == 0 else argument
            for argument, dim in zip(inputs, in_dims, strict=True)
        ]
        return tree_map(lambda tensor: tensor[None], function(*single))

    return of_one


def clip_(gradients: Sequence[Tensor], max_norm: float) -> None:
    """Scale each child's gradient down to a norm, in place, like `nn.utils.clip_grad_norm_` for one network.

    Args:
        gradients: parts of the gradient, (children, ...) each.
        max_norm: largest norm of a child's whole gradient.
    """
    square = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    factor = (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))

"""Everything of N children that training changes, as stacked tensors that both engines work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.children.optimizers import Optimizer

Rows = slice | NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a child lies in its row of the flat parameters.

    Attributes:
        shapes: parameter name -> shape, in the order of `nn.Module.named_parameters` (tied parameters once).
        buffers: buffer name -> shape.
        output_weight: name of the output layer's weight.
        size: parameters of one child.
    """

    shapes: Mapping[str, torch.Size]
    buffers: Mapping[str, torch.Size]
    output_weight: str
    size: int

    @staticmethod
    def of(module: nn.Module) -> Layout:
        """The layout of a network."""
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
        output = f"{linear[-1]}.weight".removeprefix(".") if linear else matrices[-1]
        if output not in shapes:  # tied: the weight is listed under the name of its first use
            output = matrices[-1]
        buffers = {name: buffer.shape for name, buffer in module.named_buffers()}
        return Layout(shapes, buffers, output, sum(shape.numel() for shape in shapes.values()))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter as a view of flat rows (..., size)."""
        views = {}
        start = 0
        for name, shape in self.shapes.items():
            views[name] = flat[..., start : start + shape.numel()].view(*flat.shape[:-1], *shape)
            start += shape.numel()
        return views


class ChildrenState:
    """The tensors of N children: `tensors[name]` has one row a child.

    "parameters" and the optimizer's slots are flat, (children, size); buffers are "buffer.<name>". The tensors are
    allocated once and only ever changed in place, so that modules and graphs may hold views of them.
    """

    def __init__(
        self,
        layout: Layout,
        optimizer: Optimizer,
        module: nn.Module,
        num_children: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layout = layout
        self.optimizer = optimizer
        flat = {"parameters", *optimizer.slots}
        self.tensors = {
            name: torch.zeros(num_children, layout.size, device=device, dtype=dtype) for name in sorted(flat)
        }
        for name, buffer in module.named_buffers():
            self.tensors[f"buffer.{name}"] = torch.zeros(num_children, *buffer.shape, device=device, dtype=buffer.dtype)
        self.parameters = self.tensors["parameters"]
        self.slots = {name: self.tensors[name] for name in optimizer.slots}
        self.output_weights = layout.views(self.parameters)[layout.output_weight]

    def initialise(self, row: int, module: nn.Module) -> None:
        """Give a child the weights and buffers of a module and an optimizer that has not stepped."""
        views = self.layout.views(self.parameters[row])
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                views[name].copy_(parameter)
            for name, buffer in module.named_buffers():
                self.tensors[f"buffer.{name}"][row].copy_(buffer)
            for slot in self.slots.values():
                slot[row].zero_()

    def child(self, row: int) -> dict[str, Tensor]:
        """Parameters and copies of the buffers of one child, by the names that its module has for them."""
        buffers = {name: self.tensors[f"buffer.{name}"][row].clone() for name in self.layout.buffers}
        return {**self.layout.views(self.parameters[row]), **buffers}

    def get(self, rows: Rows) -> dict[str, Tensor]:
        """Copies of the rows of every tensor."""
        return {name: tensor[rows].clone() for name, tensor in self.tensors.items()}

    def set(self, rows: Rows, values: Mapping[str, Tensor]) -> None:
        """Write rows of every tensor."""
        for name, tensor in self.tensors.items():
            tensor[rows] = values[name].to(tensor.device)

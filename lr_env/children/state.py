"""Everything of N children that training changes, as stacked tensors that both engines work on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.children.noise import KEY_BUFFER
from lr_env.errors import UserError
from lr_env.optimizers import Optimizer
from lr_env.signals import Meter

Rows = slice | NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class Layout:
    """Where each parameter of a child lies in its row of the flat parameters.

    Attributes:
        shapes: parameter name -> shape, in the order of `nn.Module.named_parameters` (tied parameters once).
        buffers: buffer name -> shape, shared buffers once.
        output_weight: name of the output layer's weight.
        key: name of the buffer that holds the key of a step's random numbers, where the network draws any.
        size: length of a row.
        channels_last: whether the kernels of 2-d convolutions lie channels-last, (outputs, height, width, inputs),
            whatever their shape says: convolutions then compute channels-last.
        align: every parameter begins at a multiple of so many numbers; what lies between stays 0.
    """

    shapes: Mapping[str, torch.Size]
    buffers: Mapping[str, torch.Size]
    output_weight: str
    key: str | None
    size: int
    channels_last: bool = True
    align: int = 1

    @staticmethod
    def of(module: nn.Module, channels_last: bool = True, align: int = 1) -> Layout:
        """The layout of a network.

        Raises:
            UserError: it has no parameter of at least two dimensions, or one that is not to be trained.
        """
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        if frozen:
            raise UserError(f"the network's parameter {frozen[0]!r} needs no gradient: register it as a buffer")
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        own = {id(parameter): name for name, parameter in module.named_parameters()}
        linear = [part.weight for part in module.modules() if isinstance(part, nn.Linear)]
        matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
        if not matrices:
            raise UserError("the network has no weights: it needs an nn.Linear or another parameter of 2 dimensions")
        output = own[id(linear[-1])] if linear else matrices[-1]  # a tied weight has the name of its first use
        buffers = {name: buffer.shape for name, buffer in module.named_buffers()}
        key = next((name for name in buffers if name.rpartition(".")[2] == KEY_BUFFER), None)
        size = _size(shapes, align)
        return Layout(shapes, buffers, output, key, size, channels_last, align)

    @property
    def arrangement(self) -> dict[str, Any]:
        """What else than the network decides where its numbers lie, JSON-able."""
        return {"channels_last": self.channels_last, "align": self.align}

    @property
    def num_parameters(self) -> int:
        """Parameters of one child."""
        return sum(shape.numel() for shape in self.shapes.values())

    def arranged(self, channels_last: bool, align: int) -> Layout:
        """The layout of the same network under another arrangement."""
        size = _size(self.shapes, align)
        return replace(self, channels_last=channels_last, align=align, size=size)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter as a view of flat rows (..., size)."""
        views = {}
        start = 0
        lead = flat.shape[:-1]
        for name, shape in self.shapes.items():
            part = flat[..., start : start + shape.numel()]
            if len(shape) == 4 and self.channels_last:
                outputs, inputs, height, width = shape
                views[name] = part.view(*lead, outputs, height, width, inputs).movedim(-1, -3)
            else:
                views[name] = part.view(*lead, *shape)
            start += _up(shape.numel(), self.align)
        return views

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The opposite of `views`, as a new tensor: name -> (rows, *shape) to (rows, size)."""
        parts = [parameters[name] for name in self.shapes]
        moved = [part.movedim(-3, -1) if part.dim() == 5 and self.channels_last else part for part in parts]
        flat = [part.flatten(1) for part in moved]
        if self.align > 1:
            flat = [F.pad(part, (0, -part.shape[1] % self.align)) for part in flat]
        return torch.cat(flat, dim=1)


def _size(shapes: Mapping[str, torch.Size], align: int) -> int:
    """The length of a row that holds parameters of those shapes."""
    return sum(_up(shape.numel(), align) for shape in shapes.values())


def _up(count: int, align: int) -> int:
    """The next multiple."""
    return -(-count // align) * align


@contextmanager
def restored_afterwards(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """A context at whose end tensors are put back as they were."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.copy_(before[name])


class ChildrenState:
    """The tensors of N children: `tensors[name]` has one row a child.

    "parameters" and the slots of the optimizer and of the meters are flat, (children, size); buffers are
    "buffer.<name>". The tensors are allocated once and only ever changed in place, so that modules and graphs may hold
    views of them.

    Raises:
        UserError: two slots have the same name.
    """

    def __init__(
        self,
        layout: Layout,
        optimizer: Optimizer,
        module: nn.Module,
        num_children: int,
        device: torch.device,
        dtype: torch.dtype,
        meters: Sequence[Meter] = (),
    ) -> None:
        self.layout = layout
        self.optimizer = optimizer
        meter_slots = [name for meter in meters for name in meter.slots]
        self._flat: list[str] = sorted(["parameters", *optimizer.slots, *meter_slots])
        for name, following in itertools.pairwise(self._flat):
            if name == following:
                raise UserError(f"two slots are called {name!r}: give the slot of the meter another name")
        self.tensors = {name: torch.zeros(num_children, layout.size, device=device, dtype=dtype) for name in self._flat}
        for name, buffer in module.named_buffers():
            self.tensors[f"buffer.{name}"] = torch.zeros(num_children, *buffer.shape, device=device, dtype=buffer.dtype)
        self.parameters = self.tensors["parameters"]
        self.slots = {name: self.tensors[name] for name in optimizer.slots}
        self.meter_slots = {name: self.tensors[name] for name in meter_slots}
        self.output_weights = layout.views(self.parameters)[layout.output_weight]

    def initialise(self, row: int, module: nn.Module) -> None:
        """Give a child the weights and buffers of a module and an optimizer that has not stepped."""
        views = self.layout.views(self.parameters[row])
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                views[name].copy_(parameter)
            for name, buffer in module.named_buffers():
                self.tensors[f"buffer.{name}"][row].copy_(buffer)
            for slot in (*self.slots.values(), *self.meter_slots.values()):
                slot[row].zero_()

    def buffers(self, rows: int | slice) -> dict[str, Tensor]:
        """Views of the buffers of a child or of neighbouring children, by the names that the module has for them."""
        return {name: self.tensors[f"buffer.{name}"][rows] for name in self.layout.buffers}

    def child(self, row: int) -> dict[str, Tensor]:
        """Parameters and copies of the buffers of one child, by the names that its module has for them."""
        buffers = {name: buffer.clone() for name, buffer in self.buffers(row).items()}
        return {**self.layout.views(self.parameters[row]), **buffers}

    def restored_afterwards(self, rows: slice) -> AbstractContextManager[None]:
        """A context at whose end neighbouring children are put back as they were."""
        return restored_afterwards({name: tensor[rows] for name, tensor in self.tensors.items()})

    def get(self, rows: Rows) -> dict[str, Tensor]:
        """Copies of the rows of every tensor."""
        return {name: tensor[rows].clone() for name, tensor in self.tensors.items()}

    def check_fits(self, values: Mapping[str, Tensor], count: int) -> None:
        """See that `values` can be rows of these tensors.

        Raises:
            UserError: naming the tensor that cannot.
        """
        for name, tensor in self.tensors.items():
            given = values.get(name)
            # Flat rows may lie otherwise, and so be of another length: see `rearranged`.
            wanted = (count,) if name in self._flat else (count, *tensor.shape[1:])
            if given is None or tuple(given.shape[: len(wanted)]) != wanted:
                has = "no" if given is None else f"of shape {tuple(given.shape)}"
                raise UserError(
                    f"the snapshot's {name!r} is {has}, and these children need {wanted}: restore it into children of "
                    "the same network and optimizer, that measure the same"
                )

    def rearranged(self, values: Mapping[str, Tensor], arrangement: Mapping[str, Any] | None) -> Mapping[str, Tensor]:
        """Rows of tensors, of which the flat ones may lie as in another layout of the same network, as ours lie.

        Raises:
            UserError: they are of another length than that layout has.
        """
        theirs = self.layout if arrangement is None else self.layout.arranged(**arrangement)
        for name in self._flat:
            if values[name].shape[1:] != (theirs.size,):
                raise UserError(
                    f"the snapshot's {name!r} has {values[name].shape[-1]} numbers a child, and these children have "
                    f"{theirs.size}: restore it into children of the same network"
                )
        if theirs == self.layout:
            return values
        return {
            name: self.layout.flatten(theirs.views(tensor)) if name in self._flat else tensor
            for name, tensor in values.items()
        }

    def set(self, rows: Rows, values: Mapping[str, Tensor]) -> None:
        """Write rows of every tensor."""
        for name, tensor in self.tensors.items():
            tensor[rows] = values[name].to(tensor.device)

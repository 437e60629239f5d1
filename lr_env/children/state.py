"""The state of N children in training, as stacked tensors that both engines change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.children.groups import parameter_groups
from lr_env.children.noise import KEY_BUFFER
from lr_env.errors import UserError
from lr_env.optimizers import Optimizer
from lr_env.signals import Meter

Rows = slice | NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class Layout:
    """The position of each parameter of a child in its row of flat parameters.

    Attributes:
        shapes: parameter name -> shape, in the order of `nn.Module.named_parameters` (tied parameters once).
        buffers: buffer name -> shape, shared buffers once.
        output_weight: name of the output layer's weight.
        key: name of the buffer that holds the key of a step's random numbers; None where the network draws none.
        size: length of a row.
        channels_last: whether the kernels of 2-d convolutions are stored channels-last, (outputs, height, width,
            inputs); their shape does not tell. Convolutions then compute channels-last.
        align: every parameter begins at a multiple of this number; the numbers between stay 0.
        groups: name of a parameter group -> names of its parameters, which lie side by side.
    """

    shapes: Mapping[str, torch.Size]
    buffers: Mapping[str, torch.Size]
    output_weight: str
    key: str | None
    size: int
    channels_last: bool = True
    align: int = 1
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(module: nn.Module, channels_last: bool = True, align: int = 1) -> Layout:
        """The layout of a network.

        Raises:
            UserError: it has no parameter of at least two dimensions, or one that is not trained.
        """
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        if frozen:
            raise UserError(f"the network's parameter {frozen[0]!r} needs no gradient: register it as a buffer")
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        linear = [part.weight for part in module.modules() if isinstance(part, nn.Linear)]
        matrices = [name for name, shape in shapes.items() if len(shape) >= 2]
        if not matrices:
            raise UserError("the network has no weights: it needs an nn.Linear or another parameter of 2 dimensions")
        output = names[id(linear[-1])] if linear else matrices[-1]  # a tied weight has the name of its first use
        buffers = {name: buffer.shape for name, buffer in module.named_buffers()}
        key = next((name for name in buffers if name.rpartition(".")[2] == KEY_BUFFER), None)
        size = _size(shapes, align)
        return Layout(shapes, buffers, output, key, size, channels_last, align, parameter_groups(module))

    @property
    def arrangement(self) -> dict[str, Any]:
        """Settings besides the network that decide the positions of its numbers, JSON-able."""
        return {"channels_last": self.channels_last, "align": self.align}

    @property
    def num_parameters(self) -> int:
        """Parameters of one child."""
        return sum(shape.numel() for shape in self.shapes.values())

    def arranged(self, channels_last: bool, align: int) -> Layout:
        """The layout of the same network with another arrangement."""
        size = _size(self.shapes, align)
        return replace(self, channels_last=channels_last, align=align, size=size)

    def only(self, names: Sequence[str]) -> Layout:
        """The layout of some parameters alone, side by side."""
        shapes = {name: self.shapes[name] for name in names}
        return replace(self, shapes=shapes, size=_size(shapes, 1), align=1, groups={})

    @property
    def group_slices(self) -> list[slice]:
        """Where the parameters of each group lie in a row."""
        sizes = [_size({name: self.shapes[name] for name in names}, self.align) for names in self.groups.values()]
        return [slice(start, end) for start, end in itertools.pairwise(itertools.accumulate(sizes, initial=0))]

    @property
    def group_of(self) -> dict[str, int]:
        """Name of a parameter -> number of its group."""
        return {name: number for number, names in enumerate(self.groups.values()) for name in names}

    def spread(self, of_groups: Tensor) -> Tensor:
        """Give every number of a row the value of its group: (..., groups) -> (..., size)."""
        lead = of_groups.shape[:-1]
        parts = [
            of_groups[..., number, None].expand(*lead, part.stop - part.start)
            for number, part in enumerate(self.group_slices)
        ]
        return torch.cat(parts, dim=-1)

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
            start += _round_up(shape.numel(), self.align)
        return views

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Copy parameters, name -> (rows, *shape), into flat rows (rows, size): the inverse of `views`."""
        parts = [parameters[name] for name in self.shapes]
        moved = [part.movedim(-3, -1) if part.dim() == 5 and self.channels_last else part for part in parts]
        flat = [part.flatten(1) for part in moved]
        if self.align > 1:
            flat = [F.pad(part, (0, -part.shape[1] % self.align)) for part in flat]
        return torch.cat(flat, dim=1)


def _size(shapes: Mapping[str, torch.Size], align: int) -> int:
    """The length of a row that holds parameters of those shapes."""
    return sum(_round_up(shape.numel(), align) for shape in shapes.values())


def _round_up(count: int, align: int) -> int:
    """Round up to a multiple of `align`."""
    return -(-count // align) * align


@contextmanager
def restored_afterwards(tensors: Mapping[Any, Tensor]) -> Iterator[None]:
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
        """Give a child the weights and buffers of a module, and an optimizer and meters that have not stepped."""
        views = self.layout.views(self.parameters[row])
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                views[name].copy_(parameter)
            for name, buffer in module.named_buffers():
                self.tensors[f"buffer.{name}"][row].copy_(buffer)
            for slot in (*self.slots.values(), *self.meter_slots.values()):
                slot[row].zero_()

    def buffers(self, rows: int | slice) -> dict[str, Tensor]:
        """Views of the buffers of one child or of neighbouring children, by the names of the module."""
        return {name: self.tensors[f"buffer.{name}"][rows] for name in self.layout.buffers}

    def child(self, row: int) -> dict[str, Tensor]:
        """Parameters and copies of the buffers of one child, by the names of its module."""
        buffers = {name: buffer.clone() for name, buffer in self.buffers(row).items()}
        return {**self.layout.views(self.parameters[row]), **buffers}

    def restored_afterwards(self, rows: slice) -> AbstractContextManager[None]:
        """A context at whose end neighbouring children are put back as they were."""
        return restored_afterwards({name: tensor[rows] for name, tensor in self.tensors.items()})

    def get(self, rows: Rows) -> dict[str, Tensor]:
        """Copy rows of every tensor."""
        return {name: tensor[rows].clone() for name, tensor in self.tensors.items()}

    def check_fits(self, values: Mapping[str, Tensor], count: int) -> None:
        """Check that `values` can be rows of these tensors.

        Raises:
            UserError: they cannot; the message names the tensor.
        """
        for name, tensor in self.tensors.items():
            value = values.get(name)
            # Flat rows may have another layout, and so another length: see `rearranged`.
            shape = (count,) if name in self._flat else (count, *tensor.shape[1:])
            if value is None or tuple(value.shape[: len(shape)]) != shape:
                has = "no" if value is None else f"of shape {tuple(value.shape)}"
                raise UserError(
                    f"the snapshot's {name!r} is {has}, and these children need {shape}: restore it into children of "
                    "the same network and optimizer, that measure the same"
                )

    def rearranged(self, values: Mapping[str, Tensor], arrangement: Mapping[str, Any] | None) -> Mapping[str, Tensor]:
        """Convert rows of tensors from another arrangement of the same network to this one.

        Raises:
            UserError: their length is not that of the other arrangement.
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

"""Estimate the memory that N children need, before it is allocated."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lr_env.children.initial import DrawFrom
from lr_env.children.limits import free_bytes
from lr_env.children.noise import SeededDropout
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.tasks.data import DataSource


class _CountOutputs(TorchDispatchMode):
    """Adds up the elements of all tensors that torch computes inside, without views."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        self.elements += sum(
            leaf.numel()
            for leaf in tree_leaves(result)
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in inputs
        )
        return result


def activations_per_example(module: nn.Module, source: DataSource) -> int:
    """Count the numbers that one forward pass computes for one example.

    Raises:
        UserError: the network is random in training other than through `nn.Dropout`, which would draw from torch's
            global generator, or uses one dropout layer twice, or its logits have another shape than the labels ask for.
    """
    module = copy.deepcopy(module).to("meta").train()
    used: set[str] = set()
    for name, part in module.named_modules():
        if isinstance(part, SeededDropout):
            part.register_forward_pre_hook(lambda *_, name=name: _once(used, name))
    examples = 2  # batch norm refuses a single one
    dtype = torch.int64 if source.tokens else next(module.parameters()).dtype
    with torch.no_grad(), DrawFrom(None), _CountOutputs() as count:
        logits = module(torch.empty(examples, *source.input_shape, device="meta", dtype=dtype))
    if logits.shape[1:] != source.output_shape:
        raise UserError(
            f"the network answers with logits of shape {tuple(logits.shape[1:])} an example, but the data need "
            f"{source.output_shape}"
        )
    return count.elements // examples


def _once(used: set[str], name: str) -> None:
    """Refuse a second use of a dropout layer in one pass, which would drop the same places again."""
    if name in used:
        raise UserError(
            f"the network uses the dropout layer {name!r} more than once: give each place its own nn.Dropout"
        )
    used.add(name)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that children need.

    Attributes:
        persistent: for every child, for as long as it lives.
        per_active: for every child that is trained at the same time as others.
        shared: whatever the number of children.
    """

    persistent: int
    per_active: int
    shared: int

    def bytes(self, num_children: int, at_once: int) -> int:
        """Bytes for some children, of which `at_once` are trained at the same time."""
        return self.persistent * num_children + self.per_active * min(at_once, num_children) + self.shared

    def fitting(self, available: float, at_once: int) -> int:
        """How many children fit, of which `at_once` are trained at the same time."""
        count = int((available - self.bytes(0, 0)) // (self.persistent + self.per_active))
        if count > at_once:
            count = int((available - self.shared - self.per_active * at_once) // self.persistent)
        return max(0, count)

    def check(self, num_children: int, at_once: int, device: torch.device) -> None:
        """Check that children fit into the memory that is free.

        Raises:
            UserError: they do not; the message says how many would.
        """
        available = available_bytes(device)
        total = self.bytes(num_children, at_once)
        if total > available:
            fit = self.fitting(available, at_once)
            hint = f"ask for at most {fit} at a time" if fit else "there is room for none: take a smaller task"
            raise UserError(
                f"{num_children} children need about {total / 2**30:.3g} GiB, but {available / 2**30:.3g} GiB are free "
                f"on {device}: {hint}"
            )


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device, within the limits of a container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own cache
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_bytes()

"""Initial weights from a seed, drawn without torch's global generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lr_env.errors import UserError


class DrawFrom(TorchDispatchMode):
    """A context in which torch's random functions draw from one generator instead of the global one.

    Networks initialise themselves in `__init__` with functions that take no generator, and `torch.manual_seed` would
    change the caller's random numbers. The numbers drawn are those that follow `torch.manual_seed` of the same seed.

    Args:
        generator: the generator; None makes any draw an error, which finds networks that are random in training.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, with the generator where it draws random numbers."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            if self.generator is None:
                raise UserError(
                    f"the network draws random numbers in training ({func}): use nn.Dropout layers, which draw from "
                    "each child's own seed"
                )
            if not any(argument.name == "generator" for argument in func._schema.arguments):
                # aten::rand(size) has a twin aten::rand.generator(size, generator), and so on.
                name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
                func = getattr(func.overloadpacket, name, None)
                if func is None:
                    raise UserError("the network initialises itself with a random function that cannot be seeded")
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


def build_seeded(build: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """Build a module on the CPU with the initial weights that follow `torch.manual_seed(seed)`.

    The weights are drawn in float32 and then cast, so that float64 children start where float32 ones do.
    """
    with DrawFrom(torch.Generator().manual_seed(seed)), torch.device("cpu"):
        module = build()
    if all(part.dtype == dtype for part in (*module.parameters(), *module.buffers()) if part.is_floating_point()):
        return module  # casting walks through all of it, a tenth of a reset's time
    return module.to(dtype)


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device. `Module.to` alone would give every place of a shared buffer a copy of its own."""
    shared: dict[int, list[str]] = {}
    for name, buffer in module.named_buffers(remove_duplicate=False):
        shared.setdefault(id(buffer), []).append(name)
    module = module.to(device)
    for first, *others in shared.values():
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, module.get_buffer(first))
    return module

"""Copies of modules whose weights have shapes and no values, to be run in place of the module."""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lr_env.errors import UserError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Cloner:
    """Copies modules and tensors; what is shared in the original is shared in the copy.

    Lists, dicts and bound methods among the attributes of a module are copied, because a forward pass may change them;
    other objects are shared with the original.

    Args:
        mode: the mode of the tensors of the copy, which have no values.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._copies: dict[int, tuple[Any, Any]] = {}  # with the original, whose id must not be used again

    def tensor(self, tensor: Tensor, device: torch.device | None = None) -> Tensor:
        """Return a tensor without values of the same shape; on the CPU for one that is nowhere ("meta")."""
        if id(tensor) in self._copies:
            return self._copies[id(tensor)][1]
        if nn.parameter.is_lazy(tensor):
            raise UserError("the network has lazy layers without weights: run it once on a batch, then describe it")
        device = device or tensor.device
        device = torch.device("cpu") if device.type == "meta" else device
        with self.mode:
            strided = tensor.layout == torch.strided and not tensor.is_quantized
            copy: Tensor = (
                torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
                if strided
                else torch.empty(tensor.shape, device=device)
            )
            if isinstance(tensor, nn.Parameter):
                copy = nn.Parameter(copy, tensor.requires_grad and copy.is_floating_point())
        return self._remembered(tensor, copy)

    def value(self, value: Any) -> Any:
        """Return a copy of an attribute."""
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.module(value.__self__))
        if isinstance(value, dict) and type(value) in (dict, OrderedDict):
            copy = self._remembered(value, type(value)())
            copy.update({name: self.value(part) for name, part in value.items()})
            return copy
        if type(value) is list:
            copy = self._remembered(value, [])
            copy.extend(map(self.value, value))
            return copy
        return tuple(map(self.value, value)) if type(value) is tuple else value

    def module(self, module: nn.Module) -> nn.Module:
        """Return a copy of a module in evaluation mode, without the hooks of its owner.

        Hooks of torch itself are kept: some compute weights.
        """
        if id(module) in self._copies:
            return self._copies[id(module)][1]
        if isinstance(module, torch.jit.ScriptModule):
            return self._remembered(module, module)  # cannot be copied without its weights
        copy = self._remembered(module, module.__new__(type(module)))
        for name, value in vars(module).items():
            if name in _HOOKS:
                value = OrderedDict((at, hook) for at, hook in value.items() if _of_torch(hook))
            copy.__dict__[name] = self.value(value)
        copy.__dict__["training"] = False
        return copy

    def _remembered(self, original: Any, copy: Any) -> Any:
        self._copies[id(original)] = original, copy
        return copy


def _of_torch(hook: Any) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.partition(".")[0] == "torch"

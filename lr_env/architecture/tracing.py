"""Read the architecture off any module, without computing anything and without changing the module.

A copy of the module without values runs once on inputs without values, and its operations are recorded. The code of the
network runs as it is, so that loops, and conditions on shapes, types and settings, need no care.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from lr_env.architecture.clones import Cloner
from lr_env.architecture.contraction import contracted
from lr_env.architecture.graph import Architecture, Node
from lr_env.architecture.operations import tensors
from lr_env.architecture.recorder import Recorder, StoppedIn
from lr_env.errors import UserError
from lr_env.isolation import isolating

_MOST_RUNS = 30
"""Forward passes that are tried before the network is described by the list of its layers."""


@isolating
def architecture_of(module: nn.Module, example_inputs: Any) -> Architecture:
    """Return the architecture of a module: its layers and joins, and who feeds whom.

    Where a part of the module fails without values, that part becomes one node of kind "other"; if even that does not
    help, the graph is the chain of the layers in the order in which the module holds them. A condition on the values of
    a tensor is taken to be true, or false if the module then fails.

    Args:
        module: any network, also one on the "meta" device. It is not changed, nor are torch's random numbers.
        example_inputs: a tensor, a tuple of arguments, or a dict of named arguments. Only their shapes and types count.
            The first dimension is the batch.

    Raises:
        UserError: the module is none, has lazy layers that have no weights yet, or there is no tensor among the inputs.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> for node in architecture_of(network, torch.zeros(1, 4)).nodes:
    ...     print(node.kind, node.fan_in, node.fan_out, node.parameters, node.activation or "-")
    input 0 4 0 -
    linear 4 8 40 relu
    linear 8 2 18 -
    output 2 2 0 -
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"{type(module).__name__} is no torch.nn.Module: give the network itself")
    module = _unwrapped(module)
    args, kwargs = ((), dict(example_inputs)) if isinstance(example_inputs, Mapping) else (example_inputs, {})
    args = tuple(args) if isinstance(args, tuple | list) else (args,)
    given = list(tensors((args, kwargs)))
    if not given:
        raise UserError("there is no tensor among the example inputs: give what the network is called with")
    batch = given[0].shape[0] if given[0].dim() and given[0].shape[0] else 1
    leaves: set[nn.Module] = set()
    with _disable_current_modes(), _generators_kept():
        for _ in range(_MOST_RUNS):
            stopped = None
            for assumed in (True, False):
                try:
                    return _recorded(module, args, kwargs, leaves, assumed, batch)
                except _Failed as error:
                    stopped = error.part
                    if not error.assumptions:
                        break
            if stopped is None or stopped is module or stopped in leaves:
                break
            leaves.update(part for part in module.modules() if type(part) is type(stopped))
    return _listed(module)


class _Failed(Exception):  # noqa: N818 (it is control flow)
    """A forward pass failed in a part of the module, after some assumptions on values."""

    def __init__(self, part: nn.Module | None, assumptions: int) -> None:
        super().__init__()
        self.part, self.assumptions = part, assumptions


def _recorded(
    module: nn.Module, args: Any, kwargs: Any, leaves: set[nn.Module], assumed: bool, batch: int
) -> Architecture:
    """Run a copy of the module once, and return the graph.

    Raises:
        _Failed: it does not run.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    cloner = Cloner(mode)
    copy = cloner.module(module)
    homes = {weight.device for weight in module.parameters()}
    device = homes.pop() if len(homes) == 1 else None
    args, kwargs = _moved(args, cloner, device), _moved(kwargs, cloner, device)
    parts = {name: (part, cloner.module(part)) for name, part in module.named_modules()}
    originals = {id(clone): part for part, clone in parts.values()}
    weights = [*dict.fromkeys(copy.parameters())]
    recorder = Recorder(
        {id(clone): name for name, (_, clone) in parts.items()},
        {id(weight): number for number, weight in enumerate(weights)},
        frozenset(id(clone) for part, clone in parts.values() if part in leaves),
        assumed,
    )
    for _, clone in parts.values():
        if not isinstance(clone, torch.jit.ScriptModule):
            clone.__dict__["forward"] = partial(recorder.call, clone, clone.forward)
    try:
        # Of attention and recurrent layers, only these kernels have products that torch's formulas count.
        with mode, sdpa_kernel([SDPBackend.MATH]), _without_onednn():
            recorder.run(copy, args, kwargs)
        return contracted(recorder.operations, [tuple(weight.shape) for weight in weights], batch)
    except StoppedIn as stopped:
        raise _Failed(originals.get(id(stopped.args[0])), recorder.assumptions) from stopped
    except Exception as error:  # of torch's modes, or of a module without a forward pass
        raise _Failed(None, recorder.assumptions) from error


def _moved(value: Any, cloner: Cloner, device: torch.device | None) -> Any:
    """Inputs with tensors without values, on the device of the weights."""
    if isinstance(value, Tensor):
        return cloner.tensor(value, device)
    if isinstance(value, Mapping):
        return {name: _moved(part, cloner, device) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(part, cloner, device) for part in value)
    return value


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DataParallel` or `DistributedDataParallel`."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the global random generators of torch, numpy and Python back afterwards."""
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.random.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


_LISTED = {
    "linear": (nn.Linear, nn.Bilinear),
    "conv": (nn.modules.conv._ConvNd,),
    "norm": (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "attention": (nn.MultiheadAttention,),
}


def _listed(module: nn.Module) -> Architecture:
    """The chain of the parts that hold weights themselves, in the order in which the module holds them."""
    nodes, seen = [Node("input", "input")], set()
    for name, part in module.named_modules():
        weights = [*part.parameters(recurse=False)]
        if not weights:
            continue
        kind = next((kind for kind, kinds in _LISTED.items() if isinstance(part, kinds)), "other")
        largest = max((tuple(weight.shape) for weight in weights), key=len)
        fan_out = largest[0] if largest else 1
        fan_in = fan_out if kind == "norm" else int(np.prod(largest[1:]))
        if kind == "embedding":
            fan_in, fan_out = largest
        new = {id(weight): weight.numel() for weight in weights if id(weight) not in seen}
        tied = len(new) < len({id(weight) for weight in weights})
        nodes.append(Node(kind, kind, name, fan_in, fan_out, sum(new.values()), tied=tied))
        seen |= new.keys()
    nodes.append(Node("output", "output"))
    return Architecture(tuple(nodes), tuple((n, n + 1) for n in range(len(nodes) - 1)))

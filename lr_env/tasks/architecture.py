"""The architecture of a task's network, traced once for each network and shape of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from lr_env.architecture import Architecture
from lr_env.isolation import isolating
from lr_env.tasks.catalogue import Task
from lr_env.tasks.networks import Network


@dataclass(frozen=True)
class NetworkArchitecture:
    """Traces the architecture of a network when it is called; see `RunSpec.architecture`.

    Attributes:
        network: settings of the network.
        input_shape: shape of one example.
        num_classes: number of classes.
        tokens: whether the inputs are whole numbers.
    """

    network: Network
    input_shape: tuple[int, ...]
    num_classes: int
    tokens: bool

    def __call__(self) -> Architecture:
        """Return the architecture; an equal network is traced once in a process."""
        try:
            return _traced(self)
        except TypeError:  # a network that cannot be hashed
            return _traced.__wrapped__(self)


def source_of_task(task: Task) -> NetworkArchitecture:
    """Return what traces the architecture of a task's network, at no cost."""
    source = task.source
    return NetworkArchitecture(task.network, tuple(source.input_shape), source.num_classes, source.tokens)


def of_task(task: Task) -> Architecture:
    """Return the architecture of a task's network.

    It depends on the network, the shape of the inputs and the number of classes, and is traced once in a process. The
    data set is not loaded.

    >>> from lr_env.tasks import TASKS
    >>> [node.fan_out for node in of_task(TASKS["DigitsMLP"]).nodes]
    [64, 32, 32, 10, 10]
    """
    return source_of_task(task)()


@lru_cache(maxsize=256)
def _traced(of: NetworkArchitecture) -> Architecture:
    from lr_env.architecture.tracing import architecture_of  # loads much that only tracing needs

    inputs = torch.zeros(1, *of.input_shape, dtype=torch.int64 if of.tokens else torch.float32)
    return architecture_of(_built(of), inputs)


@isolating
def _built(of: NetworkArchitecture) -> nn.Module:
    """The module, without values where that can be: initial weights take time, and would draw random numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    arguments: Any = (of.input_shape, of.num_classes)
    try:
        with FakeTensorMode():
            return of.network.build(*arguments)
    except Exception:  # its initial weights follow from values
        with torch.random.fork_rng(devices=[]):
            return of.network.build(*arguments)

"""Engines: they train chunks of runs and hand on what happens to a sink. Results do not depend on the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from lr_env.entry_points import load
from lr_env.errors import UserError
from lr_env.registry import ENGINES
from lr_env.runs.chunks import Chunk, Sink, train
from lr_env.runs.hosting import Host, LocalHost

P = ParamSpec("P")
R = TypeVar("R")


class Engine(Protocol):
    """Trains chunks, somewhere."""

    @property
    def slots(self) -> int:
        """How many chunks it trains at the same time."""
        ...

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks, in any order."""
        ...

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function where chunks are trained, e.g. one that measures what is fastest there."""
        ...

    def host(self, make: Callable[..., Any], *args: Any) -> Host:
        """Make an object where chunks are trained. It takes a slot until it is closed."""
        ...

    def close(self) -> None:
        """Give back what it holds, such as processes; it is not used afterwards."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may make use of.

    Attributes:
        device: where chunks are trained: "cpu", "cuda", ... or "auto".
        threads: CPU threads of each worker.
        workers: chunks to train at the same time; None for as many as there are cores or GPUs for.
        address: of a cluster; None for the engine's own way of finding it.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers {self.workers}: it must be a whole number of at least 1")


def find_engine(name: str, options: EngineOptions) -> Engine:
    """Return an engine by its name in the entry-point group `lr_env.engines`, whose entries take `EngineOptions`.

    Raises:
        UserError: there is no such engine, or it cannot work with the options.
    """
    return load(ENGINES, "engine", name)(options)


class LocalEngine:
    """Trains one chunk after the other in this process.

    Raises:
        UserError: several workers are asked for, or a cluster.
    """

    slots = 1

    def __init__(self, options: EngineOptions | None = None) -> None:
        if options is not None and (options.workers or options.address):
            option, other = ("--workers", "processes") if options.workers else ("--ray-address", "ray")
            raise UserError(f"{option} is not of engine 'local': add --engine {other}")

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks, in order."""
        for chunk in chunks:
            for event in train(chunk, sink.resume(chunk)):
                event.hand_on(chunk, sink)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function."""
        return function(*args, **kwargs)

    def host(self, make: Callable[..., Any], *args: Any) -> Host:
        """Make an object in this process."""
        return LocalHost(make, *args)

    def close(self) -> None:
        """Do nothing: it holds nothing."""

"""The engine that trains chunks as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lr_env.errors import UserError
from lr_env.files import use_copies
from lr_env.provenance import software
from lr_env.runs.chunks import Chunk, Event, Saved, Sink, Snapshot, SnapshotError, train
from lr_env.runs.engine import EngineOptions
from lr_env.runs.hosting import Answer, Host
from lr_env.runs.worker import on_cpu, portable
from lr_env.stopping import SIGNALS

P = ParamSpec("P")
R = TypeVar("R")

_AHEAD = 2
"""Tasks in flight for each slot: the next chunk is there when a slot becomes free."""

_LOOK = 10.0
"""Seconds between two looks at the size of the cluster, which may grow and shrink."""

_RETRIES = 20
"""So often Ray trains a stretch again whose worker has died."""

_PATIENCE = 30.0
"""Seconds in which a node or an address should answer."""


_VARIABLES = ("LR_ENV_DATA",)
"""Variables of the environment that tasks take over from this process, where their node does not have them."""


@dataclass(frozen=True)
class _Setup:
    """What the process of a task must be like.

    Attributes:
        software: see `lr_env.provenance.software`.
        threads: CPU threads.
        variables: of its environment, where it does not have them.
    """

    software: dict[str, str]
    threads: int
    variables: dict[str, str]

    def prepare(self) -> None:
        """Prepare this process. Nodes may have joined since the engine was made, so that it checks again."""
        import torch

        _check_software(self.software, software(), f"node {socket.gethostname()!r} of the Ray cluster")
        for name, value in self.variables.items():
            os.environ.setdefault(name, value)
        torch.set_num_threads(self.threads)


class RayEngine:
    """Trains chunks as tasks of a Ray cluster that is there; this process alone writes the store.

    A chunk is trained in stretches: a task goes on from a snapshot and comes back with the next one, or with the
    records at the end. So a node that is lost costs what it has trained since the last checkpoint. Files that planners
    read go through Ray's object store, once each.

    Args:
        options: see `EngineOptions`; `workers` is not Ray's.

    Raises:
        UserError: Ray is not installed; there is no cluster; it has no place for a task; or a node of it has other
            software than this process.
    """

    def __init__(self, options: EngineOptions) -> None:
        if options.workers is not None:
            raise UserError("--workers is not of engine 'ray', which uses what its cluster has: leave it out")
        self._ray = _connect(options.address)
        self._threads = options.threads
        self._on_gpu = options.device.startswith("cuda") or (options.device == "auto" and self._total("GPU") >= 1)
        self._resources = {"num_cpus": 1, "num_gpus": 1} if self._on_gpu else {"num_cpus": options.threads}
        self._check_places()
        self._software = software()
        for node in self._nodes():
            self._check_node(node)
        self._files: dict[tuple[str, int], Any] = {}  # name of a file and when it was changed -> its content

    @property
    def slots(self) -> int:
        """How many tasks have a place in the cluster now."""
        return max(1, sum(self._places(node) for node in self._nodes()))

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks; one that comes back is handed on at once.

        Raises:
            UserError: the workers of a chunk died again and again, or one has other software.
        """
        left, flying, slots, looked = iter(chunks), dict[Any, Chunk](), 0, -math.inf
        try:
            while True:
                if time.monotonic() - looked > _LOOK:
                    slots, looked = self.slots, time.monotonic()
                for chunk in islice(left, max(0, _AHEAD * slots - len(flying))):
                    flying[self._submit(chunk, sink.resume(chunk))] = chunk
                if not flying:
                    return
                (reference, *_), _ = self._ray.wait(list(flying), num_returns=1)
                chunk = flying.pop(reference)
                events: list[Event] = self._result(reference)
                for event in events:
                    event.hand_on(chunk, sink)
                if isinstance(last := events[-1], Saved):
                    flying[self._submit(chunk, last.snapshot)] = chunk
        except BaseException:
            for reference in flying:
                with suppress(Exception):  # the cluster may be gone
                    self._ray.cancel(reference, force=True)
            raise

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function on a node, with the resources of a chunk."""
        task = self._ray.remote(_called).options(**self._resources, max_retries=_RETRIES)
        return self._result(task.remote(self._setup, function, *args, **kwargs))

    def host(self, make: Callable[..., Any], *args: Any) -> Host:
        """Make an object in an actor of the cluster."""
        actor = self._ray.remote(_Hosted).options(**self._resources)
        return _ActorHost(self, actor.remote(self._setup, make, *args))

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._ray.shutdown()

    @property
    def _setup(self) -> _Setup:
        variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        return _Setup(self._software, self._threads, variables)

    def _submit(self, chunk: Chunk, snapshot: Snapshot | None) -> Any:
        """The reference of the events of a chunk's next stretch."""
        task = self._ray.remote(_stretch).options(**self._resources, max_retries=_RETRIES, name=f"lr_env {chunk.key}")
        files = files_of(chunk)
        return task.remote(self._setup, chunk, snapshot, files, *map(self._content, files))

    def _content(self, file: str) -> Any:
        """The reference of the content of a file."""
        key = file, os.stat(file).st_mtime_ns
        if key not in self._files:
            self._files[key] = self._ray.put(Path(file).read_bytes())
        return self._files[key]

    def _result(self, reference: Any) -> Any:
        """Wait for what a task returns.

        Raises:
            UserError: its worker died, again and again, or raised this error.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError | SnapshotError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise UserError(
                f"Ray could not train runs to the end ({_said(error)}): see that its nodes live and have enough "
                "memory, e.g. with fewer runs at a time (--lockstep)"
            ) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _places(self, node: dict[str, Any]) -> int:
        """How many tasks have a place on a node."""
        has = node["Resources"]
        places = int(has.get("CPU", 0) // self._resources["num_cpus"])
        return min(places, int(has.get("GPU", 0))) if self._on_gpu else places

    def _total(self, resource: str) -> float:
        return sum(node["Resources"].get(resource, 0) for node in self._nodes())

    def _check_places(self) -> None:
        """Check that a task has a place: Ray would wait for a larger node for ever."""
        if any(self._places(node) for node in self._nodes()):
            return
        if self._on_gpu:
            raise UserError(
                "no node of the Ray cluster has a GPU: start nodes with `ray start --num-gpus N`, or train with "
                "--device cpu"
            )
        most = max((int(node["Resources"].get("CPU", 0)) for node in self._nodes()), default=0)
        raise UserError(f"no node of the Ray cluster has {self._threads} CPUs (at most {most}): give fewer --threads")

    def _check_node(self, node: dict[str, Any]) -> None:
        """Refuse a node on which the runs would not be the same."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = f"node {node['NodeManagerHostname']!r} of the Ray cluster"
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        check = self._ray.remote(_checker()).options(num_cpus=0, scheduling_strategy=there, max_retries=_RETRIES)
        with suppress(self._ray.exceptions.RayError):  # it is on its way out; tasks check again where they are
            _check_software(self._software, self._ray.get(check.remote(), timeout=_PATIENCE), where)


class _ActorHost:
    """An object in an actor; see `lr_env.runs.hosting.Host`."""

    def __init__(self, engine: RayEngine, actor: Any) -> None:
        self._engine, self._actor = engine, actor

    def ask(self, method: str, *args: Any) -> Answer:
        return partial(self._engine._result, self._actor.ask.remote(method, *args))

    def close(self) -> None:
        self._engine._ray.kill(self._actor)


class _Hosted:
    """What an actor is made of."""

    def __init__(self, setup: _Setup, make: Callable[..., Any], *args: Any) -> None:
        setup.prepare()
        with _naming_node():
            self._object = make(*args)

    def ask(self, method: str, *args: Any) -> Any:
        with _naming_node():
            return on_cpu(getattr(self._object, method)(*args))


def files_of(chunk: Chunk) -> tuple[str, ...]:
    """The files that the planners of a chunk read, by the names that their settings have; see `ReadsFiles`."""
    from lr_env.capabilities import ReadsFiles

    planners = [run.planner for run in chunk.runs if isinstance(run.planner, ReadsFiles)]
    return tuple(dict.fromkeys(name for planner in planners for name in planner.files))


def _connect(address: str | None) -> Any:
    """Connect to a cluster, and return the module of Ray.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("engine 'ray' needs the package ray: pip install 'lr-env[ray]'") from error
    if ray.is_initialized():
        return ray
    try:
        if address is not None:
            _knock(address)
        with _handlers_kept():
            ray.init(address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: no cluster, no such host, another version of Ray or Python
        where = "found" if address is None else f"at {address!r}"
        raise UserError(
            f"there is no Ray cluster {where} that can be used ({_said(error)}): start one with `ray start --head`, "
            "or give --ray-address HOST:PORT"
        ) from error
    return ray


def _knock(address: str) -> None:
    """See that somebody listens at an address, as Ray would try for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep the handlers of signals that this process has; Ray installs its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _said(error: BaseException) -> str:
    """The first sentence of what Ray says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].partition(". ")[0].rstrip(".")


def _checker() -> Callable[[], dict[str, str]]:
    """A function that travels to nodes as it is, since it is not found by name; see `software`."""

    def check() -> dict[str, str]:
        try:
            from lr_env.provenance import software
        except ImportError as error:
            return {"lr_env": f"none ({error})"}
        return software()

    return check


def _check_software(expected: dict[str, str], found: dict[str, str], where: str) -> None:
    """Check that software is the same.

    Raises:
        UserError: it differs; it is named.
    """
    for name, version in expected.items():
        if found.get(name) != version:
            raise UserError(
                f"{where} has {name} {found.get(name, 'of another version')}, and this process has {version}: install "
                "the same on all"
            )


@contextmanager
def _naming_node() -> Iterator[None]:
    """Say on which node something was wrong, e.g. that it has no CUDA."""
    try:
        yield
    except UserError as error:
        raise UserError(f"on node {socket.gethostname()!r} of the Ray cluster: {error}") from None


def _called(setup: _Setup, function: Any, *args: Any, **named: Any) -> Any:
    """Call a function on a node."""
    setup.prepare()
    with _naming_node():
        return function(*args, **named)


def _stretch(
    setup: _Setup, chunk: Chunk, snapshot: Snapshot | None, files: Sequence[str], *contents: bytes
) -> list[Event]:
    """Train a chunk from a snapshot to its next one, or to its end."""
    setup.prepare()
    events: list[Event] = []
    use_copies(dict(zip(files, contents, strict=True)))
    with _naming_node():
        for event in train(chunk, snapshot):
            events.append(portable(event))
            if isinstance(event, Saved):
                break
    return events

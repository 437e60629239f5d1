"""The engine that trains chunks in several processes of this machine, one for each group of cores or each GPU."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, ParamSpec, TypeVar

from lr_env.errors import UserError
from lr_env.runs.chunks import Chunk, Ended, Sink, Trained
from lr_env.runs.engine import EngineOptions
from lr_env.runs.hosting import Host, ProcessHost
from lr_env.runs.worker import Failed, Worker

P = ParamSpec("P")
R = TypeVar("R")

TRIES = 8
"""So many processes may die over a chunk one after the other, if none comes further than those before."""

MOST_WORKERS = 1024
"""Upper limit that catches typing errors."""


@dataclass
class _Tries:
    """How far a chunk has come, in segments, and how many processes have died since over it."""

    furthest: int = -1
    deaths: int = 0


class ProcessEngine:
    """Trains chunks in processes of this machine; this process alone writes the store.

    A process that dies, e.g. because it was killed, is replaced, and its chunk goes on from its last checkpoint.

    Args:
        options: see `EngineOptions`.

    Raises:
        UserError: there are fewer GPUs than workers, or too many workers; or a cluster is asked for.
    """

    def __init__(self, options: EngineOptions) -> None:
        if options.address:
            raise UserError("--ray-address is not of engine 'processes': add --engine ray")
        self._threads = options.threads
        self._environments = _environments(options)
        self._workers: dict[int, Worker] = {}  # place -> worker
        self._hosts: list[ProcessHost] = []
        self._finalizer = weakref.finalize(self, _close, self._workers, self._hosts)

    @property
    def slots(self) -> int:
        """How many processes there are at most."""
        return len(self._environments)

    def run(self, chunks: Iterable[Chunk], sink: Sink) -> None:
        """Train all chunks; a process that is free takes the next one.

        Raises:
            UserError: several processes died over the same chunk.
        """
        left, tries = deque(chunks), dict[str, _Tries]()
        try:
            while left or any(worker.chunk for worker in self._workers.values()):
                self._hand_out(left, sink)
                busy: dict[Any, int] = {of.connection: place for place, of in self._workers.items() if of.chunk}
                for connection in wait(list(busy)):
                    self._follow(busy[connection], left, tries, sink)
        except BaseException:
            for place in [place for place, worker in self._workers.items() if worker.chunk]:
                self._workers.pop(place).close()  # nobody waits for what it trains any more
            raise

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function, in this process: it is on the same machine."""
        return function(*args, **kwargs)

    def host(self, make: Callable[..., Any], *args: Any) -> Host:
        """Make an object in a process of its own."""
        environment = self._environments[len(self._hosts) % self.slots]
        self._hosts.append(host := ProcessHost(self._threads, environment, make, *args))
        return host

    def close(self) -> None:
        """End the processes."""
        self._finalizer()

    def _hand_out(self, left: deque[Chunk], sink: Sink) -> None:
        """Give chunks to processes that are free, and start processes where there are none."""
        while left:
            place = next((place for place, worker in self._workers.items() if worker.chunk is None), None)
            if place is None:
                place = next((place for place in range(self.slots) if place not in self._workers), None)
                if place is None:
                    return
                self._workers[place] = Worker(self._threads, self._environments[place])
            chunk = left.popleft()
            self._workers[place].begin(chunk, sink.resume(chunk))

    def _follow(self, place: int, left: deque[Chunk], tries: dict[str, _Tries], sink: Sink) -> None:
        """Hand on the next event of a process, or put its chunk back if it has died."""
        worker = self._workers[place]
        chunk = worker.chunk
        assert chunk is not None
        of_chunk = tries.setdefault(chunk.key, _Tries())
        match event := worker.receive():
            case None:
                of_chunk.deaths += 1
                if of_chunk.deaths == TRIES:
                    raise UserError(_deaths(worker.exit_code()))
                self._workers.pop(place).close()
                left.appendleft(chunk)
            case Failed():
                worker.chunk = None
                event.raise_again()
            case _:
                event.hand_on(chunk, sink)
                if isinstance(event, Ended):
                    worker.chunk = None
                elif isinstance(event, Trained) and event.number > of_chunk.furthest:
                    of_chunk.furthest, of_chunk.deaths = event.number, 0


def _environments(options: EngineOptions) -> list[Mapping[str, str]]:
    """The variables of the environment of each worker: on CUDA, the GPU that it sees."""
    from lr_env.devices import find_device

    device = find_device(options.device)
    if options.workers is not None and options.workers > MOST_WORKERS:
        raise UserError(f"workers {options.workers}: give at most {MOST_WORKERS:,}")
    if device.type == "cpu":
        return [{}] * (options.workers or max(1, cores() // options.threads))
    if device.index is not None and options.device != "auto":  # cuda:1 is that one alone
        gpus: list[Mapping[str, str]] = [{}]
    else:
        gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in _visible_gpus()]
    if options.workers is not None and options.workers > len(gpus):
        raise UserError(
            f"workers {options.workers}: there are {len(gpus)} GPUs for device {options.device!r}, and each worker "
            "takes one: give fewer"
        )
    return gpus[: options.workers]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA names them."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def _deaths(code: int | None) -> str:
    """What to tell of a chunk over which one process after the other has died."""
    how = f"with exit code {code}" if code is None or code >= 0 else f"by signal {-code}"
    return (
        f"{TRIES} worker processes ended one after the other over the same runs, the last one {how}: see that there "
        "is enough memory (fewer --workers, or fewer runs at a time with --lockstep); a script that starts workers "
        'must be guarded by if __name__ == "__main__"'
    )


def _close(workers: dict[int, Worker], hosts: list[ProcessHost]) -> None:
    while workers:
        workers.popitem()[1].close()
    while hosts:
        hosts.pop().close()

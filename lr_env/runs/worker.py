"""A process that trains chunks for another process, which started it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, cast

import cloudpickle

from lr_env.errors import UserError
from lr_env.runs.chunks import Chunk, Event, Saved, Snapshot, train

_PATIENCE = 5.0
"""Seconds that a process may take to end when it is asked to."""


@dataclass(frozen=True, eq=False)
class Failed:
    """Training a chunk raised an error.

    Attributes:
        error: itself, or one with its text where it cannot be pickled.
        where: its traceback as text.
    """

    error: BaseException
    where: str

    def raise_again(self) -> None:
        """Raise the error; one that is not the user's gets a note that says where it was raised first."""
        if not isinstance(self.error, UserError):
            self.error.add_note(f"in a worker process:\n{self.where}")
        raise self.error


class Worker:
    """A process that trains one chunk at a time.

    Args:
        threads: CPU threads of its operations.
        environment: variables of its environment that differ from this process.

    Attributes:
        chunk: that it trains now; None if it has nothing to do.
    """

    def __init__(self, threads: int, environment: Mapping[str, str] | None = None) -> None:
        self.chunk: Chunk | None = None
        self.process, self.connection = spawned(_work, threads, environment or {})

    def begin(self, chunk: Chunk, snapshot: Snapshot | None) -> None:
        """Let it train a chunk. If it has died, `receive` says so."""
        self.chunk = chunk
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(cloudpickle.dumps((chunk, snapshot)))

    def receive(self) -> Event | Failed | None:
        """Wait for the next event; None if the process has died."""
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None

    def exit_code(self) -> int | None:
        """The exit code of a process that has died; below 0 for the signal that killed it."""
        self.process.join(_PATIENCE)
        return self.process.exitcode

    def close(self) -> None:
        """End the process."""
        end(self.process, self.connection)


def spawned(
    work: Callable[[Connection], None], threads: int, environment: Mapping[str, str]
) -> tuple[BaseProcess, Connection]:
    """Start a process that does some work for this one, and return it with this side of its pipe.

    Args:
        work: a function of a module, of the other side of the pipe.
        threads: CPU threads of its operations.
        environment: variables of its environment that differ from this process.
    """
    context = multiprocessing.get_context("spawn")  # forks cannot use CUDA
    ours, theirs = context.Pipe()
    process = context.Process(target=_begin, args=(work, theirs, threads), name="lr_env-worker", daemon=True)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # which the process is started with: CUDA reads it once
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()  # so that the end of the process is the end of the pipe
    return process, cast("Connection", ours)


def end(process: BaseProcess, connection: Connection) -> None:
    """End a process that `spawned` started."""
    connection.close()
    process.terminate()
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def on_cpu(tree: Any) -> Any:
    """Return a tree with its tensors on the CPU: another process may not have the device."""
    from torch import Tensor
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda tensor: tensor.cpu(), tree)


def portable(event: Event) -> Event:
    """Return an event as another process can take it."""
    return Saved(event.segments, on_cpu(event.snapshot)) if isinstance(event, Saved) else event


def _begin(work: Callable[[Connection], None], connection: Connection, threads: int) -> None:
    """Do the work of a spawned process, until the process that it is done for ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work(connection)


def _work(connection: Connection) -> None:
    """Train the chunks that come through a pipe."""
    while True:
        chunk, snapshot = pickle.loads(connection.recv_bytes())
        try:
            for event in train(chunk, snapshot):
                send(connection, portable(event))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            send(connection, failed(error))


def send(connection: Connection, message: Any) -> None:
    """Send an object through a pipe."""
    # Not `connection.send`, which hands tensors over in memory that is shared: it is lost when this process is killed.
    connection.send_bytes(cloudpickle.dumps(message))


def failed(error: Exception) -> Failed:
    """Tell of an error in a form that another process can take."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failed(error, where)

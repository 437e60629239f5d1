"""A process that trains chunks for another process, which started it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

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
        context = multiprocessing.get_context("spawn")  # forks cannot use CUDA
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, threads), name="lr_env-worker", daemon=True)
        before = {name: os.environ.get(name) for name in environment or {}}
        os.environ.update(environment or {})  # which the process is started with: CUDA reads it once
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()  # so that the end of the process is the end of the pipe

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
        self.connection.close()
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def on_cpu(tree: Any) -> Any:
    """Return a tree with its tensors on the CPU: another process may not have the device."""
    from torch import Tensor
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda tensor: tensor.cpu(), tree)


def portable(event: Event) -> Event:
    """Return an event as another process can take it."""
    return Saved(event.segments, on_cpu(event.snapshot)) if isinstance(event, Saved) else event


def _work(connection: Connection, threads: int) -> None:
    """Train the chunks that come through a pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the process that is worked for has ended
        while True:
            chunk, snapshot = pickle.loads(connection.recv_bytes())
            try:
                for event in train(chunk, snapshot):
                    _send(connection, portable(event))
            except (BrokenPipeError, ConnectionResetError):
                return
            except Exception as error:
                _send(connection, _failed(error))


def _send(connection: Connection, message: Event | Failed) -> None:
    # Not `connection.send`, which hands tensors over in memory that is shared: it is lost when this process is killed.
    connection.send_bytes(cloudpickle.dumps(message))


def _failed(error: Exception) -> Failed:
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(cloudpickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failed(error, where)

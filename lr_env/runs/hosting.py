"""Objects that live where chunks are trained, and whose methods are called from here."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

import cloudpickle

from lr_env.errors import UserError
from lr_env.runs.worker import Failed, end, failed, on_cpu, send, spawned

Answer = Callable[[], Any]
"""Waits for what a method returns, and returns it; an error of the method is raised."""


class Host(Protocol):
    """An object somewhere."""

    def ask(self, method: str, *args: Any) -> Answer:
        """Begin to call a method; several hosts work at the same time."""
        ...

    def close(self) -> None:
        """Let go of the object."""
        ...


class LocalHost:
    """An object in this process.

    Args:
        make: makes it.
        args: what of.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._object = make(*args)

    def ask(self, method: str, *args: Any) -> Answer:
        """Call a method; see `Host`."""
        value = getattr(self._object, method)(*args)
        return lambda: value

    def close(self) -> None:
        """Do nothing."""


class ProcessHost:
    """An object in a process of its own.

    Args:
        threads: CPU threads of its operations.
        environment: variables of the environment of the process that differ from this one.
        make: makes it; a function that can be pickled, as its arguments can.
        args: what of.
    """

    def __init__(self, threads: int, environment: Mapping[str, str], make: Callable[..., Any], *args: Any) -> None:
        self._process, self._connection = spawned(_serve, threads, environment)
        self._connection.send_bytes(cloudpickle.dumps((make, args)))
        self._receive()

    def ask(self, method: str, *args: Any) -> Answer:
        """Begin to call a method; see `Host`. The answer is waited for before the next question."""
        try:
            self._connection.send_bytes(cloudpickle.dumps((method, args)))
        except OSError:
            raise self._died() from None
        return self._receive

    def close(self) -> None:
        """End the process."""
        end(self._process, self._connection)

    def _receive(self) -> Any:
        try:
            answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, Failed):
            answer.raise_again()
        return answer

    def _died(self) -> UserError:
        self._process.join(1.0)
        return UserError(
            f"a worker process ended, with exit code {self._process.exitcode}: see that there is enough memory; the "
            "same command goes on from the last checkpoint"
        )


def _serve(connection: Connection) -> None:
    """Make an object, and call its methods, as a pipe says."""
    make, args = pickle.loads(connection.recv_bytes())
    try:
        served = make(*args)
    except Exception as error:
        send(connection, failed(error))
        return
    send(connection, None)
    while True:
        method, args = pickle.loads(connection.recv_bytes())
        try:
            answer = on_cpu(getattr(served, method)(*args))
        except Exception as error:
            answer = failed(error)
        send(connection, answer)

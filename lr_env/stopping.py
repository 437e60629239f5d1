"""Ctrl-C and SIGTERM in the command `lr-env`: one line and an exit code, whenever they come.

Imports next to nothing, so that it is in place before what takes long to import.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_AT_ONCE = 1.0
"""Seconds in which a second signal is taken for the first: `timeout` sends it to a process, and to its group."""


class Stopping:
    """What becomes of the process when it is told to stop.

    Before the command runs nothing is lost: the process ends at once. From `begin` on the first signal raises
    `KeyboardInterrupt`, so that what is open is closed; one that comes later, while that goes on, ends the process.

    Attributes:
        number: of the signal that came; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._running = self._told = False
        self._since = 0.0

    def install(self) -> None:
        """Handle the signals that the parent of the process has not told it to ignore, from now on."""
        self.number, self._running, self._told = None, False, False
        if threading.current_thread() is threading.main_thread():  # the only one that may
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._come)

    def begin(self) -> None:
        """From now on the command runs."""
        self._running = True

    def check(self) -> None:
        """Raise the `KeyboardInterrupt` again of a signal that came, if something took it for an error of its own.

        Compilers do, which are tried to see what is fastest.
        """
        if self.number is not None:
            raise KeyboardInterrupt

    def end(self, code: int) -> None:
        """The command is over: signals do what they did before, or, if one came, the process ends with that code.

        It is not left to Python to end it, which gives up the handling of signals a moment before it is done.
        """
        if self.number is not None:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)
        if threading.current_thread() is threading.main_thread():
            for number, usual in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
                if signal.getsignal(number) == self._come:
                    signal.signal(number, usual)

    def tell(self, line: str) -> int:
        """Say that the process was stopped, and return its exit code."""
        if not self._told:
            self._told = True
            print(line, file=sys.stderr, flush=True)
        return 128 + (self.number or signal.SIGINT)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._running and self.number is None:
            self.number, self._since = number, time.monotonic()
            raise KeyboardInterrupt
        if self.number is not None and time.monotonic() - self._since < _AT_ONCE:
            return
        if not self._told:
            os.write(2, b"stopped\n")  # print may be what was interrupted
        os._exit(128 + number)


STOPPING = Stopping()

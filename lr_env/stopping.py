"""Ctrl-C and SIGTERM in the command `lr-env`: they end it with one line and an exit code at any time.

This module imports almost nothing, so that the handlers are installed before slow imports.
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
"""Seconds in which a second signal counts as the first: `timeout` sends it to a process, and again to its group."""


class Stopping:
    """Handles the signals that stop the process.

    Before the command runs, nothing can be lost, and the process ends at once. From `begin` on, the first signal raises
    `KeyboardInterrupt`, so that open files are closed; a second signal during that ends the process.

    Attributes:
        number: number of the signal that came; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._running = self._reported = False
        self._since = 0.0

    def install(self) -> None:
        """Handle the signals from now on, except those that the parent process has set to be ignored."""
        self.number, self._running, self._reported = None, False, False
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._handle)

    def begin(self) -> None:
        """Note that the command runs from now on."""
        self._running = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` again after a signal, in case other software turned it into another error.

        Compilers do that, while backends are timed.
        """
        if self.number is not None:
            raise KeyboardInterrupt

    def end(self, code: int) -> None:
        """Restore the signal handlers after the command, or, if a signal came, end the process with that code.

        The process is ended here and not by Python, which stops handling signals shortly before it is done.
        """
        if self.number is not None:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)
        if threading.current_thread() is threading.main_thread():
            for number, default in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, default)

    def tell(self, line: str) -> int:
        """Say that the process was stopped, and return its exit code."""
        if not self._reported:
            self._reported = True
            print(line, file=sys.stderr, flush=True)
        return 128 + (self.number or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._running and self.number is None:
            self.number, self._since = number, time.monotonic()
            raise KeyboardInterrupt
        if self.number is not None and time.monotonic() - self._since < _AT_ONCE:
            return
        if not self._reported:
            os.write(2, b"stopped\n")  # not by print, which may have been interrupted
        os._exit(128 + number)


STOPPING = Stopping()

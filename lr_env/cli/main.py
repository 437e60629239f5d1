"""The entry point of `lr-env`. Heavy imports wait until Ctrl-C and SIGTERM are handled."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress

from lr_env import terminal
from lr_env.errors import UserError
from lr_env.stopping import STOPPING

_REMEDIES = {
    errno.ENOSPC: "; make room on the disk",
    errno.EDQUOT: "; make room on the disk",
    errno.EFBIG: "; see that the disk has room, and that no limit is set to the size of files",
    errno.EACCES: "; see that it may be read and written",
    errno.EPERM: "; see that it may be read and written",
    errno.EROFS: "; see that it may be written",
}
"""Error number of the operating system -> what the user can do about it."""


def main() -> None:
    """Run the command that the arguments ask for. Bad input ends with one line on standard error and exit code 2."""
    terminal.prepare()
    STOPPING.install()
    code = _run()
    STOPPING.end(code)
    if code:
        sys.exit(code)


def _run() -> int:
    """Run the command and return its exit code."""
    command = None
    failed_figures: list[str] = []  # messages about figures that could not be drawn
    try:
        from lr_env.cli.commands import parse
        from lr_env.report.files import collect_not_drawn

        command = parse()
        STOPPING.begin()
        with collect_not_drawn(failed_figures):
            command.run()
        terminal.finish()
        code = 1 if failed_figures else 0
    except SystemExit:  # the help was printed
        raise
    except BaseException as error:
        # Other software may have turned the KeyboardInterrupt into another error.
        if isinstance(error, KeyboardInterrupt) or STOPPING.number is not None:
            return STOPPING.tell(_stop_message(command))
        code = _report(error)
    if failed_figures:
        _tell("; ".join(failed_figures))
    return code


def _report(error: BaseException) -> int:
    """Print one line about an error and return the exit code. Bugs, which the user cannot fix, are raised again."""
    if isinstance(error, UserError):
        _tell(str(error))
        return 2
    if isinstance(error, BrokenPipeError):  # the reader of the output, e.g. `head`, has closed it
        terminal.swallow()
        return 1
    if isinstance(error, OSError):
        with suppress(OSError):
            terminal.finish()  # if standard output has failed, it would fail again at the end of the process
        _tell(_system_message(error))
        return 2
    if isinstance(error, MemoryError):
        _tell("out of memory: ask for less, such as fewer runs at a time (--lockstep) or smaller batches")
        return 2
    raise error


def _system_message(error: OSError) -> str:
    """Describe an error of the operating system or the network."""
    if error.errno is None:  # raised by a package, with a message of its own
        return f"{str(error) or type(error).__name__}"
    where = f" {str(error.filename)!r}" if error.filename else ""
    return f"cannot read or write{where}: {error.strerror or error}{_REMEDIES.get(error.errno, '')}"


def _stop_message(command: object) -> str:
    """Say whether a stopped command can be continued: whether its class says that it is `resumable`."""
    if command is None:  # stopped before the arguments were read
        return "stopped"
    if line := getattr(command, "stopped", ""):
        return str(line)
    if not getattr(command, "resumable", False):
        return "stopped; nothing of it is saved"
    fresh = getattr(command, "fresh", False)
    return f"stopped; the same command{', without --fresh,' if fresh else ''} continues from here"


def _tell(line: str) -> None:
    print(f"lr-env: {' '.join(line.split())}", file=sys.stderr)

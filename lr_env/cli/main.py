"""The entry point of `lr-env`. It imports next to nothing before it can be stopped."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress

from lr_env import terminal
from lr_env.errors import UserError
from lr_env.stopping import STOPPING

_MEANT = {
    errno.ENOSPC: "; make room on the disk",
    errno.EDQUOT: "; make room on the disk",
    errno.EFBIG: "; see that the disk has room, and that no limit is set to the size of files",
    errno.EACCES: "; see that it may be read and written",
    errno.EPERM: "; see that it may be read and written",
    errno.EROFS: "; see that it may be written",
}
"""Number of an error of the system -> what to do about it."""


def main() -> None:
    """Run the command that the arguments ask for: bad input is one line and exit code 2."""
    terminal.prepare()
    STOPPING.install()
    code = _run()
    STOPPING.end(code)
    if code:
        sys.exit(code)


def _run() -> int:
    """The exit code of the command."""
    command = None
    lost: list[str] = []  # figures that could not be drawn
    try:
        from lr_env.cli.commands import parse
        from lr_env.report.files import collect_not_drawn

        command = parse()
        STOPPING.begin()
        with collect_not_drawn(lost):
            command.run()
        terminal.finish()
        code = 1 if lost else 0
    except SystemExit:  # help was asked for, and given
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt) or STOPPING.number is not None  # whatever it was turned into
        if stopped:
            return STOPPING.tell(_stopped(command))
        code = _told(error)
    if lost:
        _tell("; ".join(lost))
    return code


def _told(error: BaseException) -> int:
    """Say in one line what went wrong, and return the exit code; what is no one's to mend but ours is raised."""
    if isinstance(error, UserError):
        _tell(str(error))
        return 2
    if isinstance(error, BrokenPipeError):  # the reader of our output, say `head`, has had enough
        terminal.swallow()
        return 1
    if isinstance(error, OSError):
        with suppress(OSError):
            terminal.finish()  # it may be what failed, and would fail again at the end of the process
        _tell(_of_the_system(error))
        return 2
    if isinstance(error, MemoryError):
        _tell("the memory does not hold that: ask for less, such as fewer children (--lockstep) or smaller batches")
        return 2
    raise error


def _of_the_system(error: OSError) -> str:
    """What the system, or the network, did not do."""
    if error.errno is None:  # of a package: its own words are all there is
        return f"{str(error) or type(error).__name__}"
    where = f" {str(error.filename)!r}" if error.filename else ""
    return f"cannot read or write{where}: {error.strerror or error}{_MEANT.get(error.errno, '')}"


def _stopped(command: object) -> str:
    """What becomes of a command that was stopped by hand; only those with --fresh keep what they have done."""
    if command is None:  # before it was known which
        return "stopped"
    fresh = getattr(command, "fresh", None)
    if fresh is None:
        return "stopped; nothing is kept of it"
    return f"stopped; the same command{', without --fresh,' if fresh else ''} goes on from here"


def _tell(line: str) -> None:
    print(f"lr-env: {' '.join(line.split())}", file=sys.stderr)

"""What is printed, and where: streams that take any text, and consoles of a sensible width."""

from __future__ import annotations

import codecs
import io
import os
import sys
import textwrap
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST, USUAL, WIDEST = 20, 80, 1000
"""Columns: fewer are taken for so many; where nobody tells; more are taken for so many."""

_REPLACED = "lr-env"
"""Name of the error handler of streams that are not able to show all characters."""

# ruff: noqa: RUF001
_LIKE = {
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("─━╌╸╺–—−‐‑", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    "±": "+-",
    "×": "x",
    "…": "...",
    "→": "->",
    "•": "*",
}
"""What stands for a character where it cannot be shown."""


def prepare() -> None:
    """Make standard output and standard error take whatever is printed.

    What cannot be shown is replaced. A stream that is closed is opened anew and swallows all: were it left closed, the
    next file would be opened in its place, and get what is printed.
    """
    codecs.register_error(_REPLACED, _replaced)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for number, name in enumerate(("stdout", "stderr"), 1):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors=_REPLACED, closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_REPLACED)


def finish() -> None:
    """Print what is still to be printed.

    Raises:
        OSError: it cannot be. What is left is forgotten, so that the end of the process does not try it again.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        swallow()
        raise OSError(error.errno, error.strerror, "standard output") from error


def swallow() -> None:
    """Let standard output swallow what is left: there is nobody to take it."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # it is no file
        pass


def width(stream: TextIO) -> int:
    """Columns of text that a stream takes, from COLUMNS if that is a number above 0, else from its terminal."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
    return min(max(columns, NARROWEST), WIDEST) if columns > 0 else USUAL


def console(*, error: bool = False) -> Console:
    """The console of standard output, or of standard error."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=width(stream))


def paragraph(to: Console, text: str, style: str = "") -> None:
    """Print text in lines of the console's width, no word cut."""
    lines = textwrap.wrap(shown(text, to.encoding), to.width, break_long_words=False, break_on_hyphens=False)
    to.print("\n".join(lines), style=style or None, highlight=False, markup=False, soft_wrap=True)


def shown(text: str, encoding: str) -> str:
    """The text as a stream of that encoding will show it."""
    codecs.register_error(_REPLACED, _replaced)
    return text.encode(encoding, _REPLACED).decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_like, error.object[error.start : error.end])), error.end


def _like(character: str) -> str:
    """What stands for a character, in ASCII."""
    if 0xDC80 <= (code := ord(character)) <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in _LIKE:
        return _LIKE[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"

"""Printing: streams that accept any text, and consoles with a sensible width."""

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
"""Width of a console in columns: the smallest, the default, and the largest."""

_REPLACED = "lr-env"
"""Name of the error handler that replaces characters which a stream cannot show."""

# ruff: noqa: RUF001
_SUBSTITUTES = {
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
"""Character -> text in ASCII that replaces it where it cannot be shown."""


def prepare() -> None:
    """Make standard output and standard error accept any text.

    Characters that cannot be shown are replaced. A closed stream is opened as one that discards its text: otherwise the
    next file that is opened would get its number, and the printed text.
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
    """Flush standard output.

    Raises:
        OSError: it cannot be written. The rest is discarded, so that the end of the process does not try again.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        swallow()
        raise OSError(error.errno, error.strerror, "standard output") from error


def swallow() -> None:
    """Discard what is left in standard output, because nobody reads it."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # it is not a file
        pass


def width(stream: TextIO) -> int:
    """Return the width of a stream in columns: COLUMNS if that is a number above 0, else that of its terminal."""
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
    """Return a console for standard output, or for standard error."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=width(stream))


def paragraph(to: Console, text: str, style: str = "") -> None:
    """Print text in lines of the console's width, without cutting words."""
    lines = textwrap.wrap(shown(text, to.encoding), to.width, break_long_words=False, break_on_hyphens=False)
    to.print("\n".join(lines), style=style or None, highlight=False, markup=False, soft_wrap=True)


def shown(text: str, encoding: str) -> str:
    """Return the text as a stream with that encoding will show it."""
    codecs.register_error(_REPLACED, _replaced)
    return text.encode(encoding, _REPLACED).decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_substitute, error.object[error.start : error.end])), error.end


def _substitute(character: str) -> str:
    """Return text in ASCII that replaces a character."""
    if 0xDC80 <= (code := ord(character)) <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in _SUBSTITUTES:
        return _SUBSTITUTES[character]
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"

"""Pieces of the sentences that people read: counts with their noun, and errors in one line."""

from __future__ import annotations


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun.

    >>> counted(1, "copy", "copies"), counted(3000, "run")
    ('1 copy', '3,000 runs')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def sentence(words: str) -> str:
    """Return words with a capital letter in front, to begin a sentence with.

    >>> sentence("test loss")
    'Test loss'
    """
    return words[:1].upper() + words[1:]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

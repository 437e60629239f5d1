"""The one kind of error that is the caller's to mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any


class UserError(ValueError):
    """Bad input, told in one line that names the fix.

    The command line prints the line and exits with code 2; in research code it is a `ValueError`. What is quoted in it,
    say of a damaged file, cannot make more lines of it.
    """

    def __init__(self, line: str) -> None:
        shown = "".join(character if character.isprintable() else " " for character in line)
        super().__init__(" ".join(shown.split()))


def unknown(kind: str, name: object, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not in a catalogue, with the nearest names there are.

    From the command line a name may be of any type that JSON has.
    """
    names = sorted(known)
    return UserError(f"unknown {kind} {name!r}{guess(name, names)} (there are: {', '.join(names)}){hint}")


def guess(name: object, names: Sequence[str]) -> str:
    """The end of a sentence on a name that is none of some: the nearest of them; empty where none is near."""
    import difflib

    text = str(name)
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        text.lower(), [n.lower() for n in names], n=1, cutoff=0.5
    )
    near = [n for n in names if near and n.lower() == near[0].lower()]
    return f"; did you mean {near[0]!r}?" if near else ""


def whole(name: str, value: Any) -> int:
    """A count as Python's number, of whatever kind of whole number it was.

    Raises:
        UserError: it is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise UserError(f"{name} is {value!r}: it must be a whole number of at least 1")
    return int(value)


def check_seeds(seeds: Sequence[int], below: int = 2**63) -> None:
    """See that seeds are some, and each is given once.

    Raises:
        UserError: naming one that is not.
    """
    for seed in seeds:
        if not 0 <= seed < below:
            limit = "2**63" if below == 2**63 else f"{below:,}"
            raise UserError(f"seed {seed}: seeds are whole numbers from 0 up, below {limit}")
    refuse_duplicates("seed", seeds)


def refuse_duplicates(kind: str, values: Sequence[Any]) -> None:
    """See that nothing is given twice.

    Raises:
        UserError: naming what is.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{kind} {value} is given twice: each {kind} may be given once")
        seen.add(value)

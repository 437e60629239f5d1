"""The error for bad input, and checks that raise it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Bad input; one line that names the fix.

    The command line prints the line and exits with code 2; in research code it is a `ValueError`. What is quoted in it,
    say of a damaged file, cannot make more lines of it.
    """

    def __init__(self, line: str) -> None:
        shown = "".join(character if character.isprintable() else " " for character in line)
        super().__init__(" ".join(shown.split()))


def unknown(kind: str, name: object, names: Iterable[str], hint: str = "") -> UserError:
    """The error for a name, of any type that JSON has, that is not in a catalogue; it suggests the nearest name."""
    there_are = sorted(names)
    return UserError(f"unknown {kind} {name!r}{guess(name, there_are)} (there are: {', '.join(there_are)}){hint}")


def find(kind: str, name: str, catalogue: Mapping[str, T]) -> T:
    """Return the entry of that name in a catalogue.

    Raises:
        UserError: there is none; `kind` says of what.
    """
    if name not in catalogue:
        raise unknown(kind, name, catalogue)
    return catalogue[name]


def guess(name: object, names: Sequence[str]) -> str:
    """The end of a sentence that suggests the name nearest to one that does not exist; empty where none is near."""
    import difflib

    text = str(name)
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        text.lower(), [n.lower() for n in names], n=1, cutoff=0.5
    )
    near = [n for n in names if near and n.lower() == near[0].lower()]
    return f"; did you mean {near[0]!r}?" if near else ""


def whole(name: str, value: Any, least: int = 1) -> int:
    """Convert a count of any whole-number type to an int.

    Raises:
        UserError: it is not a whole number of at least `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise UserError(f"{name} is {value!r}: it must be a whole number of at least {least}")
    return int(value)


def check_seeds(seeds: Sequence[int], below: int = 2**63) -> None:
    """Check that seeds are whole numbers from 0 up to `below`, each given once.

    Raises:
        UserError: naming the first that is not.
    """
    for seed in seeds:
        if not 0 <= seed < below:
            limit = "2**63" if below == 2**63 else f"{below:,}"
            raise UserError(f"seed {seed}: seeds are whole numbers from 0 up, below {limit}")
    refuse_duplicates("seed", seeds)


def refuse_duplicates(kind: str, values: Sequence[Any]) -> None:
    """Check that no value is given twice.

    Raises:
        UserError: naming the first that is.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{kind} {value} is given twice: each {kind} may be given once")
        seen.add(value)

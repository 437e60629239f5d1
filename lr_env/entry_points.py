"""What installed packages declare in groups of entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from lr_env.errors import UserError, unknown

T = TypeVar("T")


def declared(group: str) -> dict[str, EntryPoint]:
    """Return a dict name -> entry point of a group, in the order in which packages declare them.

    The metadata of all packages, which takes tens of milliseconds, is read once for each group and search path.
    """
    return dict(_declared(group, tuple(sys.path), entry_points))


@lru_cache(maxsize=64)
def _declared(group: str, path: tuple[str, ...], read: Callable[..., Any]) -> Mapping[str, EntryPoint]:
    """The same; `path` and `read` (which tests replace) are what it depends on."""
    return {entry.name: entry for entry in read(group=group)}


def names_with(group: str, catalogue: Mapping[str, Any]) -> list[str]:
    """Return the names of a catalogue of lr_env's own, then those that other packages declare in its group."""
    return [*catalogue, *sorted(declared(group).keys() - catalogue.keys())]


def find_with(group: str, what: str, name: str, catalogue: Mapping[str, T], kind: type[T], kind_name: str) -> T:
    """Return the object of a name: out of a catalogue of lr_env's own, or of a package that declares it in its group.

    Args:
        group: group of the entry points.
        what: kind of the object, for error messages.
        name: name of the object, which the object itself has as `name`.
        catalogue: name -> object.
        kind: class of the object.
        kind_name: name of the class, for error messages.

    Raises:
        UserError: there is none, with a similar name if there is one; or what a package declares is no such object.
    """
    if name in catalogue:
        return catalogue[name]
    if name not in names_with(group, catalogue):
        raise unknown(what, name, names_with(group, catalogue))
    found = load(group, what, name)
    if not isinstance(found, kind) or getattr(found, "name", None) != name:
        raise UserError(f"{what} {name!r} is no {kind_name} of that name: repair the package that declares it")
    return found


def load(group: str, what: str, name: str) -> Any:
    """Load the object of an entry point.

    Args:
        group: group of the entry point.
        what: kind of the object, for error messages.
        name: name of the entry point.

    Raises:
        UserError: there is no such entry point, or the package that declares it cannot be loaded.
    """
    entries = declared(group)
    if not isinstance(name, str) or name not in entries:  # a setting from the command line may have any type
        hint = "" if entries else f"; install lr_env (pip install -e .), so that its {what}s can be found"
        raise unknown(what, name, entries, hint)
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UserError(
            f"{what} {name!r} of package {package!r} cannot be loaded ({error}): repair or uninstall the package"
        ) from error

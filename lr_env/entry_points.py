"""What installed packages declare in groups of entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lr_env.errors import UserError, unknown


def declared(group: str) -> dict[str, EntryPoint]:
    """Return a dict name -> entry point of a group, in the order in which packages declare them."""
    return {entry.name: entry for entry in entry_points(group=group)}


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

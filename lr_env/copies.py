"""Writable copies of objects that other software unpickled, e.g. from memory shared between processes."""

from __future__ import annotations

from typing import Any

import numpy as np


def writable(node: Any) -> Any:
    """Return a tree of dicts, lists and tuples with read-only arrays replaced by copies."""
    if isinstance(node, np.ndarray):
        return node if node.flags.writeable else node.copy()
    if type(node) is dict:
        return {name: writable(value) for name, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(writable(value) for value in node)
    return node


class Copied:
    """Base class of objects that can be pickled and copied, and whose arrays are writable afterwards."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes of an unpickled object."""
        self.__dict__.update(writable(state))

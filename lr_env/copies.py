"""Copies of objects that other software made, say from a store that shares memory between processes."""

from __future__ import annotations

from typing import Any

import numpy as np


def writable(node: Any) -> Any:
    """A tree of dicts, lists and tuples whose arrays can be written: those that cannot are copied."""
    if isinstance(node, np.ndarray):
        return node if node.flags.writeable else node.copy()
    if type(node) is dict:
        return {name: writable(value) for name, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(writable(value) for value in node)
    return node


class Copied:
    """What can be pickled and copied, attribute by attribute, and written to afterwards."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over the attributes."""
        self.__dict__.update(writable(state))

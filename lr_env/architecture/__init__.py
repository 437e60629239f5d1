"""Networks as graphs: their layers, joins and connections, read off any module.

This package loads no torch until `architecture_of` is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lr_env.architecture.features import NODE_FEATURES, SUMMARY_FEATURES
from lr_env.architecture.graph import Architecture, Node
from lr_env.architecture.kinds import KINDS

if TYPE_CHECKING:
    from lr_env.architecture.tracing import architecture_of

__all__ = ["KINDS", "NODE_FEATURES", "SUMMARY_FEATURES", "Architecture", "Node", "architecture_of"]


def __getattr__(name: str) -> Any:
    """Load `architecture_of`, and torch with it, when it is first used."""
    if name != "architecture_of":
        raise AttributeError(f"module 'lr_env.architecture' has no attribute {name!r}")
    from lr_env.architecture.tracing import architecture_of

    return architecture_of

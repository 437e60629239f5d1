"""Planners: they set the learning rate before each segment of a run.

`from planners import Cosine` works for every planner that is declared in the entry-point group `lr_env.planners`. Its
module is loaded at that moment, so that a schedule costs no import of torch.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Load a planner from its module when it is first used."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="lr_env.planners"):
        if entry.attr == name and entry.module.startswith("planners."):
            return entry.load()
    raise AttributeError(f"module 'planners' has no attribute {name!r}")

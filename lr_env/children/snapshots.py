"""Check that a snapshot is one of children of some kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.tasks.catalogue import Task

KEYS = ("tensors", "steps", "seeds", "order_seeds", "optimizers", "measured")
"""Keys of every snapshot of children."""

_NOT_OF_A_KIND = frozenset({"name", "lr_start", "lr_range", "tuning_range", "target_val_loss"})
"""Fields of a task on which children do not depend."""


def kind_of(task: Task, dtype: torch.dtype) -> dict[str, Any]:
    """The settings that children must share to restore each other's snapshots, JSON-able."""
    fields = {name: value for name, value in task.settings().items() if name not in _NOT_OF_A_KIND}
    return json.loads(json.dumps({**fields, "dtype": str(dtype)}, default=lambda value: type(value).__qualname__))


def check_keys(snapshot: Any, keys: Sequence[str], what: str) -> None:
    """Check that a snapshot has the keys of its kind of object.

    Raises:
        UserError: it has not.
    """
    missing = [key for key in keys if key not in snapshot] if isinstance(snapshot, Mapping) else [*keys]
    if missing:
        raise UserError(f"this is no snapshot of {what} (it has no {missing[0]!r}): restore what their snapshot() gave")


def check_kind(snapshot: Any, kind: Mapping[str, Any], count: int) -> None:
    """Check that a snapshot is of `count` children of a kind.

    Args:
        snapshot: the snapshot, or anything else.
        kind: see `kind_of`.
        count: number of children.

    Raises:
        UserError: it is not; the message names what differs.
    """
    check_keys(snapshot, KEYS, "children")
    if len(snapshot["steps"]) != count:
        raise UserError(f"the snapshot holds {len(snapshot['steps'])} children, not {count}: pass its rows")
    theirs = snapshot.get("kind", kind)  # older snapshots do not have it
    for name in kind if theirs != kind else ():
        if theirs.get(name) != kind[name]:
            raise UserError(
                f"the snapshot is of children with {name} {theirs.get(name)}, these have {kind[name]}: restore "
                "it into children of the same task and dtype"
            )

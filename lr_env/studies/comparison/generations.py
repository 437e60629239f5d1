"""Generations of planners in a comparison: those that it was begun with, and those that later starts added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lr_env.errors import UserError


def merge_planners(before: Mapping[str, Any] | None, planners: Sequence[str]) -> dict[str, Any]:
    """The planners of an experiment, where some may be new to it.

    Planners that are added are trained by themselves, so that the runs there are keep their neighbours in the stack.

    Args:
        before: the spec that the experiment was begun with, if it was.
        planners: names of all of them, in any order.

    Returns:
        `planners`, those that it was begun with, and `added`, those of each later start that had new ones.

    Raises:
        UserError: the experiment has one that is not among them.
    """
    if before is None:
        return {"planners": list(planners)}
    batches = generations(before)
    had = [name for batch in batches for name in batch]
    if left_out := [name for name in had if name not in planners]:
        raise UserError(
            f"planner {left_out[0]} is in the experiment, but not among --planners: "
            "name all that it has and those to be added, or give another --name"
        )
    new = [name for name in planners if name not in had]
    later = [*batches[1:], *([new] if new else [])]
    return {"planners": batches[0], **({"added": later} if later else {})}


def generations(spec: Mapping[str, Any]) -> list[list[str]]:
    """Names of the planners of a spec: those that it was begun with, then those that later starts added, by start.

    Raises:
        UserError: it is the spec of an experiment of another kind.
    """
    added = spec.get("added", [])
    batches = [spec.get("planners"), *(added if isinstance(added, list) else [None])]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in batches):
        raise UserError("an experiment of that name is of another kind: give another --name, or --fresh to start over")
    return batches


def has_more_planners(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was added to a comparison are planners, with their settings, fingerprints and code."""
    of_planners = ("added", "settings", "fingerprints", "own_code")
    if any(before.get(key) != now.get(key) for key in (before.keys() | now.keys()).difference(of_planners)):
        return False
    had, have = generations(before), generations(now)
    new = {name for batch in have[len(had) :] for name in batch}

    def same(key: str) -> bool:
        return {name: value for name, value in now.get(key, {}).items() if name not in new} == before.get(key, {})

    return have[: len(had)] == had and all(same(key) for key in of_planners[1:])

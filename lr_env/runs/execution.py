"""The execution of an experiment: measured at its first start, and the same at all later ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lr_env.children import Backend, Execution, resolve
from lr_env.errors import UserError
from lr_env.tasks import Task


def resolve_as_before(
    execution: Execution,
    before: Mapping[str, Any] | None,
    task: Task,
    runs: int,
    child_steps: int,
    *,
    extra_signals: Sequence[str] = (),
    forks: bool = False,
) -> Execution:
    """What an execution leaves open, as an earlier start chose it where the same was asked for, else as is best now.

    Args:
        execution: what is asked for.
        before: what `execution_to_json` made of the earlier start; None if there was none.
        task: what is trained.
        runs: that may be in lockstep at most.
        child_steps: optimizer steps of all children together that are to come.
        extra_signals: names of the signals that are measured on demand.
        forks: whether runs are forked.

    Raises:
        UserError: what the earlier start chose cannot be read; see also `resolve`.
    """
    if not isinstance(before, Mapping) or before.get("wanted") != execution.to_json():
        return resolve(execution, task, runs, child_steps, extra_signals=extra_signals, forks=forks)
    try:
        return replace(execution, backend=Backend(**before["backend"]), lockstep=int(before["lockstep"]))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"how the children of an earlier start were trained cannot be read ({error}): start over with --fresh"
        ) from error


def execution_to_json(asked: Execution, resolved: Execution) -> dict[str, Any]:
    """What a spec says of an execution: what was asked for, and what was chosen."""
    backend = resolved.resolved_backend.to_json()
    return {"wanted": asked.to_json(), "lockstep": resolved.lockstep, "backend": backend}

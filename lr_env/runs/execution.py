"""How children of many runs are trained: on which device, by which backend, and how many in lockstep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from lr_env.children import Children
from lr_env.children.autotune import choose_backend
from lr_env.children.backend import Backend
from lr_env.children.memory import available_bytes
from lr_env.children.numerics import EXACT, Numerics
from lr_env.devices import find_device
from lr_env.errors import UserError
from lr_env.tasks import Task

LOCKSTEP = 128
"""Children trained together by default, memory permitting: more gain little, and a checkpoint holds all of them."""

_MEMORY_SHARE = 0.5
"""Share of the free memory that the default number of children may take."""


def check_lockstep(lockstep: int | None) -> None:
    """See that children can be trained so many at a time.

    Raises:
        UserError: they cannot.
    """
    if lockstep is not None and lockstep < 1:
        raise UserError(f"lockstep {lockstep}: it must be a whole number of at least 1")


@dataclass(frozen=True)
class Training:
    """How children are trained, as it is asked for.

    Attributes:
        device: where children are trained.
        backend: "auto", "loop", "stacked" or "compiled".
        lockstep: children at a time; None for as many as pay and fit.
        numerics: precision and determinism.
        extra_signals: names of the signals that are measured on demand, see `lr_env.children.meters`.
        forks: whether runs are forked, see `lr_env.env.forks`.
    """

    device: str = "cpu"
    backend: str = "auto"
    lockstep: int | None = None
    numerics: Numerics = EXACT
    extra_signals: tuple[str, ...] = ()
    forks: bool = False

    def __post_init__(self) -> None:
        check_lockstep(self.lockstep)

    def settled(self, task: Task, known: Mapping[str, Any] | None, runs: int, child_steps: int) -> dict[str, Any]:
        """What a spec says of it: the backend and the number of children in lockstep are measured where they are free.

        Args:
            task: what is trained.
            known: the spec of an earlier start, from which they are taken where the same was asked for.
            runs: that may be in lockstep at most.
            child_steps: that are to come.
        """
        wanted = {"backend": self.backend, "lockstep": self.lockstep, **asdict(self.numerics)}
        before = known.get("training") if known else None
        if isinstance(before, dict) and before.get("wanted") == wanted:
            return _checked(before)
        lockstep = self._lockstep(task, runs)
        how = self.device, torch.float32, self.numerics, child_steps
        backend = choose_backend(self.backend, task, lockstep, *how)
        return {"wanted": wanted, "lockstep": lockstep, "backend": asdict(backend)}

    def _lockstep(self, task: Task, runs: int) -> int:
        """Children at a time: what was asked for, if it fits, or what pays."""
        memory = Children(task, [0], self.device, "loop", extra_signals=self.extra_signals).memory
        if self.forks:
            memory = replace(memory, persistent=2 * memory.persistent)  # a second child for each run
        device = find_device(self.device)
        if self.lockstep is not None:
            memory.check(min(self.lockstep, runs), 1, device)
            return min(self.lockstep, runs)
        at_once = torch.get_num_threads() if self.backend == "loop" else LOCKSTEP  # what "auto" finds is not known yet
        return max(1, min(LOCKSTEP, runs, memory.fitting(_MEMORY_SHARE * available_bytes(device), at_once)))


def _checked(settled: dict[str, Any]) -> dict[str, Any]:
    """What a spec says of how children are trained, where it makes sense.

    Raises:
        UserError: it does not.
    """
    try:
        Backend(**settled["backend"])
        check_lockstep(int(settled["lockstep"]))
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"how the children of an earlier start were trained cannot be read ({error}): start over with --fresh"
        ) from error
    return settled

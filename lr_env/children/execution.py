"""How children are trained: on which device, by which backend, with what arithmetic, how many together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from lr_env.children.backend import BACKENDS, Backend
from lr_env.children.numerics import EXACT, Numerics
from lr_env.errors import UserError, unknown


@dataclass(frozen=True)
class Execution:
    """How children are trained, one value from the command line down to the children.

    What is left open ("auto", None) is measured by `lr_env.children.autotune.resolve`.

    Attributes:
        device: "cpu", "cuda", "cuda:1", ..., or "auto", which takes CUDA where there is one.
        backend: "loop" (one child after another, plain torch), "stacked" (all as one computation), "compiled" (the
            same, fused by `torch.compile`) or "auto" (the fastest). A `Backend` fixes the block too.
        numerics: precision and determinism of the arithmetic.
        lockstep: children that are trained together; None for as many as pay and fit into memory.

    Raises:
        UserError: fewer than one child in lockstep.
    """

    device: str = "cpu"
    backend: str | Backend = "auto"
    numerics: Numerics = EXACT
    lockstep: int | None = None

    def __post_init__(self) -> None:
        if self.lockstep is not None and self.lockstep < 1:
            raise UserError(f"lockstep {self.lockstep}: it must be a whole number of at least 1")

    @property
    def resolved_backend(self) -> Backend:
        """The backend, once it is known which.

        Raises:
            UserError: it is left open.
        """
        if isinstance(self.backend, Backend):
            return self.backend
        if self.backend == "loop":
            return Backend("loop")
        if self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        raise UserError(
            f"backend {self.backend!r} leaves open how children are trained: give a Backend, or the execution that "
            "lr_env.children.fastest makes of this one"
        )

    def with_backend(self, backend: str | Backend) -> Execution:
        """The same by another backend."""
        return replace(self, backend=backend)

    def to_json(self) -> dict[str, Any]:
        """What was asked for, as specs of experiments have it."""
        backend = self.backend.to_json() if isinstance(self.backend, Backend) else self.backend
        return {"backend": backend, "lockstep": self.lockstep, **asdict(self.numerics)}


AUTO = Execution()
"""On the CPU, by the fastest backend."""

LOOP = Execution(backend="loop")
"""One child after another on the CPU, in plain torch."""

"""Backends: the engine that trains children, and how many children share one computation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lr_env.children.initial import build_seeded
from lr_env.children.noise import seed_dropout
from lr_env.errors import UserError, unknown
from lr_env.words import counted

if TYPE_CHECKING:
    from lr_env.tasks.catalogue import Task

BACKENDS = ("auto", "loop", "stacked", "compiled")


@dataclass(frozen=True)
class Backend:
    """An engine and its settings.

    Attributes:
        name: "loop"; "stacked"; or "compiled", a stack whose operations `torch.compile` fuses. Compiling takes up to
            two minutes and, on a CPU, needs a C++ compiler. It pays for hundreds of runs of children that spend their
            time on reading and writing memory, as transformers and batch norm do.
        block: largest number of children in one computation; 1 for the loop.
        workers: threads, each of which trains a child, or a block of a stack, on one core; 1 for a compiled stack.
        threads: CPU threads that share an operation where there is one worker; None for torch's number.
    """

    name: str
    block: int = 1
    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.name not in BACKENDS[1:]:
            raise unknown("backend", self.name, BACKENDS)
        one = {"loop": self.block, "stacked": 1, "compiled": self.workers}[self.name]
        if min(self.block, self.workers, 1 if self.threads is None else self.threads) < 1 or one != 1:
            raise UserError(
                f"{self!r}: block, workers and threads are at least 1; a loop has no block, a compiled stack no workers"
            )

    def to_json(self) -> dict[str, Any]:
        """What specs of experiments have; those of earlier versions have no threads."""
        return {name: value for name, value in asdict(self).items() if name != "threads" or value is not None}

    def at_once(self, num_children: int, device: torch.device) -> int:
        """How many of the children are trained at the same time, and so need working memory."""
        if self.name == "loop":
            return self.workers
        return num_children if device.type == "cuda" else self.block * self.workers  # a captured step keeps its memory

    def __str__(self) -> str:
        workers = "" if self.workers == 1 else f" with {self.workers} workers"
        threads = "" if self.threads is None else f" on {counted(self.threads, 'thread')}"
        return f"{self.name}{'' if self.name == 'loop' else f' in blocks of {self.block}'}{workers}{threads}"


def network_of(task: Task, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Build a task's network on the CPU, with the initial weights of a seed."""
    source = task.source
    return seed_dropout(build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, dtype))

"""Options that say which engine trains the runs of a command, and with how many processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.cli.task_options import TaskOptions

if TYPE_CHECKING:
    from lr_env.runs.engine import Engine


@dataclass(frozen=True)
class EngineChoice:
    """The options of an engine."""

    engine: Annotated[str, arg(metavar="NAME")] = "local"
    """Where the runs are trained: local (this process), processes (of this machine), ray (a cluster), or an engine of
    another package. The results are the same."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all cores or GPUs)")] = None
    """Processes of the engine; each takes --threads CPU threads, by default 1, or a GPU."""
    ray_address: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="(default: as Ray finds it)")] = None
    """Address of the Ray cluster."""

    @property
    def in_this_process(self) -> bool:
        """Whether the engine is the one that trains in this process."""
        return self.engine == "local"

    def find_engine(self, device: str, threads: int) -> Engine:
        """Return the engine.

        Raises:
            UserError: there is no such engine, or it cannot work with the options.
        """
        from lr_env.runs.engine import EngineOptions, find_engine

        return find_engine(self.engine, EngineOptions(device, threads, self.workers, self.ray_address))


@dataclass(frozen=True)
class TrainingOptions(EngineChoice, TaskOptions):
    """The options of a task, and of the engine that trains it."""

    @property
    def default_threads(self) -> int | None:
        """One for each process where there are several."""
        return super().default_threads if self.in_this_process else 1

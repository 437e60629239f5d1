"""Options of commands whose runs are kept in the record store, and that go on where they were stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from lr_env.cli.parsing import parse_name
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.children import Execution
    from lr_env.runs.lab import Lab
    from lr_env.tasks import Task


@dataclass(frozen=True)
class KeptOptions(TaskOptions):
    """What is trained, and where its runs are kept."""

    suffix: ClassVar[str] = ""
    """What is added to the name of the task for the default name."""

    lockstep: Annotated[int | None, arg(metavar="N")] = None
    """Children trained together. Default: up to 128, as memory allows."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the experiment, in the store and of its folder. Default: that of the task and what is done."""
    fresh: bool = False
    """Forget what was done under this name, and start over."""
    checkpoint_seconds: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Wall time between checkpoints of the runs in flight."""

    def default_name(self) -> str:
        """The name of the task and of what is done: no two studies of a task share theirs."""
        return f"{self.task}{self.suffix}"

    def experiment(self) -> str:
        """The checked name."""
        return parse_name(self.default_name() if self.name is None else self.name)

    def execution(self) -> Execution:
        """How children are trained; sets the number of threads on the way."""
        return replace(super().execution(), lockstep=self.lockstep)

    def seconds(self) -> float:
        """Wall time between checkpoints.

        Raises:
            UserError: it is none.
        """
        if not (math.isfinite(self.checkpoint_seconds) and self.checkpoint_seconds >= 0):
            raise UserError(f"checkpoint-seconds {self.checkpoint_seconds}: it must be a finite number from 0 up")
        return self.checkpoint_seconds

    def lab(self, task: Task, progress: Callable[[str, int], None]) -> Lab:
        """The lab that a study works with.

        Raises:
            UserError: see `seconds`, `experiment` and `execution`.
        """
        from lr_env.records.store import Store
        from lr_env.runs.lab import Lab

        name, execution, seconds = self.experiment(), self.execution(), self.seconds()
        return Lab(task, Store(self.store), name, execution, seconds, self.fresh, progress)


@dataclass(frozen=True)
class ReportOptions(KeptOptions):
    """The same, of commands that write a report."""

    results: Path = Path("results")
    """Folder for the reports; each goes to a subfolder of its name."""

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.results / self.experiment()

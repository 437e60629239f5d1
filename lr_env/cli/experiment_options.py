"""Options of commands that write their runs into the record store and continue after a stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from lr_env.cli.engine_options import TrainingOptions
from lr_env.cli.parsing import parse_name
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.tasks import Task


@dataclass(frozen=True)
class ExperimentOptions(TrainingOptions):
    """Options of an experiment: its task, its name, and where its runs are stored."""

    resumable: ClassVar[bool] = True
    """What was done before a stop is stored, and the same command continues it."""
    suffix: ClassVar[str] = ""
    """Text that follows the name of the task in the default name."""

    lockstep: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: up to 128, as memory allows)")] = (
        None
    )
    """Runs trained at the same time."""
    store: Path = Path("results/records.sqlite")
    """Record store for all runs, a SQLite file."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: TASK-COMMAND; TASK for compare)")] = (
        None
    )
    """Name of the experiment and of its folder. The same command with the same name continues it."""
    fresh: bool = False
    """Delete what is stored under this name, and start over."""
    checkpoint_seconds: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Seconds between two checkpoints of the runs in progress."""

    def default_name(self) -> str:
        """Return the name of the task and the suffix; no two studies of a task share a name."""
        return f"{self.short_name}{self.suffix}"

    def experiment_name(self) -> str:
        """Return the name of the experiment.

        Raises:
            UserError: it cannot be the name of a folder.
        """
        return parse_name(self.default_name() if self.name is None else self.name)

    def checkpoint_interval(self) -> float:
        """Return the seconds between two checkpoints.

        Raises:
            UserError: the number is negative or not finite.
        """
        if not (math.isfinite(self.checkpoint_seconds) and self.checkpoint_seconds >= 0):
            raise UserError(f"checkpoint-seconds {self.checkpoint_seconds}: it must be a finite number from 0 up")
        return self.checkpoint_seconds

    def lab(self, task: Task, name: str, folder: Path) -> Lab:
        """Return the lab that a study works with.

        Raises:
            UserError: there is no such engine; see also `checkpoint_interval` and `execution`.
        """
        from lr_env.records.store import Store
        from lr_env.runs.lab import Lab

        seconds, engine = self.checkpoint_interval(), self.find_engine(self.device, self.set_threads())
        execution = replace(self.execution(engine.call), lockstep=self.lockstep)
        return Lab(task, Store(self.store), name, execution, seconds, self.fresh, folder=folder, engine=engine)


@dataclass(frozen=True)
class ReportOptions(ExperimentOptions):
    """Options of an experiment that writes a report."""

    results: Path = Path("results")
    """Folder for reports. Each experiment writes into a subfolder of its name."""
    log: Annotated[str | None, arg(metavar="TRACKER")] = None
    """Write the finished runs into the logs of a tracker as well: tensorboard or mlflow, or one of another package."""

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.results / self.experiment_name()

    def check_log(self) -> None:
        """Find out before training whether the runs can be written into the logs of the tracker, if one is asked for.

        Raises:
            UserError: there is no such tracker, or its package is not installed.
        """
        if self.log is not None:
            from lr_env.records.writers.base import find_writer

            find_writer(self.log).check()

    def write_log(self, lab: Lab) -> None:
        """Write the finished runs of all experiments of a lab into the logs of the tracker, if one is asked for.

        Raises:
            UserError: see `check_log`; or the tracker refuses the runs.
        """
        if self.log is not None:
            from lr_env.records.writers.base import find_writer
            from lr_env.records.writers.experiments import write_experiments

            with replace(lab, fresh=False).locked():
                where = write_experiments(find_writer(self.log), lab.store, lab.opened, lab.name, lab.folder)
            print(f"Log: {where}")

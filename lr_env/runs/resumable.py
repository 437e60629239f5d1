"""Work that keeps no records, and yet goes on after a kill: all of it is in one checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lr_env.children import Execution
from lr_env.files import remove_leftovers
from lr_env.records.checkpoint import fitting, load_tree, save_tree
from lr_env.runs.execution import execution_to_json, resolve_as_before
from lr_env.runs.spec import experiment_spec
from lr_env.tasks import Task


class Resumable:
    """One piece of work on a few runs, and the file from which it goes on after a kill.

    A checkpoint of other work, e.g. of another seed, is written over.

    Args:
        path: of the checkpoint; None to keep none.
        task: what is trained.
        study: what the result depends on besides the task and how it is trained, JSON-able.
        execution: how children are trained.
        runs: number of runs, which are trained together.
        seconds: wall time between two checkpoints.
        planners: name -> class of planners whose code the result depends on.

    Attributes:
        execution: resolved; what an earlier start chose, where one is gone on with.

    Raises:
        UserError: the checkpoint is damaged; see also `lr_env.children.resolve`.
    """

    def __init__(
        self,
        path: Path | None,
        task: Task,
        study: Mapping[str, Any],
        execution: Execution,
        runs: int,
        seconds: float = 60.0,
        planners: Mapping[str, type] | None = None,
    ) -> None:
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()
        saved: Mapping[str, Any] = {}
        if path is not None:
            remove_leftovers(path)
            with suppress(FileNotFoundError):
                saved = load_tree(path)
        asked = experiment_spec(task, study, {}, execution.device, planners).to_json()
        with fitting(path or Path()):
            same = saved.get("asked") == asked
            training = saved["training"] if same else None
        self.execution = resolve_as_before(execution, training, task, runs, runs * task.budget)
        self._tags = {"asked": asked, "training": execution_to_json(execution, self.execution)}
        goes_on = same and training == self._tags["training"]  # otherwise another backend was asked for
        self._saved = saved["work"] if goes_on else None

    def resume(self, restore: Callable[[Any], None]) -> None:
        """Hand the checkpoint, if there is one, to a function that restores the work.

        Raises:
            UserError: it does not fit.
        """
        if self._saved is not None and self.path is not None:
            with fitting(self.path):
                restore(self._saved)
            self._saved = None

    def offer(self, work: Callable[[], Any]) -> None:
        """Write a checkpoint of what a function gives, a tree of arrays and JSON values, if the last one is old."""
        if self.path is not None and time.monotonic() - self._last >= self.seconds:
            save_tree(self.path, {**self._tags, "work": work()})
            self._last = time.monotonic()

    def done(self) -> None:
        """Remove the checkpoint."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

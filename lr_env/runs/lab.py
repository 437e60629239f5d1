"""A lab: the task that is studied, where its runs are recorded, and how an experiment is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lr_env.children import Execution
from lr_env.files import exclusive_lock
from lr_env.records.store import Store
from lr_env.runs.engine import Engine, LocalEngine
from lr_env.runs.execution import execution_to_json, resolve_as_before
from lr_env.runs.experiment import Experiment, delete_experiment, lock_of
from lr_env.runs.spec import Extends, experiment_spec, never
from lr_env.tasks import Task


@dataclass(frozen=True)
class Lab:
    """What every study works with.

    Attributes:
        task: what is trained.
        store: where the runs are recorded.
        name: of the experiment in the store; parts of a study add to it.
        execution: how children are trained.
        checkpoint_seconds: wall time between checkpoints of the runs in flight.
        fresh: delete what was recorded under this name before.
        progress: called with (what is going on, child steps done since the last call).
        folder: where the study may keep files.
        engine: trains the runs.
        opened: name -> task of every experiment that was opened so far, by parts of the study, too.
    """

    task: Task
    store: Store
    name: str
    execution: Execution = field(default_factory=Execution)
    checkpoint_seconds: float = 60.0
    fresh: bool = False
    progress: Callable[[str, int], None] = lambda what, steps: None
    folder: Path = Path()
    engine: Engine = field(default_factory=LocalEngine)
    opened: dict[str, Task] = field(default_factory=dict)

    def reporting(self, what: str) -> Callable[[int], None]:
        """A function that reports child steps as progress of `what`."""
        return partial(self.progress, what)

    def part(self, name: str, task: Task | None = None) -> Lab:
        """A lab for a part of the study, which is an experiment of its own, of this task or another one."""
        return replace(self, name=f"{self.name}-{name}", task=task or self.task)

    @contextmanager
    def locked(self) -> Iterator[Mapping[str, Any] | None]:
        """Keep other processes from working on the experiment.

        Yields:
            The spec with which it was begun; None if it was not, or is to be forgotten.

        Raises:
            UserError: another process works on it.
        """
        with exclusive_lock(lock_of(self.store, self.name), f"{self.name!r} in {str(self.store.path)!r}"):
            yield None if self.fresh else self.store.experiment(self.name)

    @contextmanager
    def experiment(
        self,
        study: Mapping[str, Any] | Callable[[Mapping[str, Any] | None], Mapping[str, Any]],
        *,
        at_once: int,
        runs: int,
        extends: Extends = never,
        planners: Mapping[str, type] | None = None,
        extra_signals: Sequence[str] = (),
        forks: bool = False,
    ) -> Iterator[Experiment]:
        """The experiment of that name, begun or gone on with, and locked as long as it is open.

        Args:
            study: what its results depend on besides the task and how it is trained, JSON-able; or a function that
                gives that, of the spec with which the experiment was begun (None if it was not).
            at_once: runs that may be in lockstep at most.
            runs: that are to come.
            extends: whether a study may go on with an experiment of another one; see `Extends`.
            planners: name -> class of planners whose code its results depend on.
            extra_signals: names of the signals that are measured on demand.
            forks: whether runs are forked.

        Raises:
            UserError: another process works on it, or it was begun with another spec.
        """
        with self.locked() as before:
            training = before.get("training") if before else None
            budget, wants = runs * self.task.budget, {"extra_signals": extra_signals, "forks": forks}
            # By default every slot gets its share, as what is left idle gains nothing.
            together = at_once if self.execution.lockstep else -(-at_once // self.engine.slots)
            execution = self.engine.call(
                resolve_as_before, self.execution, training, self.task, together, budget, **wants
            )
            trained = execution_to_json(self.execution, execution)
            asked = study(before) if callable(study) else study
            spec = self.engine.call(experiment_spec, self.task, asked, trained, execution.device, planners)
            if self.fresh:  # once it is known to be possible
                delete_experiment(self.store, self.name)
            experiment = Experiment(
                self.store, self.name, self.task, spec, execution, self.checkpoint_seconds, extends, self.engine
            )
            self.opened[self.name] = self.task
            yield experiment
            experiment.done()

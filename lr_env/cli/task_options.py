"""Options of all commands that train: which task, varied how, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import command_line
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.children import Execution, Numerics
    from lr_env.tasks import Task

MOST_STEPS, MOST_SEGMENTS, MOST_THREADS = 10**9, 10**6, 1024
"""More are a slip of the finger: nobody could wait for them, and no machine has as much memory, or as many cores."""

_VARIED = ("budget", "segment", "batch_size", "train_fraction", "label_noise", "val_subset")
"""Fields of a task that options replace."""


@dataclass(frozen=True)
class TaskOptions:
    """What is trained, and where."""

    task: Annotated[str, tyro.conf.Positional, arg(metavar="TASK")]
    """Name of a task; `lr-env tasks` lists them."""
    budget: Annotated[int | None, arg(metavar="STEPS")] = None
    """Optimizer steps in a run, in place of the task's."""
    segment: Annotated[int | None, arg(metavar="STEPS")] = None
    """Optimizer steps between two decisions, in place of the task's."""
    batch_size: Annotated[int | None, arg(metavar="N")] = None
    """Examples a step, in place of the task's."""
    train_fraction: Annotated[float | None, arg(metavar="SHARE")] = None
    """Share of the training examples that is used, in place of the task's."""
    label_noise: Annotated[float | None, arg(metavar="SHARE")] = None
    """Share of the training labels that are wrong, in place of the task's."""
    val_subset: Annotated[int | None, arg(metavar="N")] = None
    """Validation examples that are measured after every segment, in place of the task's."""
    adam: bool = False
    """Train children by Adam, as in the paper of the PPO controller, in place of the task's optimizer."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """cpu, cuda, cuda:1, ... or auto."""
    backend: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto, loop (children one after another), stacked (as one computation) or compiled (the same, fused)."""
    precision: Annotated[str, arg(metavar="NAME")] = "float32"
    """float32, tf32 (CUDA) or bf16 (autocast)."""
    channels_last: bool | None = None
    """Compute convolutions channels-last. Default: on CPUs."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time (CPUs do so anyway)."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads. Default: torch's."""

    def varied_task(self) -> Task:
        """The task with the fields that options replace.

        Raises:
            UserError: there is no such task, or a field that it cannot have.
        """
        from lr_env.tasks import find_task

        own = self._given()
        if self.adam:
            from lr_env.optimizers import Adam

            own["optimizer"] = Adam()
        task = replace(find_task(self.task), **own)
        if task.budget > MOST_STEPS:
            raise UserError(f"budget {task.budget:,}: give at most {MOST_STEPS:,} steps")
        if task.num_segments > MOST_SEGMENTS:
            raise UserError(
                f"a budget of {task.budget:,} steps has {task.num_segments:,} segments of {task.segment}: give a "
                f"longer --segment, so that there are at most {MOST_SEGMENTS:,}"
            )
        return task

    @property
    def variation(self) -> str:
        """The options that vary the task, as they would be written after its name."""
        own = (f" --{name.replace('_', '-')} {value}" for name, value in self._given().items())
        return "".join(own) + " --adam" * self.adam

    def _given(self) -> dict[str, Any]:
        """The fields that options replace, with their values."""
        return {name: value for name in _VARIED if (value := getattr(self, name)) is not None}

    def how_made(self, task: Task) -> dict[str, Any]:
        """What a report keeps of how it was made."""
        import torch

        from lr_env.provenance import device_name, versions

        return {
            "command": command_line(),
            "settings": task.settings(),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "numerics": asdict(self.numerics()),
            "versions": versions(),
        }

    def execution(self) -> Execution:
        """How children are trained; sets the number of threads on the way.

        Raises:
            UserError: the device cannot do it, or the number of threads is not one.
        """
        from lr_env.children import Execution

        return Execution(self.device, self.backend, self.numerics())

    def numerics(self) -> Numerics:
        """How numbers are computed; sets the number of threads on the way.

        Raises:
            UserError: the device cannot do it, or the number of threads is not one.
        """
        import torch

        from lr_env.children import Numerics
        from lr_env.devices import find_device

        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"threads {self.threads}: it must be a whole number of at least 1")
            if self.threads > MOST_THREADS:
                raise UserError(f"threads {self.threads}: give at most {MOST_THREADS:,}")
            torch.set_num_threads(self.threads)
        numerics = Numerics(self.precision, self.deterministic, self.channels_last)
        numerics.check(find_device(self.device))
        return numerics

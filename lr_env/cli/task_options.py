"""Options of all commands that train: the task, its variations, and the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from lr_env.errors import UserError
from lr_env.provenance import command_line

if TYPE_CHECKING:
    from lr_env.children import Execution, Numerics
    from lr_env.tasks import Task

MOST_STEPS, MOST_SEGMENTS, MOST_THREADS = 10**9, 10**6, 1024
"""Upper limits that catch typing errors: larger numbers would take years, or more memory and cores than there are."""

Call = Callable[..., Any]
"""Calls a function with arguments, in this process or another one."""


def directly(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in this process."""
    return function(*args)


_VARIED = (
    "budget",
    "segment",
    "batch_size",
    "train_fraction",
    "label_noise",
    "val_subset",
    "target_val_loss",
    "objective",
)
"""Fields of a task that can be replaced by an option of the same name."""


@dataclass(frozen=True)
class TaskOptions:
    """The task, its variations, and how it is computed."""

    task: Annotated[str, tyro.conf.Positional, arg(metavar="TASK")]
    """Name of the task (data set, network, optimizer, batch size, budget); `lr-env tasks` lists them. MODULE:NAME is a
    task of your own."""
    budget: Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="(default: the task's)")] = None
    """Optimizer steps in a run."""
    segment: Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="(default: the task's)")] = None
    """Optimizer steps in a segment; a planner sets one learning rate for each segment."""
    batch_size: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the task's)")] = None
    """Training examples in a batch."""
    train_fraction: Annotated[float | None, arg(metavar="SHARE", help_behavior_hint="(default: the task's)")] = None
    """Share of the training examples to use, e.g. 0.25."""
    label_noise: Annotated[float | None, arg(metavar="SHARE", help_behavior_hint="(default: the task's)")] = None
    """Share of the training labels to replace by wrong ones, e.g. 0.2."""
    val_subset: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the task's)")] = None
    """Validation examples to measure after every segment."""
    target_val_loss: Annotated[float | None, arg(metavar="LOSS", help_behavior_hint="(default: the task's)")] = None
    """Validation loss by which runs are timed: steps to target."""
    objective: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: val_loss)")] = None
    """What settings are chosen and models are fitted by, and planners judged by: val_loss, val_accuracy,
    final_train_loss or steps_to_target."""
    adam: bool = False
    """Train with Adam instead of the task's optimizer."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Device for the training: cpu, cuda, cuda:1, ... or auto."""
    backend: Annotated[str, arg(metavar="NAME")] = "auto"
    """How to train many networks: loop (in turn), stacked (together), compiled, or auto (measure which is fastest)."""
    precision: Annotated[str, arg(metavar="NAME")] = "float32"
    """Precision of the training: float32, tf32 (CUDA only) or bf16 (autocast)."""
    channels_last: Annotated[bool | None, arg(help_behavior_hint="(default: on CPUs)")] = None
    """Compute convolutions in the channels-last memory format."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time. CPUs always do."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""

    def varied_task(self) -> Task:
        """Return the task with the fields that options replace.

        Raises:
            UserError: there is no such task, or a field has a value that the task cannot have.
        """
        from lr_env.tasks import find_task

        changes = self._given()
        if self.adam:
            from lr_env.optimizers import Adam

            changes["optimizer"] = Adam()
        task = replace(find_task(self.task), **changes)
        if task.budget > MOST_STEPS:
            raise UserError(f"budget {task.budget:,}: give at most {MOST_STEPS:,} steps")
        if task.num_segments > MOST_SEGMENTS:
            raise UserError(
                f"a budget of {task.budget:,} steps has {task.num_segments:,} segments of {task.segment}: give a "
                f"longer --segment, so that there are at most {MOST_SEGMENTS:,}"
            )
        return task

    @property
    def short_name(self) -> str:
        """The name of the task, without the module of one's own: results lie under it."""
        return self.task.rpartition(":")[2]

    @property
    def variation(self) -> str:
        """The options that vary the task, as text to be written after its name on a command line."""
        return _options_text(self._given(), self.adam)

    def _given(self) -> dict[str, Any]:
        """Return the fields of the task that options replace, with their new values."""
        return {name: value for name in _VARIED if (value := getattr(self, name)) is not None}

    def provenance(self, task: Task, call: Call = directly) -> dict[str, Any]:
        """Return the provenance of a report: command, task, device, threads, numerics and versions.

        Args:
            task: that is trained.
            call: calls a function where it is trained.
        """
        import torch

        from lr_env.provenance import device_name, versions

        return {
            "command": command_line(),
            "settings": task.settings(),
            "device": call(device_name, self.device),
            "threads": torch.get_num_threads(),
            "numerics": asdict(self.numerics(call)),
            "versions": versions(),
        }

    def execution(self, call: Call = directly) -> Execution:
        """Set the number of threads, and return how children are trained.

        Args:
            call: calls a function where they are trained.

        Raises:
            UserError: the device cannot do it, or the number of threads is not one.
        """
        from lr_env.children import Execution

        return Execution(self.device, self.backend, self.numerics(call))

    def numerics(self, call: Call = directly) -> Numerics:
        """Set the number of threads, and return the numerics that the options ask for.

        Args:
            call: calls a function where these numerics are used.

        Raises:
            UserError: the device does not support them, or the number of threads is out of range.
        """
        from lr_env.children import Numerics

        self.set_threads()
        numerics = Numerics(self.precision, self.deterministic, self.channels_last)
        call(_check_device, self.device, numerics)
        return numerics

    @property
    def default_threads(self) -> int | None:
        """The number of threads where none is asked for; None for torch's."""
        return None

    def set_threads(self) -> int:
        """Set the number of CPU threads, and return it.

        Raises:
            UserError: the number is out of range.
        """
        import torch

        threads = self.default_threads if self.threads is None else self.threads
        if threads is not None:
            if threads < 1:
                raise UserError(f"threads {threads}: it must be a whole number of at least 1")
            if threads > MOST_THREADS:
                raise UserError(f"threads {threads}: give at most {MOST_THREADS:,}")
            torch.set_num_threads(threads)
        return torch.get_num_threads()


def _check_device(device: str, numerics: Numerics) -> None:
    from lr_env.devices import find_device

    numerics.check(find_device(device))


def variation_of(task: Task) -> str | None:
    """Return the options that make this task of the one that commands find by its name; None if no options do.

    >>> from lr_env.tasks import TASKS
    >>> variation_of(replace(TASKS["DigitsMLP"], budget=500, batch_size=32))
    ' --budget 500 --batch-size 32'
    """
    from lr_env.optimizers import Adam
    from lr_env.tasks import find_task
    from lr_env.tasks.catalogue import task_names

    if task.name not in task_names():
        return None
    original = find_task(task.name)
    given = {name: value for name in _VARIED if (value := getattr(task, name)) != getattr(original, name)}
    adam = task.optimizer == Adam() != original.optimizer
    varied = replace(original, **given, **({"optimizer": Adam()} if adam else {}))
    return _options_text(given, adam) if replace(varied, target_val_loss=task.target_val_loss) == task else None


def _options_text(given: Mapping[str, Any], adam: bool) -> str:
    options = (f" --{name.replace('_', '-')} {value}" for name, value in given.items())
    return "".join(options) + " --adam" * adam

"""The catalogue of tasks: data set, child network, optimizer, batch size and budget under a name."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lr_env.entry_points import find_with, names_with
from lr_env.errors import UserError, unknown, whole
from lr_env.jsonable import to_plain
from lr_env.optimizers import SGD, Adam, AdamW, Optimizer
from lr_env.tasks.augment import Augment, CropFlip
from lr_env.tasks.data import DataSource, find_source, train_size
from lr_env.tasks.networks import CNN, GPT, MLP, LeNet5, Network, ResNet, SwishResNet

OBJECTIVES = ("val_loss", "val_accuracy", "final_train_loss", "steps_to_target")
"""What settings are chosen and models are fitted by: loss or accuracy on the validation split, training loss of the
last segment, or optimizer steps until the validation loss is at the target. See `lr_env.objectives`."""

GROUP = "lr_env.tasks"
"""Entry points of tasks: the name of a task -> the `Task`."""


@dataclass(frozen=True)
class Task:
    """A task: a network to train on a data set, with an optimizer and a budget. Vary it with `dataclasses.replace`.

    Attributes:
        name: name of the task.
        data: name of the data set, which fixes the splits.
        network: the child network.
        optimizer: the optimizer with all its settings but the learning rate.
        batch_size: training examples in a batch. An epoch is a permutation of the training split; its last, incomplete
            batch is dropped, as with `DataLoader(shuffle=True, drop_last=True)`.
        budget: optimizer steps in a run.
        segment: optimizer steps trained under one answer of the planner; divides the budget.
        val_subset: number of validation examples, the first of the split, that are measured after every segment.
        lr_start: initial rate for relative actions ("scale", "discrete").
        lr_range: smallest and largest rate that the environment accepts.
        tuning_range: smallest and largest peak rate that a sweep tries by default.
        target_val_loss: loss on the validation subset in nats per example, about that of a tuned constant rate at the
            end of the budget; "steps to target" counts the steps until a run reaches it.
        clip_norm: largest norm of a child's gradient; larger gradients are scaled down to it. None: no clipping.
        augment: random changes of the training inputs, if any.
        train_fraction: share of the training split that is used, in (0, 1]; a larger share includes a smaller one.
        label_noise: share of the training labels that are replaced by wrong ones, in [0, 1).
        label_burst: from which to which share of the budget what share of the training labels are wrong, besides
            those of `label_noise`, e.g. (0.5, 0.55, 0.5); None for no such burst.
        objective: what training is for, one of `OBJECTIVES`: settings are chosen and models fitted by it, and planners
            are judged by it. No run depends on it.
    """

    name: str
    data: str
    network: Network
    optimizer: Optimizer
    batch_size: int
    budget: int
    segment: int
    val_subset: int
    lr_start: float
    lr_range: tuple[float, float]
    tuning_range: tuple[float, float]
    target_val_loss: float | None = None
    clip_norm: float | None = None
    augment: Augment | None = None
    train_fraction: float = 1.0
    label_noise: float = 0.0
    objective: str = "val_loss"
    label_burst: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for field in ("batch_size", "budget", "segment", "val_subset"):
            object.__setattr__(self, field, whole(field, getattr(self, field)))
        for field in ("lr_start", "train_fraction", "label_noise", "target_val_loss", "clip_norm"):
            if getattr(self, field) is not None or field in ("lr_start", "train_fraction", "label_noise"):
                object.__setattr__(self, field, _number(field, getattr(self, field)))
        if self.budget % self.segment:
            below = self.budget - self.budget % self.segment
            near = f"{below} or {below + self.segment}" if below else str(self.segment)
            raise UserError(
                f"the budget of {self.budget} steps is not a multiple of the segment of {self.segment} steps: "
                f"use a budget of {near}"
            )
        sizes = {**self.source.sizes, "train": self.train_size}
        for field, split in (("batch_size", "train"), ("val_subset", "val")):
            if getattr(self, field) > sizes[split]:
                raise UserError(f"{field} is {getattr(self, field)}, but the {split} split has {sizes[split]} examples")
        for field in ("lr_range", "tuning_range"):
            try:
                low, high = (_number(field, rate) for rate in getattr(self, field))
            except (TypeError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{field} is {getattr(self, field)!r}: it must hold two rates, (low, high)") from None
            object.__setattr__(self, field, (low, high))  # records and hashes need a tuple of floats
            if not (math.isfinite(high) and 0 < low < high):
                raise UserError(f"{field} is ({low}, {high}): it must hold two finite rates, 0 < low < high")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UserError(f"clip_norm is {self.clip_norm}: it must be a finite number above 0, or None")
        if not 0 <= self.label_noise < 1:
            raise UserError(f"label_noise is {self.label_noise}: it must be at least 0 and below 1")
        if self.label_burst is not None:
            burst = tuple(_number("label_burst", number) for number in self.label_burst)
            object.__setattr__(self, "label_burst", burst)  # JSON gives a list
            if len(burst) != 3 or not (0 <= burst[0] < burst[1] <= 1 and 0 < burst[2] < 1):
                raise UserError(
                    f"label_burst is {list(burst)}: give two rising shares of the budget and a share of the labels, "
                    "above 0 and below 1, e.g. (0.5, 0.55, 0.5)"
                )
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        if self.objective == "steps_to_target" and self.target_val_loss is None:
            raise UserError(f"objective steps_to_target: {self.name} has no target_val_loss: give --target-val-loss")
        if not self.lr_range[0] <= self.lr_start <= self.lr_range[1]:
            raise UserError(f"lr_start is {self.lr_start}: it must lie in lr_range {self.lr_range}")

    @property
    def source(self) -> DataSource:
        """The data set."""
        return find_source(self.data)

    @property
    def train_size(self) -> int:
        """Number of training examples that are used."""
        return train_size(self.source, self.train_fraction)

    @property
    def num_segments(self) -> int:
        """Number of segments in a run."""
        return self.budget // self.segment

    def settings(self) -> dict[str, Any]:
        """Return the task as JSON-able values, for records and to compare tasks."""
        fields = to_plain(asdict(self))
        for part in ("network", "optimizer", "augment"):
            if fields[part] is not None:
                settings = fields[part] if isinstance(fields[part], dict) else {}  # an object need not be a dataclass
                fields[part] = {"class": type(getattr(self, part)).__name__, **settings}
        for field, default in (("objective", "val_loss"), ("label_burst", None)):
            if fields[field] == default:
                del fields[field]  # which tasks of earlier versions did not have
        return fields


def _number(field: str, value: Any) -> float:
    """Return a number as a Python float.

    Raises:
        UserError: the value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise UserError(f"{field} is {value!r}: it must be a number")
    return float(value)


def find_task(name: str) -> Task:
    """Return the task of that name: one of `TASKS`, or of a package, or one's own.

    Another package declares it in the entry-point group `lr_env.tasks`. "package.module:NAME" is the object of that
    name in a module that can be imported, or lies in the working folder.

    Raises:
        UserError: there is none, with a similar name if there is one; or what is found is no such task.
    """
    if ":" in name:
        return _own_task(name)
    return find_with(GROUP, "task", name, TASKS, Task, "lr_env.Task")


def _own_task(where: str) -> Task:
    """The task at "package.module:NAME"."""
    module, _, attribute = where.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as `python -m` has it; the processes that train get this path, too
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module raises
        text = str(error).partition("\n")[0]
        raise UserError(
            f"task {where!r}: it cannot be imported ({type(error).__name__}: {text}): give MODULE:NAME, where the "
            f"module lies in {here} or is installed"
        ) from error
    if not isinstance(found, Task):
        raise UserError(f"task {where!r} is {type(found).__name__}, and no lr_env.Task: give the name of a Task")
    return found


def task_names() -> list[str]:
    """Return the names of all tasks: those of lr_env, then those of other packages."""
    return names_with(GROUP, TASKS)


def _task(name: str, data: str, network: Network, optimizer: Optimizer, budget: int, **fields: Any) -> Task:
    """A task with 100 segments and the widest range of rates."""
    return Task(name, data, network, optimizer, budget=budget, segment=budget // 100, lr_range=(1e-10, 10.0), **fields)


_FOR_SGD: dict[str, Any] = {"lr_start": 0.01, "tuning_range": (0.003, 0.3)}
_FOR_ADAM: dict[str, Any] = {"lr_start": 0.001, "tuning_range": (0.0003, 0.03)}
_FOR_CIFAR100: dict[str, Any] = {
    "optimizer": AdamW(weight_decay=0.01),
    "batch_size": 256,
    "budget": 10_500,
    "val_subset": 5000,
    "augment": CropFlip(),
    **_FOR_ADAM,
}
_MOMENTUM = SGD(momentum=0.9)
_DECAYED = SGD(momentum=0.9, nesterov=True, weight_decay=5e-4)

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        # For a CPU: one run takes at most about ten seconds of one core.
        _task(
            "DigitsMLP",
            "digits",
            MLP((32, 32)),
            _MOMENTUM,
            batch_size=16,
            budget=1000,
            val_subset=100,
            target_val_loss=0.18,
            **_FOR_SGD,
        ),
        _task(
            "FashionMLP",
            "fashion-mnist",
            MLP((128, 128)),
            _MOMENTUM,
            batch_size=64,
            budget=1000,
            val_subset=250,
            target_val_loss=0.38,
            **_FOR_SGD,
        ),
        _task(
            "FashionLeNet5",
            "fashion-mnist",
            LeNet5(),
            _MOMENTUM,
            batch_size=64,
            budget=600,
            val_subset=150,
            target_val_loss=0.38,
            **_FOR_SGD,
        ),
        _task(
            "FashionResNet8",
            "fashion-mnist",
            ResNet((1, 1, 1), 8, stem_stride=2),
            _DECAYED,
            batch_size=64,
            budget=600,
            val_subset=150,
            lr_start=0.03,
            tuning_range=(0.01, 1.0),
            target_val_loss=0.4,
        ),
        _task(
            "ShakespeareGPT",
            "tiny-shakespeare-64",
            GPT(48, 2, 4),
            AdamW(betas=(0.9, 0.99)),
            batch_size=8,
            budget=1000,
            val_subset=32,
            clip_norm=1.0,
            lr_start=0.003,
            tuning_range=(0.001, 0.1),
            target_val_loss=2.15,
        ),
        # The same network on digits, and for ten epochs of two fifths of the data: half a minute of one core.
        _task(
            "MNISTLeNet5",
            "mnist",
            LeNet5(),
            _MOMENTUM,
            batch_size=64,
            budget=600,
            val_subset=150,
            **_FOR_SGD,
        ),
        _task(
            "FashionLeNet5TenEpochs",
            "fashion-mnist",
            LeNet5(),
            _MOMENTUM,
            batch_size=64,
            budget=3100,
            val_subset=300,
            train_fraction=0.4,
            **_FOR_SGD,
        ),
        # For a GPU: twenty to sixty epochs.
        _task(
            "FashionCNN",
            "fashion-mnist",
            CNN(),
            Adam(),
            batch_size=128,
            budget=7800,
            val_subset=3000,
            **_FOR_ADAM,
        ),
        _task(
            "FashionResNet18",
            "fashion-mnist",
            ResNet(),
            _DECAYED,
            batch_size=128,
            budget=7800,
            val_subset=3000,
            **_FOR_SGD,
        ),
        _task(
            "CIFAR10ResNet18",
            "cifar10",
            ResNet(),
            _DECAYED,
            batch_size=128,
            budget=10_500,
            val_subset=5000,
            augment=CropFlip(),
            **_FOR_SGD,
        ),
        _task("CIFAR100SwishResNet", "cifar100", SwishResNet(), **_FOR_CIFAR100),
        _task("CIFAR100ResNet18", "cifar100", ResNet(), **_FOR_CIFAR100),
        _task(
            "ShakespeareGPTLarge",
            "tiny-shakespeare-256",
            GPT(384, 6, 6, dropout=0.2),
            AdamW(betas=(0.9, 0.99), weight_decay=0.1),
            batch_size=64,
            budget=5000,
            val_subset=217,
            clip_norm=1.0,
            **_FOR_ADAM,
        ),
    )
}

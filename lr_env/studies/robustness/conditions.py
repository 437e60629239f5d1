"""Conditions that differ from those under which planners were tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lr_env.errors import UserError
from lr_env.tasks import Task

CANDIDATES, CHECKS = 6, 4
"""The best schedules of a condition that are run again, and on how many further seeds."""

Varied = Callable[[Task], Task]


def _budget(factor: float) -> Varied:
    """Multiply the steps that are left at the middle of the run by a factor."""

    def vary(task: Task) -> Task:
        if task.budget % (4 * task.segment):
            raise UserError(
                f"a budget of {task.budget} steps has no middle that can be halved between segments of {task.segment}: "
                "give a multiple of 4 segments, or leave the conditions 'half is left' and 'twice is left' out"
            )
        return replace(task, budget=round(task.budget * (1 + factor) / 2))

    return vary


def wider(task: Task, factor: int = 2) -> Task:
    """The task with a network that is wider by a factor.

    Raises:
        UserError: the network has no width among its settings.
    """
    network: Any = task.network
    if hasattr(network, "hidden"):
        return replace(task, network=replace(network, hidden=tuple(factor * width for width in network.hidden)))
    if hasattr(network, "width"):
        return replace(task, network=replace(network, width=factor * network.width))
    raise UserError(f"{task.name}: its network has no width that could be changed; leave the condition 'wider' out")


@dataclass(frozen=True)
class Condition:
    """A condition that differs from the one under which planners were tuned.

    Attributes:
        vary: returns the task that is trained.
        disturbance: settings of `lr_env.studies.robustness.perturbed.Disturbed`, or `Noisy`, of the task as it was.
    """

    vary: Varied = lambda task: task
    disturbance: Callable[[Task], Mapping[str, Any]] = lambda task: {}


def _rates(factor: float) -> Condition:
    return Condition(disturbance=lambda task: {"factor": factor, "until": 0.2})


def slower_momentum(task: Task) -> Task:
    """The task with momentum that forgets twice as fast: 0.8 in place of 0.9.

    Raises:
        UserError: its optimizer has none.
    """
    optimizer: Any = task.optimizer
    if getattr(optimizer, "momentum", 0.0):
        return replace(task, optimizer=replace(optimizer, momentum=1 - 2 * (1 - optimizer.momentum)))
    if betas := getattr(optimizer, "betas", ()):
        return replace(task, optimizer=replace(optimizer, betas=(1 - 2 * (1 - betas[0]), *betas[1:])))
    raise UserError(f"{task.name}: its optimizer has no momentum; leave the condition 'less momentum' out")


def more_decay(task: Task) -> Task:
    """The task with ten times the weight decay, or 0.001 where there is none.

    Raises:
        UserError: its optimizer has no weight decay.
    """
    optimizer: Any = task.optimizer
    if not hasattr(optimizer, "weight_decay"):
        raise UserError(f"{task.name}: its optimizer has no weight decay; leave the condition 'more weight decay' out")
    return replace(task, optimizer=replace(optimizer, weight_decay=10 * optimizer.weight_decay or 1e-3))


def _left(factor: float) -> Condition:
    return Condition(_budget(factor), lambda task: {"announced": task.budget})


CONDITIONS: Mapping[str, Condition] = {
    "low start": _rates(1 / 5),
    "high start": _rates(3.0),
    "half is left": _left(0.5),
    "twice is left": _left(2.0),
    "quarter data": Condition(lambda task: replace(task, train_fraction=task.train_fraction / 4)),
    "wrong labels": Condition(lambda task: replace(task, label_noise=0.2)),
    "wider": Condition(wider),
    "large batch": Condition(lambda task: replace(task, batch_size=4 * task.batch_size)),
    "less momentum": Condition(slower_momentum),
    "more weight decay": Condition(more_decay),
    "noisy rates": Condition(disturbance=lambda task: {"deviation": 0.5}),
    "half start": _rates(1 / 2),
    "label burst": Condition(lambda task: replace(task, label_burst=(0.5, 0.55, 0.5))),
}
"""Rates off by a factor in the first fifth; half or twice of what was left at the middle; a quarter of the data; a
fifth of the labels wrong; twice the width; four times the batch. No planner was developed under the last five: momentum
that forgets twice as fast, ten times the weight decay, rates with noise, half the rate in the first fifth, and half of
the labels wrong for a twentieth of the run in its middle."""


def applicable(task: Task) -> tuple[list[str], dict[str, str]]:
    """The conditions that a task can be put under, and, of the others, why it cannot."""
    names, left_out = [], {}
    for name, condition in CONDITIONS.items():
        try:
            condition.vary(task)
        except UserError as error:
            left_out[name] = str(error)
        else:
            names.append(name)
    return names, left_out

"""How well the schedules are chosen that a model across tasks would choose for tasks that its members held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lr_env.isolation import isolating
from planners.transfer.belief import WORST
from planners.transfer.descriptors import OPTIMIZERS
from planners.transfer.fit import Fitted
from planners.transfer.grid import Floats
from planners.transfer.runs import TaskRuns
from planners.transfer.spread import features

_REACH = 0.5
"""Distance of schedules, in logs of rates, over which their regrets on other tasks are averaged."""

_RANDOM = 8
"""Random runs of a task of which the best is taken, to compare with."""


@dataclass(frozen=True)
class Choices:
    """Regrets of schedules that are chosen, among the runs of each task that is held out, before any run of it.

    Attributes:
        regrets: name of a way to choose -> log of the final loss over the lowest of the task, at most `WORST`,
            (tasks,).
    """

    regrets: Mapping[str, Floats]

    def text(self) -> str:
        """A table."""
        lines = [f"Schedules chosen for {len(next(iter(self.regrets.values())))} tasks held out, among their runs:"]
        lines += [
            f"  {name:34} mean regret {values.mean():.3f}, median {np.median(values):.3f}"
            for name, values in self.regrets.items()
        ]
        return "\n".join(lines)


@isolating
def choices(fitted: Fitted, tasks: Sequence[TaskRuns]) -> Choices:
    """Choose a schedule for each task by the member that held it out, and by simpler ways.

    Args:
        fitted: the ensemble.
        tasks: those that it was fitted to, in that order.
    """
    contexts = fitted.context(tasks)
    found: dict[str, list[float]] = {
        "the model": [],
        "best on average of other tasks": [],
        f"best of {_RANDOM} random runs": [],
    }
    draw = np.random.Generator(np.random.PCG64(0))
    for place, task in enumerate(tasks):
        member = fitted.held_out[place]
        if member >= len(contexts):
            continue
        regrets = np.minimum(task.ends - task.ends.min(), WORST)
        ends, _ = fitted.ends(contexts[:, [place]], task.log_rates, with_slopes=False)
        alike = [other for other in tasks if other is not task and is_adaptive(other) == is_adaptive(task)]
        others = [(other.log_rates, other.ends) for other in alike]
        picks = [int(ends[member].argmin()), best_on_average(task.log_rates, others) if others else 0]
        for name, pick in zip(found, picks, strict=False):
            found[name].append(regrets[pick])
        drawn = draw.permuted(np.tile(regrets, (200, 1)), axis=1)[:, :_RANDOM]
        found[f"best of {_RANDOM} random runs"].append(float(drawn.min(1).mean()))
    return Choices({name: np.array(values) for name, values in found.items()})


def best_on_average(log_rates: Floats, others: Sequence[tuple[Floats, Floats]]) -> int:
    """Index of the schedule, (schedules, STEPS), whose neighbours had the lowest mean regret on other tasks.

    Args:
        log_rates: of the schedules.
        others: log rates of runs, (runs, STEPS), and their ends, (runs,), of each other task.
    """
    at = np.concatenate([features(rates) for rates, _ in others])
    regrets = np.concatenate([np.minimum(ends - ends.min(), WORST) for _, ends in others])
    distances = ((features(log_rates)[:, None] - at[None]) ** 2).sum(-1)
    weights = np.exp(-distances / (2 * _REACH**2))
    return int(((weights @ regrets) / np.maximum(weights.sum(1), 1e-9) + 10.0 * (weights.sum(1) < 1)).argmin())


def is_adaptive(task: TaskRuns) -> bool:
    """Whether a task is trained by an optimizer that scales its steps, such as Adam."""
    return OPTIMIZERS[str(task.facts["optimizer"])] < 1

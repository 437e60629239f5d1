"""What a forecaster knows of a task besides its curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from lr_env.facts import CLASSES
from lr_env.tasks import Task
from lr_env.tasks.architecture import of_task
from lr_env.tasks.facts import facts as of_settings
from planners.forecaster.description import RunDescription
from planners.forecaster.from_runs import ARCHITECTURE


def facts(task: Task) -> dict[str, Any]:
    """What the config of a run says of its task: settings of the optimizer, sizes, and the architecture.

    >>> from lr_env import TASKS
    >>> about = facts(TASKS["DigitsMLP"])
    >>> about["optimizer"], about["momentum"], about["batch_size"], about["classes"]
    ('SGD', 0.9, 16, 10)
    """
    return {**of_settings(task), ARCHITECTURE: json.dumps(of_task(task).to_json(), separators=(",", ":"))}


def describe(
    task: Task, lr: ArrayLike | None = None, steps: Sequence[float] = (), values: Sequence[float] = ()
) -> RunDescription:
    """Describe a run of a task to a forecaster.

    Args:
        task: what is trained.
        lr: see `RunDescription`.
        steps: optimizer steps at which the metric was measured.
        values: the metric.
    """
    known = facts(task)
    settings = {name: value for name, value in known.items() if name not in (ARCHITECTURE, CLASSES, "budget")}
    return RunDescription(task.budget, lr, settings, of_task(task), known[CLASSES], steps, values)

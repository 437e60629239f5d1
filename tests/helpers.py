"""What tests of many parts share."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr_env.children import AUTO, LOOP, Execution
from lr_env.records.store import Store
from lr_env.registry import find_planner
from lr_env.runs.lab import Lab
from lr_env.studies.comparison.comparison import ComparisonPlan, ComparisonRuns, open_comparison, run_comparison
from lr_env.tasks import Task

ENTRY_POINTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]

PLANNERS = {name: find_planner(name) for name in ENTRY_POINTS["lr_env.planners"]}
"""Name -> class of every planner that this repository brings."""


@contextmanager
def labs_in(path: Path, task: Task, **settings: Any) -> Iterator[Callable[..., Lab]]:
    """A function that opens a lab "x" in a folder of that name; their stores are closed in the end."""
    stores = []

    def make(name: str, **given: Any) -> Lab:
        store = Store(path / name / "records.sqlite")
        stores.append(store)
        return Lab(task, store, "x", LOOP, folder=path / name, **{**settings, **given})

    yield make
    for store in stores:
        store.close()


class StoppedError(Exception):
    """What `stopping_after` raises."""


def stopping_after(child_steps: float) -> Callable[[str, int], None]:
    """A report of progress that stops what runs, after more child steps than these."""
    steps = 0

    def stop(what: str, done: int) -> None:
        nonlocal steps
        steps += done
        if steps > child_steps:
            raise StoppedError

    return stop


def begun(plan: ComparisonPlan, store: Store, name: str, execution: Execution = AUTO) -> None:
    """Begin the experiment of a comparison, without any run."""
    with open_comparison(plan, Lab(plan.task, store, name, execution)):
        pass


def compared(plan: ComparisonPlan, store: Store, name: str, execution: Execution = AUTO, **lab: Any) -> ComparisonRuns:
    """Make the runs of a comparison, in a lab with a checkpoint after every segment."""
    return run_comparison(plan, Lab(plan.task, store, name, execution, **{"checkpoint_seconds": 0.0, **lab}))

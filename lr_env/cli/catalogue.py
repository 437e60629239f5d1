"""`lr-env tasks` and `lr-env planners`: list what is installed."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import tyro
from tyro.conf import arg

FEEDBACK_KINDS = ("open", "closed", "forks", "own-optimizer")
"""Kinds of planners by what they react to, in the order in which they are listed."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks that can be trained: network, optimizer, batch size, budget and data set."""

    def run(self) -> None:
        """Print one line for each task."""
        from lr_env.tasks import TASKS

        for task in TASKS.values():
            print(
                f"{task.name:19} {task.network}, {type(task.optimizer).__name__}, batch {task.batch_size}, "
                f"{task.budget} steps; {task.source.description}"
            )


@dataclass(frozen=True)
class Planners:
    """List the planners that can set the learning rate. With names: describe them, with settings and tuning grid."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME")] = ()
    """Planners to describe in full."""

    def run(self) -> None:
        """Print one line for each planner, or full descriptions."""
        from lr_env.registry import find_planner, planner_names

        if self.names:
            for planner in [find_planner(name) for name in self.names]:
                print("\n".join(_description(planner)) + "\n")
            return
        planners: dict[str, Any] = {name: find_planner(name) for name in planner_names()}
        width = max(map(len, planners))
        for name in sorted(planners, key=lambda name: FEEDBACK_KINDS.index(feedback_kind(planners[name]))):
            print(f"{name:{width}} {feedback_kind(planners[name]):13} {_summary(planners[name])}")
        print("open: a schedule that ignores the run. closed: reacts to losses and other signals.")
        print("forks: tries rates on copies of the run, at many times the cost. own-optimizer: replaces the task's.")
        print('"all" stands for every open and closed planner. `lr-env planners NAME` describes one in full.')


def feedback_kind(planner: Any) -> str:
    """Return what a planner reacts to, one of `FEEDBACK_KINDS`."""
    from lr_env.capabilities import Forking, OwnOptimizer

    if isinstance(planner, Forking):
        return "forks"
    if isinstance(planner, OwnOptimizer):
        return "own-optimizer"
    return "closed" if planner.needs - {"step", "progress"} else "open"


def _summary(planner: Any) -> str:
    return (planner.__doc__ or "-").strip().splitlines()[0]


def _description(planner: Any) -> list[str]:
    from lr_env.capabilities import original_of

    words = {name: rule.words for kind in planner.__mro__ for name, rule in vars(kind).get("rules", {}).items()}
    settings = [
        f"  {field.name}{'' if field.default is MISSING else f' = {field.default!r}'}"
        f"{f': {words[field.name]}' if field.name in words else ''}"
        for field in fields(planner)
    ]
    variants = [
        ", ".join(f"{name}={value!r}" for name, value in variant.items()) or "defaults"
        for variant in getattr(planner, "tuning_variants", [])
    ]
    tuned = "a list of settings of its own, one for each peak rate"
    if variants:
        tuned = f"the grid of peak rates, with {variants[0]}"
    if len(variants) > 1:
        tuned = f"the grid of peak rates, whose points take turns with {' | '.join(variants)}"
    original = original_of(planner)
    return [
        f"{planner.name} ({feedback_kind(planner)}; reads {', '.join(sorted(planner.needs))})",
        inspect.cleandoc(planner.__doc__ or "-"),
        "",
        "Settings and their defaults:",
        *settings,
        f"Tuning tries {tuned}.",
        *([f"Control of {original}: in a comparison with {original} it takes its settings."] if original else []),
    ]

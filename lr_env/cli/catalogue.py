"""`lr-env tasks` and `lr-env planners`: what there is."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import tyro
from tyro.conf import arg

LOOPS = ("open", "closed", "forks", "own")
"""What planners look at, in the order in which they are listed."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks: what can be trained."""

    def run(self) -> None:
        """Print one line a task."""
        from lr_env.tasks import TASKS

        for task in TASKS.values():
            print(
                f"{task.name:19} {task.network}, {type(task.optimizer).__name__}, batch {task.batch_size}, "
                f"{task.budget} steps; {task.source.description}"
            )


@dataclass(frozen=True)
class Planners:
    """List the planners: who can set the learning rate. With names: their sources, settings and tuning grids.

    They are listed by what they look at, and alphabetically where that is the same.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME")] = ()
    """Planners to describe in full."""

    def run(self) -> None:
        """Print one line a planner, or all about some."""
        from lr_env.registry import find_planner, planner_names

        if not self.names:
            planners: dict[str, Any] = {name: find_planner(name) for name in planner_names()}
            width = max(map(len, planners))
            for name in sorted(planners, key=lambda name: LOOPS.index(loop_of(planners[name]))):
                print(f"{name:{width}} {loop_of(planners[name]):6} {_summary(planners[name])}")
            print("open: a schedule; closed: reacts to what it sees; forks: tries rates on copies of children, at many")
            print("child steps a run; own: a constant rate under an optimizer of its own, which needs no schedule.")
            print('"all" are open and closed. `lr-env planners NAME` tells the rest.')
            return
        for planner in [find_planner(name) for name in self.names]:
            print("\n".join(_description(planner)) + "\n")


def loop_of(planner: Any) -> str:
    """What a planner looks at, one of `LOOPS`."""
    from lr_env.capabilities import Forking, OwnOptimizer

    if isinstance(planner, Forking):
        return "forks"
    if isinstance(planner, OwnOptimizer):
        return "own"
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
    shapes = [", ".join(f"{k}={v!r}" for k, v in s.items()) or "defaults" for s in getattr(planner, "shapes", [])]
    of = original_of(planner)
    return [
        f"{planner.name} ({loop_of(planner)} loop; needs {', '.join(sorted(planner.needs))})",
        inspect.cleandoc(planner.__doc__ or "-"),
        "",
        "Settings:",
        *settings,
        f"Tuning: each peak rate of the sweep with {' | '.join(shapes) or 'what its candidates() say'}, in turns.",
        *([f"Control of {of}: where both take part it is not tuned, but takes over its setting."] if of else []),
    ]

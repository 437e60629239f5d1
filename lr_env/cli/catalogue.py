"""`lr-env tasks`, `lr-env tuners` and `lr-env planners`: list what is installed."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import tyro
from tyro.conf import arg

FEEDBACK_KINDS = ("open", "closed", "forks", "own-optimizer")
"""Kinds of planners by what they react to, in the order in which they are listed."""

_SETTINGS = re.compile(r"^Attributes:\n(?: {4}.*\n?)*", re.MULTILINE)
"""The section of a planner's docstring that explains its settings."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks (network, optimizer, batch size, budget and data set), and the task families."""

    def run(self) -> None:
        """Print one line for each task and each task family."""
        from lr_env.tasks import find_family, find_task
        from lr_env.tasks.catalogue import task_names
        from lr_env.tasks.families import family_names

        for task in map(find_task, task_names()):
            print(
                f"{task.name:19} {task.network}, {type(task.optimizer).__name__}, batch {task.batch_size}, "
                f"{task.budget} steps; {task.source.description}"
            )
        for family in map(find_family, family_names()):
            print(f"{family.name:19} family: {family.description}")


@dataclass(frozen=True)
class Tuners:
    """List the tuners, which spend runs on choosing a planner and its settings."""

    def run(self) -> None:
        """Print one line for each tuner."""
        from lr_env.entry_points import load
        from lr_env.registry import TUNERS, tuner_names

        width = max(map(len, tuner_names()))
        for name in tuner_names():
            print(f"{name:{width}} {_summary(load(TUNERS, 'tuner', name))}")


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
            print("A planner sets one rate for each segment, a fixed number of optimizer steps of the task.")
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
    """Describe a planner in lines: summary, settings with defaults and meanings, and the grid of a sweep."""
    from lr_env.capabilities import original_of

    rules = {name: rule.words for kind in planner.__mro__ for name, rule in vars(kind).get("rules", {}).items()}
    meanings = _meanings(planner)
    settings = []
    for field in fields(planner):
        default = "" if field.default is MISSING else f" = {field.default!r}"
        rule = f" ({rules[field.name]})" if field.name in rules else ""
        settings += _wrapped(f"  {field.name}{default}{rule}: {meanings.get(field.name, '')}".rstrip(": "))
    variants = [
        ", ".join(f"{name}={value!r}" for name, value in variant.items()) or "default settings"
        for variant in getattr(planner, "tuning_variants", [])
    ]
    tuned = "a list of settings of its own, one for each peak rate"
    if variants:
        tuned = f"a grid of peak rates with {variants[0]}"
    if len(variants) > 1:
        tuned = f"a grid of peak rates, whose points take turns with: {'; '.join(variants)}"
    original = original_of(planner)
    return [
        *_wrapped(f"{planner.name} ({feedback_kind(planner)}; reads {', '.join(sorted(planner.needs))})"),
        re.sub(r"\n{3,}", "\n\n", _SETTINGS.sub("", inspect.cleandoc(planner.__doc__ or "-"))).strip(),
        "",
        "Settings:",
        *settings,
        *_wrapped(f"Tuning tries {tuned}."),
        *([f"Control of {original}: in a comparison with {original} it takes its settings."] if original else []),
    ]


def _meanings(planner: Any) -> dict[str, str]:
    """Return a dict setting -> meaning, from the docstrings of a planner and its base classes."""
    meanings = {}
    for kind in reversed(planner.__mro__):
        section = _SETTINGS.search(inspect.cleandoc(vars(kind).get("__doc__") or ""))
        for names, text in re.findall(
            r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section[0] if section else "", re.MULTILINE
        ):
            meanings |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return meanings


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 118, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)

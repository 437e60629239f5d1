"""Runs that were not begun, one in each row of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lr_env.errors import UserError, whole
from lr_env.tasks import find_task
from lr_env.words import first_line
from planners.forecaster.description import RunDescription
from planners.forecaster.facts import describe
from planners.forecaster.schedules import planned_rates
from planners.forecaster.settings import setting_value

_NOT_SETTINGS = ("name", "task", "lr", "planner", "budget", "classes")


def read_candidates(path: Path) -> tuple[list[str], list[RunDescription]]:
    """Read names and descriptions.

    Raises:
        UserError: there is no such file, or a row is wrong; the message names its line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"candidates {str(path)!r} cannot be read ({first_line(error)}): give a CSV file") from None
    if not rows:
        raise UserError(f"candidates {str(path)!r}: it has no rows; give a header, such as task,lr, and a row for each")
    names, runs = [], []
    for line, row in enumerate(rows, start=2):
        try:
            runs.append(_run({name.strip(): value.strip() for name, value in row.items() if name and value}))
        except (UserError, AttributeError) as error:
            raise UserError(f"candidates {str(path)!r}, line {line}: {first_line(error)}") from None
        told = {name: value for name, value in row.items() if name and value}
        names.append(told.get("name") or ", ".join(f"{name}={value}" for name, value in told.items()))
    return names, runs


def _run(row: Mapping[str, str]) -> RunDescription:
    budget = whole("budget", _number("budget", row["budget"])) if "budget" in row else None
    if "task" in row:
        base = describe(find_task(row["task"]))
    elif budget is None:
        raise UserError("give a task, or a budget in optimizer steps")
    else:
        base = RunDescription(budget)
    settings = {name: setting_value(value) for name, value in row.items() if name not in _NOT_SETTINGS}
    lr = planned_rates(row.get("planner", "constant"), _number("lr", row["lr"])) if "lr" in row else None
    classes = int(_number("classes", row["classes"])) if "classes" in row else base.classes
    if not classes:
        raise UserError("give a task, or the number of classes, by which runs are forecast that have not begun")
    return replace(base, budget=budget or base.budget, lr=lr, settings={**base.settings, **settings}, classes=classes)


def _number(name: str, text: str) -> float:
    value = setting_value(text)
    if isinstance(value, str):
        raise UserError(f"{name} is {text!r}: give a number")
    return int(value) if float(value).is_integer() else value

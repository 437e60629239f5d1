"""Reads Optuna's studies: SQLite databases of any schema since 0.9, and journal files. A trial is a run."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.records.readers.base import LoggedRun, Series, UnreadableError
from lr_env.records.readers.formats import sqlite
from lr_env.records.readers.formats.points import flat, number, parse_json
from lr_env.records.readers.formats.refusals import refusing
from lr_env.words import counted

_TABLES = {"studies": {"study_id", "study_name"}, "trials": {"trial_id", "study_id", "state"}}
_FIRST_LINE = re.compile(rb'\s*\{"op_code":\s?\d+,\s?"worker_id":')

_MAXIMIZE = 2
"""The number of a direction in journals."""

_STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_NOTES = {"RUNNING": "still running, or stopped without a word", "PRUNED": "pruned", "FAIL": "failed"}

_RATE = re.compile(r"(.*[._/-])?((initial|init|base|max|peak)_?)?(lr0?|learning_?rate)", re.IGNORECASE)

_LONGEST_LINE = 4 << 20
_LARGEST = 1.7976931348623157e308
"""What older schemas have in place of infinity."""


@dataclass
class _Trial:
    """A trial as it is collected.

    Attributes:
        study: name of the study.
        number: its number in the study.
        state: one of `_STATES`.
        params: what was suggested.
        attributes: what the user noted.
        final: the final values, one an objective.
        reported: step -> intermediate value.
        began: seconds since 1970.
    """

    study: str
    number: int
    state: str = "RUNNING"
    params: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    final: dict[int, float] = field(default_factory=dict)
    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    began: float = math.nan
    maximized: bool = False


class Optuna:
    """Reads the trials of all studies in a file.

    Series are "intermediate_value", "value" (the final one, at the last step), and "lr" where a parameter is a learning
    rate: constant, since Optuna knows of no schedule. Of a study that maximizes, whose values are no losses, the first
    two begin with "maximized_".
    """

    name = "optuna"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether it is a database with Optuna's tables, or a journal."""
        return bool(_FIRST_LINE.match(head)) or sqlite.has_tables(path, head, _TABLES)

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the trials that were begun, by study and number."""
        with refusing(path):
            with open(path, "rb") as file:
                journal = bool(_FIRST_LINE.match(file.read(4096)))
            trials, notes = _of_journal(path) if journal else _of_database(path)
        begun = [trial for trial in trials if trial.state != "WAITING"]
        if not any(len(trial.steps) for trial in begun):
            why = f"none of {counted(len(begun), 'trial')} reported intermediate values" if begun else "no trials"
            raise UnreadableError("; ".join([why, *notes]))
        for trial in begun:
            yield _run(path, trial, notes)


def _run(path: Path, trial: _Trial, notes: list[str]) -> LoggedRun:
    """Return a trial as a run."""
    at, values = np.frombuffer(trial.steps), np.frombuffer(trial.values)
    its = [_NOTES.get(trial.state, "")]
    series = {}
    prefix = "maximized_" if trial.maximized else ""
    finals = {"value" if len(trial.final) == 1 else f"values_{i}": value for i, value in sorted(trial.final.items())}
    if len(at):
        series[f"{prefix}intermediate_value"] = Series(at, values)
        for name, value in finals.items():
            series[f"{prefix}{name}"] = Series(np.array([at.max()]), np.array([value]))
        name, doubt = _rate(trial.params)
        its.append(doubt)
        if name:
            rate = float(trial.params[name])
            series["lr"] = Series(at, np.full(len(at), rate))
            its.append(f"lr is the parameter {name}, the same at every step")
    else:
        its.append("no intermediate values")
    config = flat(trial.params)
    for name, value in (flat(trial.attributes) | finals).items():
        config.setdefault(name, value)
    return LoggedRun(
        "optuna",
        path,
        f"{path}/{trial.study}/{trial.number}",
        series,
        clock="step",
        config=config,
        began=trial.began,
        notes=tuple(note for note in (*its, *notes) if note),
    )


def _rate(params: dict[str, Any]) -> tuple[str, str]:
    """Return which parameter is the learning rate, empty if none, and what is doubtful about that."""
    names = [name for name, value in params.items() if _RATE.fullmatch(name) and 0 < (number(value) or 0.0) < math.inf]
    exact = [name for name in names if name.lower() in ("lr", "learning_rate")]
    if len(exact) == 1 or len(names) == 1:
        return (exact or names)[0], ""
    return "", f"several parameters might be the rate ({', '.join(names)})" if names else ""


def _of_database(path: Path) -> tuple[list[_Trial], list[str]]:
    """Return the trials of a database, and what is not whole.

    Schemas differ: before 2.4 intermediate values are in the table `trial_values`, and the final one in `trials`;
    before 3.0 infinities are the largest numbers.
    """
    trials: dict[Any, _Trial] = {}
    damaged = 0
    with sqlite.opened(path) as database:
        if not database.columns("trials") or not database.columns("studies"):
            raise UnreadableError("a SQLite database without Optuna's tables")
        studies = dict(database.rows("studies", ("study_id", "study_name")))
        table = "study_directions" if database.columns("study_directions") else "studies"  # since 2.4
        directions = dict(database.rows(table, ("study_id", "direction")))
        counts: dict[Any, int] = {}
        columns = ("trial_id", "study_id", "number", "state", "datetime_start", "value")
        for trial_id, study, its_number, state, start, value in database.rows("trials", columns):
            place = counts.get(study, 0)
            counts[study] = place + 1
            its_number = its_number if isinstance(its_number, int) else place
            trial = trials[trial_id] = _Trial(str(studies.get(study, study)), its_number, str(state))
            trial.began, trial.maximized = _seconds(start), directions.get(study) == "MAXIMIZE"
            if (final := _finite_or_not(value, None)) is not None and not math.isnan(final):
                trial.final[0] = final
        for trial_id, name, value, text in database.rows(
            "trial_params", ("trial_id", "param_name", "param_value", "distribution_json")
        ):
            if trial_id in trials:
                try:
                    trials[trial_id].params[str(name)] = _suggested(value, text)
                except (ValueError, TypeError, LookupError, OverflowError):
                    damaged += 1
        for trial_id, name, text in database.rows("trial_user_attributes", ("trial_id", "key", "value_json")):
            if trial_id in trials:
                try:
                    trials[trial_id].attributes[str(name)] = parse_json(text)
                except ValueError:
                    damaged += 1
        older = not database.columns("trial_intermediate_values")
        table = "trial_values" if older else "trial_intermediate_values"
        names = ("value", "value_type") if older else ("intermediate_value", "intermediate_value_type")
        for trial_id, step, value, kind in database.rows(table, ("trial_id", "step", *names)):
            trial = trials.get(trial_id)
            at, converted = number(step), _finite_or_not(value, kind)
            if trial is None:
                continue
            if at is None or converted is None:
                damaged += 1
                continue
            trial.steps.append(at)
            trial.values.append(converted)
        if not older:
            for trial_id, objective, value, kind in database.rows(
                "trial_values", ("trial_id", "objective", "value", "value_type")
            ):
                converted = _finite_or_not(value, kind)
                if trial_id in trials and isinstance(objective, int) and converted is not None:
                    trials[trial_id].final[objective] = converted
        notes = [*database.notes, *([f"{counted(damaged, 'row')} could not be read"] if damaged else [])]
    return sorted(trials.values(), key=lambda trial: (trial.study, trial.number)), notes


def _finite_or_not(value: Any, kind: Any) -> float | None:
    """Return a number of a database as it was reported; None where it is none."""
    if kind in ("INF_POS", "INF_NEG"):
        return math.inf if kind == "INF_POS" else -math.inf
    if value is None:
        return math.nan
    result = number(value)
    return math.copysign(math.inf, result) if result is not None and abs(result) == _LARGEST else result


def _suggested(value: Any, distribution: Any) -> Any:
    """Return a parameter as it was suggested, from the number that Optuna keeps of it.

    Raises:
        ValueError, TypeError, LookupError, OverflowError: the two do not fit.
    """
    about = parse_json(distribution)
    attributes = about.get("attributes", about)
    name = str(about.get("name", about.get("type", ""))).lower()
    if "categorical" in name:
        if not 0 <= int(value) < len(attributes["choices"]):
            raise LookupError("no such choice")
        return attributes["choices"][int(value)]
    converted = number(value)
    if converted is None:
        raise ValueError("no number")
    return int(converted) if name.startswith("int") else converted


def _of_journal(path: Path) -> tuple[list[_Trial], list[str]]:
    """Return the trials of a journal, and what is not whole.

    Trials are counted as they are created, so nothing can be read after a line that is damaged. Lines of several
    workers follow one another as they were written.
    """
    journal = _Journal()
    notes = []
    count = 0
    with open(path, "rb") as lines:
        while line := lines.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                notes.append(f"cut off after {counted(count, 'line')}")
                break
            try:
                journal.take(parse_json(line))
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
                notes.append(f"damaged after {counted(count, 'line')}: the rest is not read")
                break
            count += 1
    return journal.all_trials(), notes


class _Journal:
    """The state that the operations of a journal lead to."""

    def __init__(self) -> None:
        self._studies: dict[int, str] = {}
        self._maximized: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._created = 0
        self._trials: list[tuple[int, _Trial]] = []
        self._places: dict[int, dict[int, int]] = {}

    def all_trials(self) -> list[_Trial]:
        """Return the trials of the studies that were not deleted."""
        trials = [trial for study, trial in self._trials if study in self._studies]
        return sorted(trials, key=lambda trial: (trial.study, trial.number))

    def take(self, operation: dict[str, Any]) -> None:
        """Apply an operation.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, OverflowError: it is no operation.
        """
        code = operation["op_code"]
        if code == 0:
            if operation["study_name"] not in self._studies.values():
                self._studies[self._created] = str(operation["study_name"])
                if _MAXIMIZE in operation.get("directions", ()):
                    self._maximized.add(self._created)
                self._created += 1
        elif code == 1:
            self._studies.pop(operation["study_id"], None)
        elif code == 4:
            if operation["study_id"] in self._studies:
                self._create(operation)
        elif code in (5, 6, 7, 8, 9):
            index = operation["trial_id"]
            if not isinstance(index, int):
                raise TypeError("no number of a trial")
            if not 0 <= index < len(self._trials):
                return
            trial = self._trials[index][1]
            if trial.state in ("RUNNING", "WAITING"):
                self._change(code, index, trial, operation)
        elif code not in (2, 3, 10):
            raise ValueError("an operation of a later version")

    def _create(self, operation: dict[str, Any]) -> None:
        """Create a trial, which may be finished from the first."""
        study = operation["study_id"]
        place = self._sizes.get(study, 0)
        trial = _Trial(self._studies[study], place, _STATES[operation.get("state", 0)])
        trial.began = _seconds(operation.get("datetime_start"))
        trial.maximized = study in self._maximized
        distributions = operation.get("distributions", {})
        for name, value in operation.get("params", {}).items():
            trial.params[name] = _suggested(value, distributions[name])
        trial.attributes |= operation.get("user_attrs", {})
        self._finish(trial, operation.get("values") or [operation.get("value")])
        index = len(self._trials)
        for step, value in operation.get("intermediate_values", {}).items():
            self._report(index, trial, int(step), value)
        self._sizes[study] = place + 1
        self._trials.append((study, trial))

    def _change(self, code: int, index: int, trial: _Trial, operation: dict[str, Any]) -> None:
        """Change a trial that is not finished."""
        if code == 5:
            trial.params[str(operation["param_name"])] = _suggested(
                operation["param_value_internal"], operation["distribution"]
            )
        elif code == 6:
            trial.state = _STATES[operation["state"]]
            if "datetime_start" in operation:
                trial.began = _seconds(operation["datetime_start"])
            self._finish(trial, operation.get("values") or [])
        elif code == 7:
            self._report(index, trial, operation["step"], operation["intermediate_value"])
        elif code == 8:
            trial.attributes |= operation["user_attr"]

    def _finish(self, trial: _Trial, values: list[Any]) -> None:
        """Set the final values."""
        for i, value in enumerate(values):
            if (converted := number(value)) is not None:
                trial.final[i] = converted

    def _report(self, index: int, trial: _Trial, step: Any, value: Any) -> None:
        """Set the intermediate value of a step; a later one takes the place of an earlier."""
        at, converted = number(step), number(value)
        if at is None or converted is None:
            raise ValueError("no number")
        places = self._places.setdefault(index, {})
        if step in places:
            trial.values[places[step]] = converted
            return
        places[step] = len(trial.steps)
        trial.steps.append(at)
        trial.values.append(converted)


def _seconds(text: Any) -> float:
    """Return a time as seconds since 1970, taken as UTC, in which Optuna writes it now; NaN if it is none."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return math.nan

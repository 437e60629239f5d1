"""The spec of an experiment: everything that its results depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch

from lr_env.provenance import versions
from lr_env.runs.own_code import own_code
from lr_env.tasks import Task
from lr_env.tasks.data import data_spec

Json = Mapping[str, Any]

_FIELDS = ("task", "data", "device", "threads", "versions", "training")
_NOT_COMPARED = ("id", "added")
"""Keys that are never wrong by themselves."""


class Extends(Protocol):
    """Whether a study may go on with an experiment that was begun for another one, whose runs all count."""

    def __call__(self, before: Json, now: Json) -> bool:
        """Of the `study` of two specs, the earlier one first."""
        ...


def never(before: Json, now: Json) -> bool:
    """No study but the same goes on with an experiment."""
    return False


@dataclass(frozen=True)
class ExperimentSpec:
    """Everything that the results of an experiment depend on, JSON-able.

    Attributes:
        task: settings of the task, without its target.
        study: what is special to the study, such as its planners and seeds.
        data: what tells the data set from others, see `lr_env.tasks.data.data_spec`.
        device: where children are trained.
        threads: CPU threads.
        versions: of packages, see `lr_env.provenance.versions`.
        training: how children are trained, see `lr_env.runs.execution`.
    """

    task: Json
    study: Json
    data: Json
    device: str
    threads: int
    versions: Json
    training: Json

    def to_json(self) -> dict[str, Any]:
        """The spec as the store keeps it: what is special to the study lies beside the rest."""
        rest = {name: getattr(self, name) for name in _FIELDS}
        return json.loads(json.dumps({**rest, **self.study}))

    @classmethod
    def from_json(cls, stored: Json, like: Self) -> Self:
        """A spec out of the store, in which what its version did not record is taken from another spec."""
        filled = with_unknown(stored, like.to_json())
        study = {name: value for name, value in filled.items() if name not in (*_FIELDS, "id")}
        return replace(like, study=study, **{name: filled.get(name) for name in _FIELDS})

    def difference(self, other: Self) -> str:
        """The first difference of another spec to this one, in words: "with rates [0.1], not [0.2]"; empty if none."""
        return _difference(self.to_json(), other.to_json())


def experiment_spec(
    task: Task, study: Json, training: Json, device: str, planners: Mapping[str, type] | None = None
) -> ExperimentSpec:
    """The spec of work on a task in this process.

    Args:
        task: what is trained.
        study: what is special to the study.
        training: how children are trained, see `lr_env.runs.execution`.
        device: where children are trained.
        planners: name -> class of planners whose code the results depend on.
    """
    code = own_code(task, planners)
    return ExperimentSpec(
        task={**task.settings(), "target_val_loss": None},  # of which reports make use alone
        study={**study, **({"own_code": code} if code else {})},
        data=data_spec(task.data, device),
        device=device,
        threads=torch.get_num_threads(),
        versions=versions(),
        training=training,
    )


def with_unknown(before: Json, now: Json) -> dict[str, Any]:
    """A spec of an earlier start, with what its version did not record taken from that of a later one."""
    unknown = {key: now[key] for key in ("data", "own_code") if key in now and key not in before}
    had, has = before.get("versions"), now.get("versions")
    if isinstance(had, dict) and isinstance(has, dict):
        unknown["versions"] = {**has, **had}
    return {**before, **unknown}


def _difference(before: Json, now: Json) -> str:
    for key in sorted((before.keys() | now.keys()).difference(_NOT_COMPARED)):
        had, has = before.get(key), now.get(key)
        if had == has:
            continue
        if key == "data" and isinstance(had, dict) and isinstance(has, dict):
            if had.get("name") != has["name"]:
                continue  # the tasks say it
            what = ", ".join(part for part in has if had.get(part) != has[part])
            return f"on other data: the data set {has['name']!r} has another {what} now"
        if key == "own_code" and isinstance(had, dict) and isinstance(has, dict):
            what = ", ".join(part for part in (had | has) if had.get(part) != has.get(part))
            return f"with other code: that of {what} has changed since"
        if isinstance(had, dict) and isinstance(has, dict):
            return _difference(had, has).replace("with ", f"with {key} ", 1)
        if key not in before or key not in now:  # what is measured only on demand
            return f"{'with' if key in before else 'without'} {key}"
        return f"with {key} {json.dumps(had)}, not {json.dumps(has)}"
    return "with other settings"

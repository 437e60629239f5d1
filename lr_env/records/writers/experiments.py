"""Write the finished runs of experiments into the logs of a tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lr_env.records.record import FINISHED, RunRecord
from lr_env.records.store import Store
from lr_env.records.writers.base import Curve, TrackedRun, Writer
from lr_env.tasks import Task

CURVES: Mapping[str, str] = {
    "lr": "lr",
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
}
"""Signal -> name of the metric: those by which `lr-env import` knows the signals again."""

SCORES: Mapping[str, str] = {
    "final_val_loss": "final/val_loss",
    "final_val_accuracy": "final/val_accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
}
"""Score -> name of the metric; others are under "final/"."""


def write_experiments(writer: Writer, store: Store, experiments: Mapping[str, Task], name: str, folder: Path) -> str:
    """Write the finished runs of the experiments of a study.

    Args:
        writer: of the tracker's logs.
        store: the record store.
        experiments: name of an experiment -> its task.
        name: of the study, with which the names of its parts begin.
        folder: of the study's report.

    Returns:
        Where they are, for people.

    Raises:
        UserError: the tracker refuses them, or a record is damaged.
    """
    where = ""
    for experiment, task in experiments.items():
        records = [record for record in store.runs(experiment, curves=True) if record.status == FINISHED]
        part = "" if experiment == name else experiment.removeprefix(f"{name}-")
        where = writer.write(experiment, part, [tracked(record, task) for record in records], folder) or where
    return where


def tracked(record: RunRecord, task: Task) -> TrackedRun:
    """A record as a tracker gets it. The last losses of a run that diverged, at which it was stopped, are NaN."""
    steps = np.asarray(record.curves["step"], dtype=np.float64)
    curves: dict[str, Curve] = {}
    for signal, metric in CURVES.items():
        if signal not in record.curves:
            continue
        values = np.array(record.curves[signal], dtype=np.float64)
        if record.diverged and signal.endswith("_loss"):
            values[-1:] = np.nan
        curves[metric] = steps, values
    settings = {name: _plain(value) for name, value in record.settings.items()}
    facts = {
        "task": task.name,
        "planner": record.planner,
        "phase": record.phase,
        "seed": record.seed,
        "diverged": record.diverged,
        "pruned": record.pruned,
        "budget": task.budget,
        "segment": task.segment,
        "batch_size": task.batch_size,
        "optimizer": type(task.optimizer).__name__,
    }
    clashing = {f"{record.planner}.{name}" if name in facts else name: value for name, value in settings.items()}
    scores = {
        SCORES.get(name, f"final/{name}"): float(value)
        for name, value in record.scores.items()
        if not (record.diverged and name.endswith("_loss"))
    }
    title = f"{record.phase}-{record.planner}-seed{record.seed}"
    return TrackedRun(_as_folder(title), {**facts, **clashing}, curves, scores, record.steps)


def _plain(value: object) -> str | int | float | bool:
    """A setting as trackers take it."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)


def _as_folder(text: str) -> str:
    """Text whose characters may all be in the name of a folder."""
    return "".join(character if character.isalnum() or character in "._-" else "-" for character in text)

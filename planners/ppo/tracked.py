"""The training of a controller as trackers get it: its losses over decisions."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_env.files import read_json
from lr_env.records.writers.base import Curve, TrackedRun

if TYPE_CHECKING:
    from planners.ppo.training import PPOSettings
    from planners.ppo.training_tasks import TrainingTasks

_CLOCK = "time/total_timesteps"
"""Column of stable-baselines3 that counts decisions."""


def tracked_training(result: Mapping[str, Any], folder: Path) -> TrackedRun:
    """Return a finished training as a run whose clock counts decisions.

    Args:
        result: content of training.json.
        folder: of the training, with stable-baselines3's logs.
    """
    history = result["history"]
    losses = (
        np.array([entry["decisions"] for entry in history], dtype=np.float64),
        np.array([entry["val_loss"] for entry in history], dtype=np.float64),
    )
    params = {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in {**result["training"], "task": result.get("name") or result["task"]["name"]}.items()
    }
    scores = {"final/val_loss": float(losses[1][-1]), "best/val_loss": float(losses[1].min())}
    title = f"train-ppo-{folder.name}"
    return TrackedRun(title, params, {"val/loss": losses, **_progress(folder)}, scores, int(result["decisions"]))


def finished_training(folder: Path, tasks: TrainingTasks, settings: PPOSettings) -> dict[str, Any] | None:
    """Return the content of training.json if a training on something with some settings is finished; otherwise None."""
    try:
        result = read_json(folder / "training.json")
    except (OSError, ValueError):
        return None
    asked = json.loads(json.dumps({**tasks.identity, "training": asdict(settings)}))
    return result if {name: result.get(name) for name in asked} == asked else None


def _progress(folder: Path) -> dict[str, Curve]:
    """Return what stable-baselines3 logged at each update. Where a training was resumed, the later log counts."""
    rows: dict[int, dict[str, float]] = {}
    for part in sorted((folder / "logs").glob("*/progress.csv"), key=lambda path: int(path.parent.name)):
        with open(part, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows[int(row[_CLOCK])] = {
                    name: float(value) for name, value in row.items() if value and not name.startswith("time/")
                }
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {
        name: (
            np.array([step for step in sorted(rows) if name in rows[step]], dtype=np.float64),
            np.array([rows[step][name] for step in sorted(rows) if name in rows[step]]),
        )
        for name in names
    }

"""Curves of runs in the record store: imported from other trackers' logs, collected from task families, or recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lr_env.architecture.graph import Architecture
from lr_env.errors import UserError, find
from lr_env.records.readers.base import ImportedRun, Series
from lr_env.words import counted
from planners.forecaster.curves import POINTS, CurveSet, Floats, on_grid

ARCHITECTURE = "architecture"
"""Key of a run's config under which its graph is, as `Architecture.to_json` gives it."""

TASK, CONFIGURATION = "task", "configuration"
"""Keys of a run's config: its task; and what it shares with runs that differ in their seed alone."""

METRICS: Mapping[str, tuple[str, Callable[[Floats], Floats]]] = {
    "val_loss": ("val_loss", lambda values: values),
    "train_loss": ("train_loss", lambda values: values),
    "val_error": ("val_accuracy", lambda values: np.maximum(1 - values, 1e-4)),
}
"""Metric -> signal that it follows from, and how. All are above 0, and lower is better."""

_ALIASES = {
    "batch": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "num_classes": "classes",
}
"""What trackers call a setting -> its name here."""

_SETTINGS = (
    "batch_size", "weight_decay", "momentum", "nesterov", "beta1", "beta2", "dropout", "label_noise", "train_size",
    "classes", "clip_norm", "budget",
)  # fmt: skip


def curves_of(runs: Iterable[ImportedRun], metric: str = "val_loss") -> tuple[CurveSet, list[str]]:
    """Bring runs to the grid.

    Returns:
        The curves, and one line for each run that was left out, with the reason.

    Raises:
        UserError: there is no such metric, or no run has it.
    """
    signal, convert = find("metric", metric, METRICS)
    kept: list[tuple[ImportedRun, Floats]] = []
    left_out = []
    names: set[str] = set()
    for run in runs:
        names |= run.curves.keys()
        if signal not in run.curves:
            left_out.append(f"{run.run_id}: it has no {signal}")
            continue
        curve = run.curves[signal]
        values = convert(on_grid(curve.at, curve.values, _budget(run)))
        if np.isfinite(values).sum() < 2:
            left_out.append(f"{run.run_id}: {counted(int(np.isfinite(values).sum()), 'value')} of {signal}")
        else:
            kept.append((run, values))
    if not kept:
        there = ", ".join(sorted(names)) or "nothing"
        raise UserError(f"no run has {signal} (there is: {there}): ask for another --metric")
    settings = [_settings(run) for run, _ in kept]
    columns = sorted({name for of_run in settings for name in of_run})
    graphs, network = _graphs([run.config.get(ARCHITECTURE) for run, _ in kept])
    classes = np.array([of_run.get("classes", np.nan) for of_run in settings])
    curves = CurveSet(
        metric,
        np.array([values for _, values in kept]),
        np.array([rates_on_grid(run.curves["lr"], _budget(run)) for run, _ in kept]),
        {name: np.array([of_run.get(name, 0.0 if "=" in name else np.nan) for of_run in settings]) for name in columns},
        graphs,
        network,
        1 - 1 / classes if metric == "val_error" else np.log(np.maximum(classes, 1 + 1e-9)),
        tuple(str(run.config.get(TASK, "")) for run, _ in kept),
        tuple(str(run.config.get(CONFIGURATION, run.run_id)) for run, _ in kept),
        tuple(run.run_id for run, _ in kept),
    )
    return curves, left_out


def _budget(run: ImportedRun) -> float:
    """Optimizer steps that the run was to have."""
    planned = run.config.get("budget")
    return float(planned) if isinstance(planned, int | float) and planned >= run.steps else float(run.steps)


def rates_on_grid(curve: Series, budget: float) -> Floats:
    """Learning rates at each share of the budget, (POINTS,).

    Between measurements that are further apart than the grid, before the first and after the last they stay.
    """
    grid = on_grid(curve.at, curve.values, budget)
    known = np.flatnonzero(np.isfinite(grid))
    if not len(known):
        return grid
    latest = known[np.clip(np.searchsorted(known, np.arange(POINTS), side="right") - 1, 0, None)]
    return grid[latest]


def _settings(run: ImportedRun) -> dict[str, float]:
    """Numbers of the config that describe how a run is trained."""
    found: dict[str, float] = {"budget": _budget(run)}
    for key, value in run.config.items():
        name = re.split(r"[./]", key.lower())[-1]
        name = _ALIASES.get(name, name)
        if isinstance(value, bool | int | float) and name in _SETTINGS and np.isfinite(value) and name != "budget":
            found[name] = float(value)
        elif name == "optimizer" and isinstance(value, str) and len(value) < 40:
            found[f"optimizer={value}"] = 1.0
    return found


def _graphs(contents: Sequence[Any]) -> tuple[tuple[Architecture, ...], np.ndarray]:
    """The different graphs, and the index of each run's."""
    places: dict[str, int] = {}
    graphs, network = [], []
    for content in contents:
        if content is None:
            network.append(-1)
            continue
        key = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
        if key not in places:
            places[key] = len(graphs)
            graphs.append(Architecture.from_json(json.loads(key)))
        network.append(places[key])
    return tuple(graphs), np.array(network, dtype=np.int64)

"""Public sets of learning curves: TaskSet as DPL's authors cut it, and the baselines of DeepOBS."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.words import first_line
from planners.forecaster.curves import POINTS, CurveSet, Floats, on_grid


def read_taskset(path: Path | str) -> CurveSet:
    """Read validation losses of one task of TaskSet (Metz et al., arXiv 2002.11887), 1,000 Adam settings.

    The file is that of DPL's repository (Kadra et al., arXiv 2302.00441, data/taskset), as JSON, gzipped or not.

    Raises:
        UserError: it is not such a file.
    """
    path = Path(path)
    runs = _read(path)
    return _refusing(path, lambda: _taskset(path.name.split(".json")[0], runs))


def read_deepobs(path: Path | str) -> list[CurveSet]:
    """Read test losses of the baselines of DeepOBS (Schneider et al., arXiv 1903.05499), one set for each problem.

    The file is a list of their runs as JSON, gzipped or not. The number of epochs differs between problems, so that
    curves are brought to the grid.

    Raises:
        UserError: it is not such a file.
    """
    path = Path(path)
    runs = _read(path)
    problems = _refusing(path, lambda: sorted({run["testproblem"] for run in runs}))
    return [
        _refusing(path, partial(_deepobs, problem, [run for run in runs if run["testproblem"] == problem]))
        for problem in problems
    ]


def _taskset(task: str, runs: Sequence[Mapping[str, Any]]) -> CurveSet:
    values = np.array([np.array(run["valid"]["loss"], np.float64) for run in runs])
    settings = {name: np.array([float(run["hp"][name]) for run in runs]) for name in runs[0]["hp"]}
    share = np.linspace(0, 1, POINTS)
    # `tf.train.exponential_decay` and a linear one on top, per step of 10,000 steps.
    steps = 10_000 * share
    linear = np.maximum(1 - settings["linear_decay"][:, None] * steps, 0)
    rates = settings["learning_rate"][:, None] * linear * np.exp(-settings["exponential_decay"][:, None] * steps)
    names = tuple(f"{task} {number}" for number in range(len(runs)))
    return _set(task, values, np.maximum(rates, 1e-30), settings, names, names)


def _deepobs(problem: str, runs: Sequence[Mapping[str, Any]]) -> CurveSet:
    epochs = [np.arange(len(run["test_losses"]), dtype=np.float64) for run in runs]
    losses = [np.array(run["test_losses"], np.float64) for run in runs]
    values = np.array([_resampled(at, loss) for at, loss in zip(epochs, losses, strict=True)])
    rate = np.array([float(run["learning_rate"]) for run in runs])
    settings = {"learning_rate": rate, "batch_size": np.array([float(run["batch_size"]) for run in runs])}
    for name in sorted({str(run["optimizer"]) for run in runs}):
        settings[f"optimizer={name.removesuffix('Optimizer')}"] = np.array(
            [float(run["optimizer"] == name) for run in runs]
        )
    configurations = [f"{problem} {run['optimizer']} {run['setting']}" for run in runs]
    names = [f"{configuration} {run['file']}" for configuration, run in zip(configurations, runs, strict=True)]
    rates = np.repeat(rate[:, None], POINTS, axis=1)
    return _set(problem, values, rates, settings, tuple(configurations), tuple(names))


def _resampled(at: Floats, values: Floats) -> Floats:
    """A curve on the grid; NaN throughout where a value is not finite, for such runs have diverged."""
    if not np.isfinite(values).all():
        return np.full(POINTS, np.nan)
    return on_grid(at, values, at[-1])


def _set(
    task: str,
    values: Floats,
    rates: Floats,
    settings: dict[str, Floats],
    configurations: tuple[str, ...],
    names: tuple[str, ...],
) -> CurveSet:
    count = len(values)
    unknown = np.full(count, np.nan)
    return CurveSet(
        "val_loss", values, rates, settings, (), np.full(count, -1), unknown, (task,) * count, configurations, names
    )


def _read(path: Path) -> list[Any]:
    def content() -> Any:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)

    runs = _refusing(path, content)
    if not isinstance(runs, list) or not runs:
        raise UserError(f"{str(path)!r} is no list of runs")
    return runs


def _refusing(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}: give a file of curves") from None
    except (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is no file of such curves ({first_line(error)})") from None

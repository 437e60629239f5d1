"""Where curves come from: files of curves or of runs, public sets, and the record store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError, unknown
from lr_env.records.readers.base import ImportedRun, Series
from lr_env.records.record import RunRecord, run_key
from lr_env.records.store import Store
from lr_env.records.tables import read_runs, task_of_runs
from lr_env.tasks import Task, find_task
from planners.forecaster.curves import CurveSet, join
from planners.forecaster.facts import facts
from planners.forecaster.from_runs import CONFIGURATION, TASK, curves_of
from planners.forecaster.public_sets import read_deepobs, read_taskset
from planners.forecaster.tables import is_curves, read_curves

_FIELDS = ("budget", "batch_size", "segment", "train_fraction", "label_noise")
"""Fields of a task that runs may have otherwise than the catalogue's."""


@dataclass(frozen=True)
class Found:
    """Curves, and what was left out on the way.

    Attributes:
        curves: all that were found.
        left_out: a line for each run that could not be used, with the reason.
    """

    curves: CurveSet
    left_out: Sequence[str]


def read_sources(sources: Sequence[str], store: Path, metric: str = "val_loss") -> Found:
    """Read and join the curves of several sources.

    Args:
        sources: each is a file that `lr-env forecast` wrote, runs.parquet of a comparison or a fit, a file of TaskSet
            or DeepOBS (.json or .json.gz), or a name in the record store: of an import or an experiment.
        store: the record store.
        metric: "val_loss", "train_loss" or "val_error".

    Raises:
        UserError: there are no sources, or one of them is none of these, or has no such metric.
    """
    if not sources:
        raise UserError("give a source of curves: a file, or a name in the record store (see lr-env runs)")
    found = [_read(source, store, metric) for source in sources]
    return Found(join([one.curves for one in found]), tuple(line for one in found for line in one.left_out))


def _read(source: str, store: Path, metric: str) -> Found:
    path = Path(source)
    if path.suffix == ".parquet":
        if is_curves(path):
            curves = read_curves(path)
            if curves.metric != metric:
                raise UserError(f"{source!r} holds {curves.metric}: ask for --metric {curves.metric}")
            return Found(curves, ())
        return Found(*curves_of(_of_records(read_runs(path), task_of_runs(path)), metric))
    if path.suffix in (".json", ".gz"):
        if metric != "val_loss":
            raise UserError(f"{source!r} holds val_loss: ask for that metric")
        with suppress(UserError):
            return Found(read_taskset(path), ())
        return Found(join(read_deepobs(path)), ())
    if path.exists():
        raise UserError(f"{source!r}: give a .parquet or .json file, or import other logs with `lr-env import`")
    if not store.is_file():
        raise UserError(f"there is no file {source!r}, and no record store {str(store)!r}: give one of them")
    with closing(Store(store)) as opened:
        if source in opened.imports():
            return Found(*curves_of(opened.imported(source), metric))
        spec = opened.experiment(source)
        if spec is None:
            raise unknown("file or name in the record store", source, [*opened.imports(), *opened.experiments()])
        return Found(*curves_of(_of_records(opened.runs(source, curves=True), spec.get("task", {})), metric))


def _of_records(records: Sequence[RunRecord], task: Mapping[str, Any]) -> Iterator[ImportedRun]:
    """Recorded runs in the form of imported ones, with what is known of their task."""
    about = _about(task)
    for record in records:
        planner, settings, seed = run_key(record)
        steps = record.curves.get("step")
        if record.status != "finished" or steps is None or not len(steps):
            continue
        configuration = f"{about[TASK]} {record.phase} {planner} {settings}"
        curves = {}
        for name, values in record.curves.items():
            finite = np.isfinite(values)
            if name != "step" and finite.any():
                curves[name] = Series(steps[finite], values[finite])
        config = {**about, CONFIGURATION: configuration}
        yield ImportedRun(f"{configuration} {seed}", "lr_env", curves, config, int(steps[-1]), record.diverged)


def _about(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a task out of the spec of an experiment, as far as the task is known here."""
    name = str(spec.get("name", spec.get("task", "")))
    plain = {TASK: name, **{key: spec[key] for key in ("budget", "batch_size") if key in spec}}
    task: Task | None = None
    with suppress(UserError, TypeError):
        task = find_task(name)
        task = replace(task, **{field: spec[field] for field in _FIELDS if field in spec})
    return {**plain, **facts(task)} if task is not None else plain

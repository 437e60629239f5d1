"""A comparison for programs: the summary as CSV, the runs as a table of Arrow, which can be read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lr_env.compare.statistics import Estimate
from lr_env.compare.table import Summary
from lr_env.compare.text import settings_key
from lr_env.errors import UserError
from lr_env.records.record import FLATNESS_SCORES, SIGNALS, SPLIT_SCORES, RunRecord
from lr_env.replacing import replacing
from lr_env.tasks import Task

_TOLD = "lr_env"
"""Key of what is told in a Parquet file beside its table."""


def summary_csv(summary: Summary) -> str:
    """The rows with every digit; empty where there is nothing to tell."""
    rows = []
    flatness = any(row.hessian_max is not None or row.hessian_trace is not None for row in summary.rows)
    for row in summary.rows:
        cells: dict[str, Any] = {
            "planner": row.planner,
            "setting": row.setting,
            "settings": settings_key(row.settings),
            "n": row.n,
            "diverged": row.diverged,
        }
        cells |= ends("val_loss", row.val_loss) | ends("val_loss_iqm", row.val_loss_iqm)
        cells |= ends("val_accuracy", row.val_accuracy) | ends("val_accuracy_iqm", row.val_accuracy_iqm)
        cells |= ends("test_loss", row.test_loss) | ends("test_loss_iqm", row.test_loss_iqm)
        cells |= ends("test_accuracy", row.test_accuracy) | ends("test_accuracy_iqm", row.test_accuracy_iqm)
        for name, other, versus in (
            ("reference", summary.reference, row.to_reference),
            ("baseline", summary.baseline, row.to_baseline),
            ("best", summary.rows[0].planner, row.to_best),
        ):
            cells[name] = other or ""
            cells |= ends(f"test_loss_less_{name}", None if versus is None else versus.difference)
            cells[f"verdict_to_{name}"] = "" if versus is None else versus.verdict
        cells |= ends("improvement", row.improvement)
        if flatness:
            cells |= ends("hessian_max", row.hessian_max) | ends("hessian_trace", row.hessian_trace)
        cells["steps_to_target"] = "" if row.steps_to_target is None else row.steps_to_target
        cells["tuning_steps"] = row.tuning_steps
        cells["extra_steps"] = row.extra_steps
        cells["planning_seconds"] = row.planning_seconds
        rows.append(cells)
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as CSV, floats with every digit."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: repr(v) if isinstance(v, float) else v for k, v in cells.items()} for cells in rows)
    return out.getvalue()


def ends(name: str, estimate: Estimate | None) -> dict[str, Any]:
    """An estimate as three columns, empty where there is none: the value and the ends of its interval."""
    if estimate is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def runs_table(records: Sequence[RunRecord]) -> pa.Table:
    """One row a run; a score that was not taken and a curve that was not kept are null."""
    order = {"tune": 0, "final": 1}

    def place(run: RunRecord) -> tuple[int, str, str, int]:
        return order.get(run.phase, 2), run.planner, settings_key(run.settings), run.seed

    runs = sorted(records, key=place)
    columns: dict[str, pa.Array] = {
        "phase": pa.array([r.phase for r in runs], pa.string()),
        "planner": pa.array([r.planner for r in runs], pa.string()),
        "settings": pa.array([settings_key(r.settings) for r in runs], pa.string()),
        "seed": pa.array([int(r.seed) for r in runs], pa.int64()),
        "status": pa.array([r.status for r in runs], pa.string()),
        "diverged": pa.array([bool(r.diverged) for r in runs], pa.bool_()),
        "steps": pa.array([int(r.steps) for r in runs], pa.int64()),
        "extra_steps": pa.array([int(r.extra_steps) for r in runs], pa.int64()),
    }
    further = [name for name in FLATNESS_SCORES if any(name in r.scores for r in runs)]
    for name in (*SPLIT_SCORES, *further):
        columns[name] = pa.array([r.scores.get(name) for r in runs], pa.float64())
    columns["planning_seconds"] = pa.array([float(r.planning_seconds) for r in runs], pa.float64())
    for name in SIGNALS:
        curves = [np.asarray(r.curves[name], np.float64).tolist() if name in r.curves else None for r in runs]
        columns[f"curve_{name}"] = pa.array(curves, pa.list_(pa.float64()))
    return pa.table(columns)


def write_runs(records: Sequence[RunRecord], file: Path, task: Mapping[str, Any]) -> None:
    """Write `runs_table` as Parquet, with what was trained as `Task.settings` has it, if that is known."""
    with replacing(file) as path, path.open("wb") as out:  # a path that is no UTF-8 is nothing for pyarrow
        pq.write_table(runs_table(records).replace_schema_metadata({_TOLD: json.dumps(_what(task))}), out)


def check_task(path: Path, task: Task) -> None:
    """See that the runs in a file are of a task; files that do not tell are believed.

    Raises:
        UserError: they are of another one, or of another budget or optimizer.
    """
    try:
        told = (pq.read_schema(path).metadata or {}).get(_TOLD.encode())
    except (pa.ArrowException, OSError):
        return  # `read_runs` says what is wrong
    known = json.loads(told) if told else {}
    for name, own in _what(task.settings()).items():
        if known.get(name, own) != own:
            raise UserError(f"the runs in {str(path)!r} are of {name} {known[name]}, not {own}: give that one")


def read_runs(path: Path, curves: Sequence[str] = SIGNALS) -> list[RunRecord]:
    """The runs that `runs_table` made a table of.

    Args:
        path: a Parquet file of such a table.
        curves: names in `SIGNALS`; the others are left out.

    Raises:
        UserError: the file is not there, is damaged or lacks a column.
    """
    plain = ("phase", "planner", "settings", "seed", "status", "diverged", "steps", "extra_steps", "planning_seconds")
    columns = [*plain, *SPLIT_SCORES, *(f"curve_{name}" for name in curves)]
    try:
        known = pq.read_schema(path).names
        further = [name for name in FLATNESS_SCORES if name in known]
        rows = pq.read_table(path, columns=[*columns, *further]).to_pylist()
        return [
            RunRecord(
                phase=row["phase"],
                planner=row["planner"],
                settings=json.loads(row["settings"]),
                seed=row["seed"],
                status=row["status"],
                diverged=row["diverged"],
                steps=row["steps"],
                extra_steps=row["extra_steps"],
                scores={name: row[name] for name in (*SPLIT_SCORES, *further) if row[name] is not None},
                planning_seconds=row["planning_seconds"],
                curves={
                    name: np.array(row[f"curve_{name}"], dtype=np.float64)
                    for name in curves
                    if row[f"curve_{name}"] is not None
                },
            )
            for row in rows
        ]
    except FileNotFoundError:
        raise UserError(
            f"there is no file {str(path)!r}: give runs.parquet of a comparison or a fit, or make that again"
        ) from None
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(
            f"{str(path)!r} is damaged or no table of runs ({why}): make the comparison or the fit again"
        ) from None


def _what(task: Mapping[str, Any]) -> dict[str, Any]:
    """Name, optimizer and budget of a task's settings."""
    return {"task": task["name"], "optimizer": task["optimizer"]["class"], "budget": task["budget"]} if task else {}

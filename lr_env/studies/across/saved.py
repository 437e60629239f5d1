"""Saved comparisons, read from the files of their reports."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError, unknown
from lr_env.files import sha256_of
from lr_env.records.record import RunRecord
from lr_env.records.tables import MANIFEST, read_manifest, read_runs
from lr_env.stats.paired_runs import runs_by_planner
from lr_env.studies.comparison.tuning import is_tuning, tuned_planner
from lr_env.tasks import Task

_MEASURED = {"name", "segment", "val_subset", "lr_start", "lr_range", "tuning_range", "target_val_loss"}
"""Fields of a task on how it is named, measured and planned, not on what is trained."""

_CURVES = ("step", "val_loss")


@dataclass(frozen=True)
class SavedComparison:
    """A comparison that was finished and saved.

    Attributes:
        folder: where its files are.
        name: name of the folder.
        manifest: how it was made; `task` holds the settings of its task.
        runs: planner -> its final runs in the order of the seeds, with the curves `step` and `val_loss`.
        tuning_runs: planner -> runs that its setting was chosen from.
        tuning_steps: planner -> child steps spent on choosing it.
        target_val_loss: nats per example on the task's validation subset.
        target_from: where the target comes from, in words.
        sha256: hash of runs.parquet.
    """

    folder: Path
    name: str
    manifest: Mapping[str, Any]
    runs: Mapping[str, Sequence[RunRecord]]
    tuning_runs: Mapping[str, int]
    tuning_steps: Mapping[str, int]
    target_val_loss: float
    target_from: str
    sha256: str

    @property
    def task(self) -> Mapping[str, Any]:
        """Settings of the task."""
        return self.manifest["task"]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every planner ran on."""
        return tuple(run.seed for run in next(iter(self.runs.values())))

    def same_training_as(self, other: SavedComparison) -> bool:
        """Whether another comparison trains the same: same data, network, optimizer, batches and budget."""
        return _agree(*({"sha256": each.manifest.get("data_sha256"), **_trained(each.task)} for each in (self, other)))


def find_saved(name: str, results: Path) -> Path:
    """Find the folder of a saved comparison.

    Args:
        name: of the comparison, or the path of its folder.
        results: the folder in which comparisons are searched by name.

    Raises:
        UserError: there is none; the line says which name was probably meant.
    """
    for folder in (results / name, Path(name)):
        if is_comparison(folder):
            return folder
    names = [path.parent.name for path in results.glob("*/runs.parquet") if is_comparison(path.parent)]
    hint = f" in {str(results)!r}: name one, or the folder of one that `lr-env compare` has finished"
    raise unknown("comparison", name, names or ["none"], hint)


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds the files of a comparison."""
    return all((folder / name).is_file() for name in (MANIFEST, "runs.parquet"))


def read_saved(folder: Path) -> SavedComparison:
    """Read a comparison from its manifest.json, runs.parquet and summary.csv.

    The target is that of the task. For a task without one it is chosen as in AlgoPerf (arXiv:2306.07179), as the median
    final loss of the best tuned baseline: here of the comparison's own best baseline, on the subset of the validation
    data that the curves are measured on.

    Raises:
        UserError: a file is missing, damaged or of no comparison, or its runs cannot be compared.
    """
    name = folder.resolve().name
    records = read_runs(folder / "runs.parquet", _CURVES)
    manifest, tuning_steps, baseline, target = _read_descriptions(folder)
    runs = final_runs(name, records, _CURVES)
    if runs.keys() != tuning_steps.keys() or baseline not in runs:
        raise UserError(
            f"summary.csv and runs.parquet in {str(folder)!r} are of different planners: make the comparison again"
        )
    tuning_runs = Counter(tuned_planner(record) for record in records if is_tuning(record.phase))
    return SavedComparison(
        folder=folder,
        name=name,
        manifest=manifest,
        runs=runs,
        tuning_runs={planner: tuning_runs[planner] for planner in runs},
        tuning_steps=tuning_steps,
        target_val_loss=_reached(name, runs[baseline]) if target is None else target,
        target_from="the task" if target is not None else f"median final value of {baseline}, the best baseline",
        sha256=sha256_of(folder / "runs.parquet"),
    )


def _read_descriptions(folder: Path) -> tuple[Mapping[str, Any], dict[str, int], str, float | None]:
    """Manifest, child steps spent on tuning by planner, best baseline, and target of a comparison.

    Raises:
        UserError: manifest.json or summary.csv is missing, damaged or of no comparison.
    """
    try:
        manifest = read_manifest(folder)
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        tuning_steps = {row["planner"]: int(row["tuning_steps"]) for row in rows}
        if min(tuning_steps.values(), default=0) < 0:
            raise ValueError("tuning_steps is below 0")
        task = manifest["task"]
        target, name, budget = task["target_val_loss"], task["name"], task["budget"]
        target = None if target is None else float(target)
        if target is not None and math.isnan(target):
            raise ValueError("target_val_loss is NaN")
        if not isinstance(name, str) or type(budget) is not int or budget < 1:
            raise ValueError("its task has no name or no budget")
        return manifest, tuning_steps, rows[0]["baseline"], target
    except FileNotFoundError as error:
        raise UserError(f"there is no file {error.filename!r}: make the comparison again") from None
    except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"manifest.json or summary.csv in {str(folder)!r} is damaged or of no comparison of `lr-env compare` "
            f"({type(error).__name__}: {error}): make the comparison again"
        ) from None


def final_runs(name: str, records: Sequence[RunRecord], curves: Sequence[str]) -> dict[str, list[RunRecord]]:
    """Planner -> final runs of a comparison in the order of the seeds, all of them with those curves.

    Raises:
        UserError: they cannot be compared, or one has no curves.
    """
    try:
        runs = runs_by_planner([record for record in records if record.phase == "final"])
    except UserError as error:
        raise UserError(f"comparison {name!r}: {error}") from None
    for run in (run for of in runs.values() for run in of):
        lengths = {len(run.curves.get(signal, ())) for signal in curves}
        if len(lengths) > 1 or 0 in lengths:
            raise UserError(
                f"comparison {name!r}: the run of planner {run.planner!r} on seed {run.seed} has no curves: make the "
                "comparison again"
            )
    return runs


def _reached(name: str, runs: Sequence[RunRecord]) -> float:
    """Median over seeds of the last validation loss."""
    target = float(np.median([np.inf if run.diverged else run.curves["val_loss"][-1] for run in runs]))
    if not np.isfinite(target):
        raise UserError(
            f"comparison {name!r} sets no target validation loss: its task has none, and half of the runs of its best "
            f"baseline, {runs[0].planner!r}, diverged; leave it out"
        )
    return target


def _trained(task: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained; a field that did not exist yet when the manifest was written has its default."""
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(Task)}
    return {name: task.get(name, default) for name, default in defaults.items() if name not in _MEASURED}


def _agree(a: Any, b: Any) -> bool:
    """Whether two settings are the same, as far as both name them."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    return a == b

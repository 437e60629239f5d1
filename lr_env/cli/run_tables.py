"""Tables of runs: those of an import, those of an experiment, and all that a record store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lr_env.errors import UserError
from lr_env.records.readers.base import ImportedRun
from lr_env.records.record import FINISHED, RunRecord
from lr_env.records.store import Store
from lr_env.report.document import Column, Table
from lr_env.report.formatting import setting_text


@dataclass(frozen=True)
class Stored:
    """An experiment or an import in a record store.

    Attributes:
        name: its name.
        kind: "experiment" or "import".
        runs: how many there are.
        points: how many values of the validation loss all runs have together.
        status: what of it is finished, or that it is damaged.
    """

    name: str
    kind: str
    runs: int | None
    points: int | None
    status: str


def open_store(path: Path) -> Store:
    """Open a record store that is there.

    Raises:
        UserError: it is not, or it cannot be read.
    """
    if not path.exists():
        raise UserError(f"there is no record store {str(path)!r}: give one with --store")
    return Store(path)


def stored(store: Store) -> list[Stored]:
    """All experiments and imports of a store, in alphabetical order of each kind."""
    rows = []
    for name in store.experiments():
        try:
            runs = store.runs(name)
        except UserError:
            rows.append(Stored(name, "experiment", None, None, "damaged"))
            continue
        finished = sum(run.status == FINISHED for run in runs)
        left = len(runs) - finished
        status = "finished" if not left else f"{finished} finished, {left} running or stopped"
        rows.append(Stored(name, "experiment", len(runs), None, status))
    for name in store.imports():
        try:
            imported = store.imported(name)
        except UserError:
            rows.append(Stored(name, "import", None, None, "damaged"))
            continue
        points = sum(len(run.curves["val_loss"].at) for run in imported if "val_loss" in run.curves)
        diverged = sum(run.diverged for run in imported)
        rows.append(Stored(name, "import", len(imported), points, f"{diverged} diverged" if diverged else "whole"))
    return rows


def stored_table(rows: Sequence[Stored]) -> Table[Stored]:
    """A table of what a store has."""
    return Table(
        rows,
        [
            Column("name", lambda row: row.name, rank=0, words=True),
            Column("kind", lambda row: row.kind, rank=0, words=True),
            Column("runs", lambda row: row.runs, lambda runs: f"{runs:,}", rank=0, absent="-"),
            Column("val. points", lambda row: row.points, lambda points: f"{points:,}", rank=1, absent="-"),
            Column("status", lambda row: row.status, rank=0, words=True),
        ],
    )


def imported_table(runs: Sequence[ImportedRun]) -> Table[ImportedRun]:
    """A table of imported runs."""
    return Table(
        runs,
        [
            Column("run", lambda run: run.run_id, _shortened, rank=0, words=True),
            Column("steps", lambda run: run.steps, lambda steps: f"{steps:,}", rank=0),
            Column("points", lambda run: sum(len(c.at) for c in run.curves.values()), lambda n: f"{n:,}", rank=2),
            Column("val. points", lambda run: _points(run, "val_loss"), lambda n: f"{n:,}", rank=0),
            Column("rate from", lambda run: float(run.curves["lr"].values[0]), _rate, rank=0),
            Column("peak", lambda run: float(run.curves["lr"].values.max()), _rate, rank=1),
            Column("to", lambda run: float(run.curves["lr"].values[-1]), _rate, rank=0),
            Column("last val. loss", _last_loss, str, rank=0, absent="-"),
            Column("source", lambda run: run.source, rank=3, words=True, unlisted=True),
        ],
    )


def records_table(runs: Sequence[RunRecord]) -> Table[RunRecord]:
    """A table of the runs of an experiment."""
    return Table(
        runs,
        [
            Column("phase", lambda run: run.phase, rank=1, words=True),
            Column("planner", lambda run: run.planner, rank=0, words=True),
            Column("settings", lambda run: setting_text(run.settings), _shortened, rank=2, words=True),
            Column("seed", lambda run: run.seed, rank=0),
            Column("status", lambda run: "diverged" if run.diverged else run.status, rank=0, words=True),
            Column("steps", lambda run: run.steps, lambda steps: f"{steps:,}", rank=1),
            Column("val. loss", lambda run: run.scores.get("final_val_loss"), _loss, rank=0, absent="-"),
        ],
    )


def _points(run: ImportedRun, signal: str) -> int:
    return len(run.curves[signal].at) if signal in run.curves else 0


def _last_loss(run: ImportedRun) -> str | None:
    """The last validation loss; of a run that diverged, the last that was a number."""
    if "val_loss" not in run.curves:
        return None
    return _loss(float(run.curves["val_loss"].values[-1])) + (" (diverged)" if run.diverged else "")


def _rate(rate: float) -> str:
    return f"{rate:.3g}"


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if 1e-3 <= abs(loss) < 1e5 or loss == 0 else f"{loss:.3e}"


def _shortened(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:20]}...{text[-25:]}"

"""`lr-env export`: the runs of the record store as a table for other software."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import writable
from lr_env.errors import UserError, unknown
from lr_env.words import counted

if TYPE_CHECKING:
    from lr_env.records.store import Store
    from lr_env.report.points import Points

SUFFIXES = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Export:
    """Write the runs of an experiment or an import to a file, which lr-env import reads again.

    It has a row for each run and step at which something was measured.
    """

    name: Annotated[str, tyro.conf.Positional, arg(metavar="NAME")]
    """Name of an experiment or an import; see lr-env runs."""
    out: Annotated[Path, arg(metavar="FILE")]
    """File to write; its name ends in .parquet, .csv or .jsonl."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""

    def run(self) -> None:
        """Write the file.

        Raises:
            UserError: there is no such store, or nothing of that name in it, or the file cannot be written.
        """
        from contextlib import closing

        from lr_env.cli.run_tables import open_store
        from lr_env.report.points import write_points

        if self.out.suffix.lower() not in SUFFIXES:
            raise UserError(f"out {str(self.out)!r}: give the name of a file that ends in {', '.join(SUFFIXES)}")
        if self.out.is_dir():
            raise UserError(f"out {str(self.out)!r} is a folder: give the name of a file")
        with closing(open_store(self.store)) as store:
            if self.name not in [*store.experiments(), *store.imports()]:
                raise unknown("name", self.name, [*store.experiments(), *store.imports()])
            writable(self.out.parent, "--out")
            runs = list(_imported(store, self.name) if self.name in store.imports() else _recorded(store, self.name))
        if not runs:
            raise UserError(f"{self.name!r} has no runs yet: there is nothing to export")
        rows = write_points(self.out, runs)
        print(f"{counted(len(runs), 'run')}, {rows:,} rows: {self.out}")


def _imported(store: Store, name: str) -> Iterator[Points]:
    """The runs of an import."""
    from lr_env.report.points import Points

    for run in store.imported(name):
        facts = {"run": run.run_id, "source": run.source, "diverged": run.diverged}
        yield Points(facts, {signal: (curve.at, curve.values) for signal, curve in run.curves.items()})


def _recorded(store: Store, name: str) -> Iterator[Points]:
    """The runs of an experiment."""
    from lr_env.records.record import run_key
    from lr_env.report.points import Points

    for record in store.runs(name, curves=True):
        _, settings, seed = run_key(record)
        facts: Mapping[str, Any] = {
            "run": f"{record.phase} {record.planner} {settings} {seed}",
            **{"phase": record.phase, "planner": record.planner, "settings": settings, "seed": seed},
            **{"status": record.status, "diverged": record.diverged},
        }
        steps = record.curves.get("step")
        if steps is not None:
            yield Points(facts, {n: (steps, values) for n, values in record.curves.items() if n != "step"})

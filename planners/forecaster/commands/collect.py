"""`lr-env forecast collect`: train runs of a task family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from lr_env.cli.engine_options import EngineChoice


@dataclass(frozen=True, kw_only=True)
class Collect(EngineChoice):
    """Train runs of many tasks of a family, and keep their curves in the record store. The same command goes on."""

    resumable: ClassVar[bool] = True

    family: Annotated[str, Positional, arg(metavar="FAMILY")]
    """Name of the task family; lr-env tasks lists them."""
    runs: Annotated[int, arg(metavar="N")] = 1000
    """Number of runs."""
    per_task: Annotated[int, arg(metavar="N")] = 2
    """Runs of each task, which are trained together."""
    schedules: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("constant", "cosine", "wsd", "one-cycle", "step")
    """Schedules that are drawn from; half of the runs are constant where that is among them."""
    repeated: Annotated[float, arg(metavar="SHARE")] = 0.1
    """Share of the tasks whose first run is made again on another seed, where a task has at least two runs."""
    split: Annotated[str, arg(metavar="NAME")] = "train"
    """Tasks of which split: train, val, test or shifted."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed; another one has other tasks."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: FAMILY-SPLIT)")] = None
    """Name under which the runs are kept."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    fresh: bool = False
    """Delete what is stored under this name, and start over."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Also write the curves to this .parquet file."""
    metric: Annotated[str, arg(metavar="NAME")] = "val_loss"
    """What the file holds: val_loss, train_loss or val_error."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Device for the training."""
    backend: Annotated[str, arg(metavar="NAME")] = "loop"
    """How to train the runs of a task: loop (in turn), stacked (together) or compiled."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """CPU threads."""

    def run(self) -> None:
        """Train what is missing.

        Raises:
            UserError: an option is wrong, or the name is that of other runs.
        """
        from contextlib import closing

        import torch

        from lr_env.children import Backend, Execution
        from lr_env.cli.parsing import parse_name, progress_bar, writable
        from lr_env.cli.task_options import MOST_THREADS
        from lr_env.errors import UserError
        from lr_env.files import exclusive_lock
        from lr_env.records.store import Store
        from lr_env.runs.experiment import lock_of
        from lr_env.words import counted
        from planners.forecaster.collecting import Collection, collect
        from planners.forecaster.from_runs import curves_of
        from planners.forecaster.tables import write_curves

        collection = Collection(
            self.family, self.runs, self.split, self.per_task, tuple(self.schedules), self.repeated, self.seed
        )
        name = parse_name(self.name or f"{self.family}-{self.split}")
        if not 1 <= self.threads <= MOST_THREADS:
            raise UserError(f"threads {self.threads}: give from 1 to {MOST_THREADS:,}")
        if self.backend == "auto":
            raise UserError("backend 'auto' would measure for each task anew: give loop, stacked or compiled")
        if self.out is not None:
            if self.out.suffix != ".parquet":
                raise UserError(f"out {str(self.out)!r}: give the name of a .parquet file")
            writable(self.out.parent, "--out")
        torch.set_num_threads(self.threads)
        backend = Backend("loop") if self.backend == "loop" else Backend(self.backend, block=self.per_task)
        engine = self.find_engine(self.device, self.threads)
        with closing(engine), closing(Store(self.store)) as store, exclusive_lock(lock_of(store, name), f"{name!r}"):
            if self.fresh:
                store.delete_imported(name)
            with progress_bar(self.runs) as progress:
                execution = Execution(self.device, backend)
                trained = collect(
                    collection, store, name, execution, engine=engine, progress=lambda runs: progress("runs", runs)
                )
            runs = store.imported(name)
        diverged = sum(run.diverged for run in runs)
        print(f"{counted(trained, 'run')} trained, {len(runs)} stored as {name} in {self.store}, {diverged} diverged")
        if self.out is not None:
            curves, _ = curves_of(runs, self.metric)
            write_curves(curves, self.out)
            print(f"Curves: {self.out}")
        print(f"Fit a model to them by\n  lr-env forecast fit {name if self.out is None else self.out}")

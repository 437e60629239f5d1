"""Options that subcommands of `lr-env forecast` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from lr_env.errors import UserError

if TYPE_CHECKING:
    from planners.forecaster.curves import CurveSet


@dataclass(frozen=True)
class SourceOptions:
    """Where curves come from."""

    sources: Annotated[tuple[str, ...], Positional, arg(metavar="SOURCE")] = ()
    """Curves: files (.parquet of lr-env forecast, compare or fit; .json.gz of TaskSet or DeepOBS), or names in the
    record store (collections, imports, experiments; see lr-env runs)."""
    metric: Annotated[str, arg(metavar="NAME")] = "val_loss"
    """What is forecast: val_loss, train_loss or val_error (1 - accuracy)."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """CPU threads. Models are small: one is fastest on most machines."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of everything that is drawn."""

    def curves(self) -> CurveSet:
        """Read the curves that can be used, and say what was left out.

        Raises:
            UserError: there are none, or an option is wrong.
        """
        import torch

        from lr_env.cli.task_options import MOST_THREADS
        from lr_env.words import counted
        from planners.forecaster.sources import read_sources

        if not 1 <= self.threads <= MOST_THREADS:
            raise UserError(f"threads {self.threads}: give from 1 to {MOST_THREADS:,}")
        torch.set_num_threads(self.threads)
        found = read_sources(self.sources, self.store, self.metric)
        usable = found.curves.usable
        for line in found.left_out[:5]:
            print(f"left out: {line}")
        if len(found.left_out) > 5:
            print(f"left out: {len(found.left_out) - 5} more")
        left = len(usable) - int(usable.sum())
        what = (
            f"; {counted(left, 'run')} of which a value is missing at the end or above twice the first" if left else ""
        )
        print(f"{counted(int(usable.sum()), 'curve')} of {self.metric}{what}")
        curves = found.curves.rows(usable)
        unknown = int((curves.network < 0).sum())
        if unknown > 0:
            print(f"the architecture of {'all' if unknown == len(curves) else unknown} of them is not known")
        return curves

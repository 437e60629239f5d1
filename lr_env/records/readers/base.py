"""The contract of log readers: runs as a tracker logged them, and runs brought to optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError

Floats = NDArray[np.float64]


class UnreadableError(UserError):
    """A file that no run can be read from; the message says why, in one line."""


@dataclass(frozen=True, eq=False)
class Series:
    """A logged number over a clock.

    Attributes:
        at: values of the clock, in the order of the log, (points,). They may repeat, and fall where a run was resumed.
        values: the numbers, (points,); NaN where the log has NaN.
    """

    at: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """One run, or one part of it, as its tracker logged it: nothing is renamed or converted.

    Attributes:
        reader: name of the reader.
        source: the file or folder that it was read from.
        run_id: what the tracker calls the run, or where it lies. Parts with the same reader and run_id are one run.
        series: name in the log -> values. Columns that count something, such as "epoch", are series, too.
        clock: what `at` of the series counts: "step" where the tracker says that these are optimizer steps, the
            tracker's own name for it (W&B "_step", Keras "epoch"), or "row" for the number of the row, from 0.
        config: hyperparameters and facts that lie beside the numbers, e.g. "max_steps"; plain values, flat names.
        began: seconds since 1970 when the part began; NaN where that is not known.
        notes: what is not whole, each a short clause: "cut off after 311 records".
    """

    reader: str
    source: Path
    run_id: str
    series: Mapping[str, Series]
    clock: str = "row"
    config: Mapping[str, Any] = field(default_factory=dict)
    began: float = float("nan")
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads one format. Found by name through the entry-point group `lr_env.readers`.

    The entry point names the class, which is called without arguments, or an object of it.

    A reader imports no tracker's package and unpickles nothing. It takes any bytes: it gives what is whole and notes
    what is not, or raises `UnreadableError`. It never gives numbers that the file does not hold.
    """

    @property
    def name(self) -> str:
        """Name of the format, e.g. "tensorboard"."""
        ...

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a file is of this format, by its name and first 4,096 bytes; of a folder, whose head is empty, too.

        A folder that is detected is read as a whole, and its files are not looked at one by one.
        """
        ...

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs in a file or folder, in the order of the log.

        Raises:
            UnreadableError: it holds no run that can be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class ImportedRun:
    """A logged run under our names, over optimizer steps: what the record store keeps of it.

    Attributes:
        run_id: unique among the runs that were imported together.
        source: where it was read.
        curves: name of a signal, of which "lr" is always there -> values. `at` counts optimizer steps that were done
            when the value was measured, rises strictly, and may be spaced unevenly; values are finite.
        config: as it was logged.
        steps: optimizer steps of the run: the last at which anything was logged, or what the log says.
        diverged: whether a loss was not finite at the end.
    """

    run_id: str
    source: str
    curves: Mapping[str, Series]
    config: Mapping[str, Any]
    steps: int
    diverged: bool = False

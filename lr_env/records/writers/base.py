"""The contract of writers: finished runs as a tracker gets them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lr_env.entry_points import declared, load
from lr_env.errors import UserError

WRITERS = "lr_env.writers"
"""The group of entry points of writers."""

DIGEST_DIGITS = 12

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Optimizer steps done, and the values that were measured then."""


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """A finished run under the names that trackers use.

    Attributes:
        title: what people see, e.g. "final-wsd-seed3"; it can be a part of the name of a folder.
        params: what the run was made with: text, numbers and truth values.
        curves: name of a metric -> its curve. Values may be NaN.
        scores: name of a metric -> its value at the end.
        steps: optimizer steps of the run.
    """

    title: str
    params: Mapping[str, str | int | float | bool]
    curves: Mapping[str, Curve]
    scores: Mapping[str, float]
    steps: int

    @cached_property
    def digest(self) -> str:
        """A hash of all of it, by which a writer knows what it has written before."""
        hashed = hashlib.sha256(json.dumps([self.title, dict(self.params), dict(self.scores), self.steps]).encode())
        for name, (steps, values) in self.curves.items():
            hashed.update(name.encode())
            for array in (steps, values):
                hashed.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return hashed.hexdigest()[:DIGEST_DIGITS]

    @property
    def name(self) -> str:
        """The title and the digest: no two runs share it."""
        return f"{self.title}-{self.digest}"


class Writer(Protocol):
    """Writes finished runs into the logs of one tracker. Found by name through the entry-point group `lr_env.writers`.

    The entry point names the class, which is called without arguments.
    """

    @property
    def name(self) -> str:
        """Name of the tracker, e.g. "tensorboard"."""
        ...

    def check(self) -> None:
        """Find out before anything is trained whether it can write.

        Raises:
            UserError: a package is missing; the line names it.
        """
        ...

    def write(self, experiment: str, part: str, runs: Sequence[TrackedRun], folder: Path) -> str:
        """Write the runs that were not written before. A killed process leaves no run that looks whole and is not.

        Args:
            experiment: name of the experiment in the record store.
            part: name of the part of a study that it is; empty where it is the whole.
            runs: all finished runs of the experiment.
            folder: of the study's report.

        Returns:
            Where they are, for people.

        Raises:
            UserError: the tracker refuses them.
        """
        ...


def writer_names() -> list[str]:
    """The names of all trackers that can be written, in alphabetical order."""
    return sorted(declared(WRITERS))


def find_writer(name: str) -> Writer:
    """The writer of a tracker's logs.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    writer: Any = load(WRITERS, "tracker", name)()
    missing = [part for part in ("name", "check", "write") if not hasattr(writer, part)]
    if missing:
        raise UserError(f"the writer of {name!r} has no {missing[0]!r}: see lr_env.records.writers.base.Writer")
    return writer

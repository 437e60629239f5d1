"""The options of commands that show an experiment of the record store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import parse_name


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment, and where its runs and its report are."""

    name: Annotated[str, tyro.conf.Positional, arg(metavar="NAME")]
    """Name of the experiment; see lr-env runs."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    results: Path = Path("results")
    """Folder for reports; that of the experiment is in the subfolder NAME."""

    @property
    def folder(self) -> Path:
        """Folder of the report.

        Raises:
            UserError: the name cannot be that of a folder.
        """
        return self.results / parse_name(self.name)

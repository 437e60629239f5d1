"""`lr-env across`: rank planners over saved comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import parse_name, writable
from lr_env.errors import UserError
from lr_env.provenance import command_line
from lr_env.runs.options import parse_names
from lr_env.terminal import console


@dataclass(frozen=True)
class Across:
    """Rank planners over saved comparisons, one a task: mean ranks, and how soon targets are reached."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME")]
    """Comparisons, by name or folder, each of another task; only the files of their reports are read."""
    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """Planners to rank. Default: all that every comparison has."""
    results: Path = Path("results")
    """Folder of the comparisons; the report goes to its subfolder --name."""
    name: Annotated[str, arg(metavar="NAME")] = "across"
    """Name of the report."""

    @property
    def folder(self) -> Path:
        """Where the report goes."""
        return self.results / parse_name(self.name)

    def run(self) -> None:
        """Write the report and print the table."""
        from lr_env.provenance import versions
        from lr_env.report.terminal import print_document
        from lr_env.studies.across.report import AcrossReport
        from lr_env.studies.across.saved import find_saved, is_comparison, read_saved
        from lr_env.studies.across.standings import aggregate

        planners = parse_names(self.planners)
        if self.planners and not planners:
            raise UserError("no planners: name at least two with --planners, or leave it out to rank all")
        folder = self.folder
        if is_comparison(folder):
            raise UserError(f"{str(folder)!r} holds a comparison: choose another --name")
        comparisons = [read_saved(find_saved(name, self.results)) for name in self.names]
        standings = aggregate(comparisons, planners)
        writable(folder)
        report = AcrossReport(standings, {"command": command_line(), "versions": versions()})
        report.write(folder)
        print_document(report.document(), console())
        print(f"Report: {folder / 'summary.md'}")

"""`lr-env across`: finished comparisons put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import command_line, parse_name, parse_names, writable
from lr_env.errors import UserError
from lr_env.terminal import console


@dataclass(frozen=True)
class Across:
    """Put finished comparisons together, one a task: planners' mean ranks, and how soon they reach targets."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME")]
    """Comparisons, by name or folder, each of another task; only the files of their reports are read."""
    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """Planners that take part. Default: all that every comparison has."""
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
        from lr_env.studies.across.report import print_standings, write_standings
        from lr_env.studies.across.saved import find_finished, is_comparison, read_finished
        from lr_env.studies.across.standings import put_together

        planners = parse_names(self.planners)
        if self.planners and not planners:
            raise UserError("no planners: name at least two with --planners, or leave it out to rank all")
        folder = self.folder
        if is_comparison(folder):
            raise UserError(f"{str(folder)!r} holds a comparison: choose another --name")
        comparisons = [read_finished(find_finished(name, self.results)) for name in self.names]
        standings = put_together(comparisons, planners)
        writable(folder)
        write_standings(folder, standings, {"command": command_line(), "versions": versions()})
        print_standings(standings, console())
        print(f"Report: {folder / 'summary.md'}")

"""Studies as commands: the options of a study, beside those of the task and of the record store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import tyro

from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.parsing import parse_name, progress_bar, writable
from lr_env.entry_points import declared, load
from lr_env.registry import STUDIES
from lr_env.runs.study import Study
from lr_env.terminal import console

S = TypeVar("S", bound=Study)


@dataclass(frozen=True)
class StudyCommand(Generic[S]):
    """The command of a study."""

    resumable: ClassVar[bool] = ReportOptions.resumable

    study: S
    lab: ReportOptions

    @property
    def fresh(self) -> bool:
        """Whether what was done before is deleted."""
        return self.lab.fresh

    def experiment_name(self) -> str:
        """The name of the experiment, and of the folder of its report."""
        label = f"-{self.study.label}" if self.study.label else ""
        return parse_name(f"{self.lab.short_name}{label}" if self.lab.name is None else self.lab.name)

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        return self.lab.results / self.experiment_name()

    def run(self) -> None:
        """Make the runs that are left, write the report, and print it."""
        from lr_env.report.terminal import print_document

        folder, task = self.folder, self.lab.varied_task()
        lab = self.lab.lab(task, self.experiment_name(), folder)
        steps = self.study.child_steps(task)
        self.lab.check_log()
        writable(folder)
        with closing(lab.engine):
            with progress_bar(steps) as progress:
                result = self.study.run(replace(lab, progress=progress))
            about = self.lab.provenance(task, lab.engine.call)
        result.write(folder, about)
        print_document(result.document(), console(), folder)
        if (report := folder / "summary.md").is_file():
            print(f"Report: {report}")
        self.lab.write_log(lab)


def _first_paragraph(study: type[Study]) -> str:
    return (study.__doc__ or "").split("\n\n")[0]


def study_commands() -> dict[str, Any]:
    """Name -> command of every study that a package declares in the entry-point group `lr_env.studies`.

    Raises:
        UserError: one of them cannot be loaded.
    """
    studies = {name: load(STUDIES, "study", name) for name in declared(STUDIES)}
    return {
        name: Annotated[StudyCommand[study], tyro.conf.subcommand(name, description=_first_paragraph(study))]
        for name, study in studies.items()
    }

"""The contract of studies: a question that is put to planners, with a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lr_env.report.document import Document
    from lr_env.runs.lab import Lab
    from lr_env.tasks import Task


class Result(Protocol):
    """What a study found."""

    def document(self) -> Document:
        """The report, as blocks that the terminal, Markdown and HTML show alike."""
        ...

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write the files of the report into a folder that is there, with how the study was made."""
        ...


@runtime_checkable
class Study(Protocol):
    """A question: a frozen dataclass, whose fields are its options on the command line.

    It is found by name through the entry-point group `lr_env.studies`, and is then a command of `lr-env`. Its module is
    imported for every help text, so that it imports nothing large before `run`.
    """

    @property
    def label(self) -> str:
        """What follows the name of the task in the default name of the study; empty for the name of the task alone."""
        ...

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all its runs, for the progress bar.

        Raises:
            UserError: an option does not go with the task.
        """
        ...

    def run(self, lab: Lab) -> Result:
        """Make the runs that are left, and put them together.

        Raises:
            UserError: an option does not go with the task; see also `Lab.experiment`.
        """
        ...

"""`lr-env import`: runs from the logs of trackers into the record store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import parse_name
from lr_env.errors import UserError
from lr_env.report.document import Block, Document, Text
from lr_env.terminal import console
from lr_env.words import counted

if TYPE_CHECKING:
    from lr_env.records.readers.base import ImportedRun
    from lr_env.records.readers.importing import ImportReport, LeftOut

_MOST_SHOWN = 30
"""Runs and notes of a kind that are listed one by one."""


@dataclass(frozen=True)
class Import:
    """Import logged runs of your own training: from TensorBoard, W&B, MLflow, Hugging Face, CSV and other logs.

    Example: lr-env import runs/ --name mine; lr-env fit --runs-of mine
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="SOURCE")]
    """Files, and folders, which are searched with all that is in them."""
    name: Annotated[str, arg(metavar="NAME")]
    """Name under which the runs are stored."""
    names: Annotated[tuple[str, ...], arg(metavar="SIGNAL=NAME...")] = ()
    """What the logs call the signals (lr, train_loss, val_loss, train_accuracy, val_accuracy, gradient_norm) and clocks
    (step, epoch), where that is not recognized, e.g. lr=train/rate val_loss=eval/box+eval/cls step=iter."""
    format: Annotated[str | None, arg(metavar="FORMAT", help_behavior_hint="(default: each file's is detected)")] = None
    """Format of all files, e.g. csv, json-lines, tensorboard, wandb, mlflow, huggingface."""
    steps_per_epoch: Annotated[float | None, arg(metavar="N", help_behavior_hint="(default: as the logs say)")] = None
    """Optimizer steps of an epoch, for logs whose clock is the epoch."""
    pattern: Annotated[tuple[str, ...], arg(metavar="PATTERN...")] = ()
    """Patterns of lines of text logs, e.g. "step {step} loss {train_loss} lr {lr}"; {_} stands for any word."""
    val_loss_from_train: bool = False
    """Import runs without a validation loss, too, with the training loss in its place."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    add: bool = False
    """Add the runs to those that are stored under this name; runs that are there already are left out."""
    fresh: bool = False
    """Delete what is stored under this name before."""

    def run(self) -> None:
        """Read the logs, store the runs, and print what was imported and what was left out.

        Raises:
            UserError: nothing could be imported, or an option is wrong.
        """
        from contextlib import closing

        from lr_env.records.readers.importing import import_runs
        from lr_env.records.readers.names import parse_names
        from lr_env.records.store import Store
        from lr_env.report.terminal import print_document

        name = parse_name(self.name)
        if self.add and self.fresh:
            raise UserError("--add and --fresh: give one of them")
        names = parse_names(self.names)
        there: Sequence[ImportedRun] = ()
        added_to: Mapping[str, Any] = {}
        if self.store.exists():  # before the work, and not after it
            with closing(Store(self.store)) as store:
                if not (self.add or self.fresh):
                    store.check_new_import(name)
                if self.add and name in store.imports():
                    there, added_to = store.imported(name), store.import_spec(name)
        runs, report = import_runs(
            self.sources,
            names=names,
            steps_per_epoch=self.steps_per_epoch,
            format=self.format,
            patterns=self.pattern,
            val_loss_from_train=self.val_loss_from_train,
        )
        new, report = _new_runs(runs, report, there)
        if new:
            spec = {"sources": [str(source.absolute()) for source in self.sources], "names": names}
            spec |= {"format": self.format, "patterns": self.pattern, "steps_per_epoch": self.steps_per_epoch}
            spec |= {"added_to": added_to} if added_to else {}
            with closing(Store(self.store)) as store:
                store.write_imported(name, new, spec, add=self.add, fresh=self.fresh)
        print_document(document(name, new, report, self.store), console())
        if not new:
            reasons = list(dict.fromkeys(left.reason for left in report.left_out))
            why = reasons[0] if len(reasons) == 1 else "see above why each was left out"
            raise UserError(f"nothing was imported: {why if report.left_out else 'there are no logs in the sources'}")


def _new_runs(
    runs: Sequence[ImportedRun], report: ImportReport, there: Sequence[ImportedRun]
) -> tuple[list[ImportedRun], ImportReport]:
    """The runs that are not stored yet, under names that are not taken, and the report on them."""
    from lr_env.records.readers.assembly import is_same
    from lr_env.records.readers.importing import LeftOut

    taken = {run.run_id for run in there}
    new, left_out = [], list(report.left_out)
    names, notes = dict(report.names), dict(report.notes)
    for run in runs:
        same = next((other for other in there if is_same(run, other)), None)
        if same is not None:
            grown = same.steps < run.steps
            why = f"its first {same.steps:,} steps are" if grown else "it is"
            fix = ": replace all runs with --fresh to have the rest" if grown else ""
            left_out.append(LeftOut(run.source, run.run_id, f"{why} stored already, as {same.run_id!r}{fix}"))
            continue
        run_id, number = run.run_id, 2
        while run_id in taken:
            run_id, number = f"{run.run_id} ({number})", number + 1
        taken.add(run_id)
        names[run_id], notes[run_id] = report.names[run.run_id], report.notes[run.run_id]
        new.append(replace(run, run_id=run_id))
    stored = {run.run_id for run in new}
    return new, replace(
        report,
        left_out=tuple(left_out),
        names={run_id: one for run_id, one in names.items() if run_id in stored},
        notes={run_id: one for run_id, one in notes.items() if run_id in stored},
    )


def document(name: str, runs: Sequence[ImportedRun], report: ImportReport, store: Path) -> Document:
    """What was imported, what was left out and why."""
    from lr_env.cli.run_tables import imported_table

    blocks: list[Block] = []
    if runs:
        blocks.append(imported_table(runs[:_MOST_SHOWN]))
        if len(runs) > _MOST_SHOWN:
            blocks.append(Text(f"and {len(runs) - _MOST_SHOWN} more runs: see lr-env runs {name}", quiet=True))
        blocks += [Text(line, quiet=True) for line in (*_names_used(report), *_grouped_notes(report.notes))]
    if report.copies:
        copies = [f"{source} is the same run as {run_id}" for source, run_id in report.copies.items()]
        blocks.append(Text(points=_at_most(copies)))
    if report.left_out:
        blocks.append(Text("Left out:"))
        blocks.append(Text(points=tuple(_grouped(report.left_out))))
    blocks.append(Text(_counts(name, runs, report, store)))
    return Document(f"Import of {name}", tuple(blocks))


def _counts(name: str, runs: Sequence[ImportedRun], report: ImportReport, store: Path) -> str:
    counts = [f"{counted(len(runs), 'run')} imported" + (f" as {name} into {store}" if runs else "")]
    if report.copies:
        counts.append(f"{counted(len(report.copies), 'copy', 'copies')} of them merged")
    if report.left_out:
        counts.append(f"{len(report.left_out)} left out")
    if report.passed_over:
        counts.append(f"{counted(report.passed_over, 'other file')} passed over")
    return "; ".join(counts) + "."


def _names_used(report: ImportReport) -> list[str]:
    """What the logs call the signals, once for all runs that agree."""
    agreed: dict[str, int] = {}
    for names in report.names.values():
        text = ", ".join(f"{signal}={name}" for signal, name in names.items())
        agreed[text] = agreed.get(text, 0) + 1
    return [
        f"names{'' if len(agreed) == 1 else ' of ' + counted(count, 'run')}: {text}"
        for text, count in list(agreed.items())[:5]
    ]


def _grouped_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Each note once, with the runs that it is on."""
    on: dict[str, list[str]] = {}
    for run_id, some in notes.items():
        for note in some:
            on.setdefault(note, []).append(run_id)
    return list(_at_most([f"{_few(run_ids)}: {note}" for note, run_ids in on.items()]))


def _grouped(left_out: Sequence[LeftOut]) -> list[str]:
    """Each reason once, with all that was left out for it."""
    by_reason: dict[str, list[str]] = {}
    for left in left_out:
        by_reason.setdefault(left.reason, []).append(left.run or left.source)
    return [f"{', '.join(runs)}: {reason}" for reason, runs in by_reason.items()]


def _few(run_ids: Sequence[str]) -> str:
    return ", ".join(run_ids) if len(run_ids) <= 3 else f"{', '.join(run_ids[:2])} and {len(run_ids) - 2} more"


def _at_most(lines: Sequence[str]) -> tuple[str, ...]:
    if len(lines) <= _MOST_SHOWN:
        return tuple(lines)
    return (*lines[:_MOST_SHOWN], f"and {len(lines) - _MOST_SHOWN} more")


def spec_text(spec: Mapping[str, Any]) -> str:
    """What an import was made with, in one line."""
    sources: list[str] = []
    part: Any = spec
    while isinstance(part, Mapping):  # of each time that runs were added, the last first
        sources = [*map(str, part.get("sources", ())), *sources]
        part = part.get("added_to")
    return f"imported from {', '.join(dict.fromkeys(sources))}" if sources else "imported"

"""Import runs from the logs of trackers: everything from files and folders to runs over optimizer steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lr_env.errors import UserError
from lr_env.records.readers.assembly import Assembled, Options, assemble, merged, parts_of, with_validation_loss
from lr_env.records.readers.base import ImportedRun, LoggedRun, Reader
from lr_env.records.readers.names import check_signals
from lr_env.records.readers.sources import Log, PassedOver, Refused, all_readers, find_logs, find_reader
from lr_env.records.readers.text_log import TEXT, parse_pattern


@dataclass(frozen=True)
class LeftOut:
    """A log, or a run in one, that was not imported.

    Attributes:
        source: where it is.
        run: name of the run; empty for a whole file.
        reason: why, in one line.
    """

    source: str
    run: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What is said of an import.

    Attributes:
        left_out: what was not imported, in the order of the sources.
        copies: source of a log that is the same run as another -> run_id of the one that stands for it.
        passed_over: how many files in the folders are no logs.
        names: run_id -> signal -> name in the log.
        notes: run_id -> what was not whole, and what was chosen.
    """

    left_out: tuple[LeftOut, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    passed_over: int = 0
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def import_runs(
    sources: Sequence[Path | str],
    *,
    names: Mapping[str, str] | None = None,
    steps_per_epoch: float | None = None,
    format: str | None = None,
    patterns: Sequence[str] = (),
    val_loss_from_train: bool = False,
) -> tuple[list[ImportedRun], ImportReport]:
    """Read the runs in files and folders, and bring them to optimizer steps under our names.

    Args:
        sources: files, and folders, which are searched with all that is in them.
        names: signal, or "step" or "epoch" -> name in the logs, e.g. {"lr": "train/learning_rate", "step": "iter"};
            what is not given is found by a table of what trackers write. "a+b" is the sum of two.
        steps_per_epoch: optimizer steps of an epoch, for logs whose clock is the epoch and that do not say it.
        format: name of the format of all files; by default each file's is detected.
        patterns: of the lines of text logs; see `lr_env.records.readers.text_log.parse_pattern`.
        val_loss_from_train: take the training loss of runs that have no validation loss.

    Returns:
        The runs, in the order of the sources, and what is said of the import. The same sources give the same.

    Raises:
        UserError: a source is not there or of no known format, or an argument is wrong.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lines = "epoch,lr,train_loss,val_loss", "1,0.1,2.0,2.1", "2,0.01,1.0,1.2"
    ...     _ = Path(folder, "log.csv").write_text(chr(10).join(lines) + chr(10))
    ...     runs, report = import_runs([folder], steps_per_epoch=50)
    >>> runs[0].steps, runs[0].curves["lr"].at.tolist(), runs[0].curves["val_loss"].values.tolist()
    (100, [50.0, 100.0], [2.1, 1.2])
    """
    names = dict(names or {})
    check_signals(names)
    if steps_per_epoch is not None and not (math.isfinite(steps_per_epoch) and steps_per_epoch > 0):
        raise UserError(f"steps-per-epoch {steps_per_epoch}: it must be a finite number above 0")
    if not sources:
        raise UserError("no sources: give files and folders of logs")
    options = Options(names, steps_per_epoch, val_loss_from_train)
    left_out: list[LeftOut] = []
    parts: dict[tuple[str, str], list[LoggedRun]] = {}
    passed_over = 0
    forced = _forced(format, patterns)
    for log in find_logs([Path(source) for source in sources], all_readers() if forced is None else [], names, forced):
        match log:
            case PassedOver():
                passed_over += 1
            case Refused():
                left_out.append(LeftOut(str(log.path), "", log.reason))
            case Log():
                runs_there, reason = _read(log, options)
                for part in runs_there:
                    parts.setdefault((part.reader, part.run_id), []).append(part)
                if reason and forced is not None and forced.name == "text" and not log.by_name:
                    passed_over += 1  # a folder has more than text logs
                elif reason:
                    left_out.append(LeftOut(str(log.path), "", reason))
    assembled: list[Assembled] = []
    for same in parts.values():
        for result in assemble(_in_order(same), options):
            if isinstance(result, Assembled):
                assembled.append(result)
            else:
                logged, reason = result
                left_out.append(LeftOut(str(logged.source), logged.run_id, reason))
    distinct, pairs = merged(assembled)
    runs: list[Assembled] = []
    for one in distinct:
        try:
            runs.append(with_validation_loss(one, options))
        except UserError as error:
            left_out.append(LeftOut(one.run.source, one.run.run_id, str(error)))
    ids = _short_ids([one.run.run_id for one in runs])
    by_run = {id(one.run): run_id for one, run_id in zip(runs, ids, strict=True)}
    final = {one.run.run_id: run_id for one, run_id in zip(runs, ids, strict=True)}
    return (
        [replace(one.run, run_id=by_run[id(one.run)]) for one in runs],
        ImportReport(
            left_out=tuple(left_out),
            copies={one.run.source: final.get(other.run.run_id, other.run.run_id) for one, other in pairs},
            passed_over=passed_over,
            names={run_id: one.names for one, run_id in zip(runs, ids, strict=True)},
            notes={run_id: one.notes for one, run_id in zip(runs, ids, strict=True)},
        ),
    )


def _forced(format: str | None, patterns: Sequence[str]) -> Reader | None:
    """The reader of all files, where the user says it."""
    if patterns:
        if format not in (None, "text"):
            raise UserError(f"a pattern is for text logs, not for format {format!r}: give one of the two")
        for pattern in patterns:
            parse_pattern(pattern)
        return replace(TEXT, patterns=tuple(patterns))
    return None if format is None else find_reader(format)


def _read(log: Log, options: Options) -> tuple[list[LoggedRun], str]:
    """Read a log: the runs in it, and why it has no more; empty where all is well."""
    runs: list[LoggedRun] = []
    try:
        for logged in log.reader.read(log.path):
            runs.extend(parts_of(logged, options))
    except UserError as error:
        return runs, str(error)
    except OSError as error:
        return runs, f"it cannot be read ({error.strerror or error})"
    return runs, "" if runs else "nothing was logged in it"


def _in_order(parts: Sequence[LoggedRun]) -> list[LoggedRun]:
    """Parts of a run in the order in which they began; where that is not known, in the order of the sources."""
    if any(math.isnan(part.began) for part in parts):
        return list(parts)
    return sorted(parts, key=lambda part: part.began)


def _short_ids(run_ids: Sequence[str]) -> list[str]:
    """Names of runs without the folder that all have in common; each name once."""
    paths = [run_id for run_id in run_ids if os.sep in run_id]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if _share_a_root(paths) else ""
    short = [os.path.relpath(run_id, common) if common and run_id in set(paths) else run_id for run_id in run_ids]
    seen: dict[str, int] = {}
    names = []
    for name in short:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _share_a_root(paths: Sequence[str]) -> bool:
    return bool(paths) and len({os.path.isabs(path) for path in paths}) == 1

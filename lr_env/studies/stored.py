"""Reports of what the record store has: of a comparison, or of the runs of any experiment, also while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError, unknown
from lr_env.records.record import FINISHED, RunRecord, settings_key
from lr_env.records.store import Store
from lr_env.report.blocks import Block, Column, Figure, Heading, Table, Text
from lr_env.report.chart import Chart
from lr_env.report.curve_chart import PlannerRuns, curves_chart
from lr_env.report.document import Document
from lr_env.report.formatting import number_text
from lr_env.studies.comparison.charts import has_loss
from lr_env.studies.comparison.pages import planner_page
from lr_env.studies.comparison.report import ComparisonReport
from lr_env.studies.comparison.stored import StoredComparison, is_comparison


@dataclass(frozen=True, eq=False)
class StoredReport:
    """What can be reported of an experiment.

    Attributes:
        document: the report.
        comparison: the report of a comparison that is finished; None for all else.
        is_of_comparison: whether the experiment is a comparison.
    """

    document: Document
    comparison: ComparisonReport | None
    is_of_comparison: bool


def check_experiment(store: Store, name: str) -> None:
    """Check that there is an experiment of that name.

    Raises:
        UserError: there is none; it says so of imported runs, too.
    """
    experiments = store.experiments()
    if name not in experiments:
        if name in store.imports():
            raise UserError(f"{name!r} are imported runs, which have no report: lr-env runs {name} lists them")
        raise unknown("experiment", name, experiments)


def stored_report(store: Store, name: str, folder: Path) -> StoredReport:
    """The report of an experiment, as far as it has come.

    Args:
        store: where its runs are.
        name: of the experiment.
        folder: of its report, which may have an earlier one.

    Raises:
        UserError: there is no experiment of that name, it is damaged, or it has no runs yet.
    """
    check_experiment(store, name)
    spec = store.experiment(name) or {}
    notice = ""
    if is_comparison(spec):
        compared = StoredComparison.read(store, name, folder)
        if compared.block[0]:
            report = compared.report()
            return StoredReport(report.document(), report if compared.is_whole else None, True)
        records, notice = [*compared.tuning, *compared.final], compared.notice
    else:
        with store.unchanged():
            records = store.runs(name, curves=True)
    if not records:
        raise UserError(f"{name!r} has no runs yet: try again in a moment")
    return StoredReport(runs_document(name, records, notice), None, is_comparison(spec))


def runs_document(name: str, records: Sequence[RunRecord], notice: str = "") -> Document:
    """The runs of an experiment, as a page: how far they are, and their curves.

    Args:
        name: of the experiment.
        records: its runs, with curves.
        notice: what is missing; by default how many runs are finished.
    """
    done = sum(run.status == FINISHED for run in records)
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    if not notice and done < len(records):
        notice = f"**Not finished**: {done} of the {len(records)} runs that were begun are finished, as of {now}."
    phases = list(dict.fromkeys(run.phase for run in records))
    phases.sort(key=lambda phase: any(run.phase == phase and run.status != FINISHED for run in records), reverse=True)
    blocks: list[Block] = [
        Text(f"{len(records)} runs in the record store, {done} of them finished. Losses are in nats/example."),
        _progress_table(records),
    ]
    for phase in phases:
        runs = [run for run in records if run.phase == phase and len(run.curves.get("step", ()))]
        if runs:
            blocks += [
                Heading(f"Curves of phase {phase}"),
                Figure("", f"Rates and validation losses of phase {phase}", chart=partial(_curves, runs)),
            ]
    planners = list(dict.fromkeys(run.planner for run in records))
    pages = tuple(
        planner_page(
            planner,
            {},
            records=[run for run in records if run.planner == planner and run.phase == "final"],
            tuning=[run for run in records if run.planner == planner and run.phase != "final"],
        )
        for planner in planners
    )
    return Document(f"{name}: runs so far" if done < len(records) else f"{name}: runs", tuple(blocks), pages, notice)


def _curves(runs: Sequence[RunRecord]) -> Chart:
    planners = list(dict.fromkeys(run.planner for run in runs))
    groups = [PlannerRuns(name, [run for run in runs if run.planner == name], at) for at, name in enumerate(planners)]
    alike = all(len({settings_key(run.settings) for run in of.runs}) == 1 for of in groups)
    return curves_chart(groups, medians=alike)


def _progress_table(records: Sequence[RunRecord]) -> Table[Any]:
    """How many runs of each phase and planner are finished, and the lowest mean loss of a setting so far."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in records:
        groups.setdefault((run.planner, run.phase), []).append(run)

    def count(test: str) -> Any:
        tests: Mapping[str, Any] = {
            "finished": lambda run: run.status == FINISHED,
            "running": lambda run: run.status != FINISHED,
            "diverged": lambda run: run.diverged,
        }
        return lambda row: sum(map(tests[test], row[1]))

    columns: list[Column[Any]] = [
        Column("planner", lambda row: row[0][0], words=True),
        Column("phase", lambda row: row[0][1], words=True),
        Column("settings", lambda row: len({settings_key(run.settings) for run in row[1]})),
        *(Column(name, count(name)) for name in ("finished", "running", "diverged")),
        Column(
            "lowest mean validation loss", lambda row: _lowest(row[1]), partial(number_text, decimals=4), absent="-"
        ),
    ]
    return Table(list(groups.items()), columns, link=lambda row: row[0][0])


def _lowest(runs: Sequence[RunRecord]) -> float | None:
    """The lowest mean loss of a setting whose runs are all whole."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        losses.setdefault(settings_key(run.settings), []).append(
            run.scores["final_val_loss"] if has_loss(run) else np.inf
        )
    with suppress(ValueError):
        return min(mean for of in losses.values() if np.isfinite(mean := float(np.mean(of))))
    return None

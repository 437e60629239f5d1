"""Standings over several comparisons as a document, and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.files import write_text
from lr_env.report.chart import Chart
from lr_env.report.document import (
    Code,
    Column,
    Document,
    Figure,
    Heading,
    Reported,
    Table,
    Text,
    in_files,
    plain_table,
)
from lr_env.report.files import write_csv
from lr_env.report.formatting import marked_planner, number_text, value_and_interval_text
from lr_env.report.written import write_report
from lr_env.stats import intervals as st
from lr_env.stats.ranks import LARGEST_RATIO
from lr_env.studies.across.standings import RANK_DECIMALS, Standing, Standings

_TUNING = "child steps spent on choosing the setting, and on training or fitting the planner before, in whole runs"
"""Legend of the tuning cost."""

_MEANINGS = {
    "planner": "who sets the learning rate",
    "mean rank": "mean over tasks of the rank by mean test loss, 1 is best; with a 95 % interval",
    "diverged": "runs ended by a loss that exploded or was not finite, of all final runs; each has an infinite loss",
    "score": "mean of the performance profile of child steps to target over ratios from 1 to "
    f"{LARGEST_RATIO:g}, 1 is best; with a 95 % interval",
    "steps [x]": "child steps that a run takes, with those of forks, over its own; mean over tasks",
    "tuning [runs]": f"{_TUNING}, over all tasks",
    "tuning runs": "runs that the settings were chosen from, over all tasks",
    "tuning steps": "child steps spent on choosing the settings and before, over all tasks",
}
"""Legend of the columns that are called the same for all comparisons."""


@dataclass(frozen=True)
class AcrossReport(Reported):
    """Standings as a document, and as files.

    Attributes:
        standings: over several comparisons.
        made: how they were made, of what JSON has; `command` is shown as a command.
    """

    standings: Standings
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title of the page and of the figure."""
        return f"{len(self.standings.rows)} planners over {len(self.standings.tasks)} tasks"

    def document(self) -> Document:
        """The report: in the terminal the table and the conclusion, in files all of it."""
        standings = self.standings
        table, conclusion = standings_table(standings), Text(standings.conclusion)
        notes = (*_left_out(standings), *_unreached(standings))
        details = in_files(
            Text(
                "Rows are sorted by mean rank, best first. In summary.csv is every digit, with mean test losses and "
                "median child steps to target for each task. How far apart planners are on a task is in the report of "
                "its comparison."
            ),
            Figure("across.png", "Mean ranks and performance profiles", self._draw, self._chart),
            Heading("Columns"),
            table.column_legend(),
            Heading("Tasks"),
            _tasks_table(standings),
            Text(
                "The target is in nats/example on the task's validation subset, which is measured at the end of every "
                "segment; the fastest planner has the lowest median over seeds of the child steps to it, with those of "
                "forks."
            ),
            Text(points=tuple(f"{note}." for note in notes)) if notes else Text("No planner was left out."),
            Heading("How it was made"),
            Code(self.made.get("command", "")),
            Text(
                f"Intervals are percentiles of {st.RESAMPLES} resamples: seeds are drawn within each task, the same "
                "for all planners. Ranks of resampled means lie nearer to the middle than those of means, so that the "
                "interval of the first planner is too high where others are close."
            ),
            Text(points=tuple(f"{c.name}: `{c.manifest.get('command', 'no command')}`" for c in standings.comparisons)),
        )
        printed_notes = [Text(points=notes, quiet=True, place="terminal")] if notes else []
        return Document(
            self.title,
            (
                replace(conclusion, place="files"),
                table,
                *printed_notes,
                *details,
                replace(conclusion, place="terminal"),
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """The comparisons and how they were made: the content of manifest.json."""
        standings = self.standings
        return {
            "title": self.title,
            **self.made,
            "planners": [row.planner for row in standings.rows],
            "intervals": {"level": st.LEVEL, "resamples": st.RESAMPLES, "seed": st.SEED},
            "comparisons": [
                {
                    "name": comparison.name,
                    "command": comparison.manifest.get("command"),
                    "runs_sha256": comparison.sha256,
                    "task": dict(comparison.task),
                    "seeds": list(comparison.seeds),
                    "target_val_loss": comparison.target_val_loss,
                    "target_from": comparison.target_from,
                    "left_out": list(left_out),
                }
                for comparison, left_out in zip(standings.comparisons, standings.left_out, strict=True)
            ],
        }

    def write(self, folder: Path) -> None:
        """Write manifest.json, summary.csv, summary.md, across.png and report.html.

        Every file is replaced as a whole or not at all, the page last: see `lr_env.report.written`. The same
        comparisons in the same order give the same files.
        """
        write_text(folder / "manifest.json", json.dumps(self.to_json(), indent=2) + "\n")
        write_csv(standings_table(self.standings), folder / "summary.csv")
        write_report(self.document(), folder)

    def _chart(self) -> Chart:
        from lr_env.studies.across.chart import standings_chart

        return standings_chart(self.standings)

    def _draw(self, path: Path) -> None:
        from lr_env.studies.across.figure import draw_standings  # here, where a broken matplotlib costs no table

        draw_standings(self.standings, path, self.title)


def standings_table(standings: Standings) -> Table[Standing]:
    """One row a planner, the lowest mean rank first."""
    rows, first, reference, tasks = standings.rows, standings.rows[0].planner, standings.reference, standings.tasks
    diverged, forks = any(r.diverged for r in rows), any(r.steps_ratio != 1 for r in rows)
    rank, share = partial(value_and_interval_text, decimals=RANK_DECIMALS), partial(value_and_interval_text, decimals=2)
    columns: list[Column[Standing]] = [
        Column("planner", lambda r: r.planner, rank=0, short=marked_planner, csv="planner", words=True),
        Column("mean rank", lambda r: r.mean_rank, rank, 0, csv="mean_rank", interval=True),
        Column("first", lambda r: first, None, csv="first"),
        Column(
            f"vs {first}",
            lambda r: r.to_first,
            lambda v: f"{rank(v.difference, sign=True)} {v.verdict}",
            0,
            _short_versus,
            csv="mean_rank_less_first",
            absent="(reference)",
            interval=True,
        ),
        Column("verdict", lambda r: r.to_first and r.to_first.verdict, None, csv="verdict_to_first"),
        *(Column(task, lambda r, at=at: r.ranks[at], "{:g}".format, 3 + at) for at, task in enumerate(tasks)),
        Column("n", lambda r: r.runs, None, csv="n"),
        Column("diverged", lambda r: f"{r.diverged}/{r.runs}", str if diverged else None, unlisted=True),
        Column("diverged", lambda r: r.diverged, None, csv="diverged"),
        Column("reference", lambda r: reference, None, csv="reference"),
        Column(
            "P(better)",
            lambda r: r.improvement,
            share if reference else None,
            50,
            lambda r: "" if r.improvement is None else number_text(r.improvement.value, 2),
            csv="improvement",
            interval=True,
        ),
        Column(
            "score", lambda r: r.score, share, 2, lambda r: number_text(r.score.value, 2), csv="score", interval=True
        ),
        Column("steps [x]", lambda r: r.steps_ratio, "{:.3g}".format if forks else None, 0, csv="steps_ratio"),
        Column("tuning [runs]", lambda r: r.tuning_cost, "{:.0f}".format, 1, head="tuning\n[runs]"),
        Column("tuning runs", lambda r: r.tuning_runs, rank=51, csv="tuning_runs"),
        Column("tuning steps", lambda r: r.tuning_steps, rank=52, csv="tuning_steps"),
    ]
    for at, task in enumerate(tasks):
        columns.append(Column("rank", lambda r, at=at: r.ranks[at], None, csv=f"rank_{task}"))
        columns.append(Column("test loss", lambda r, at=at: r.test_losses[at], None, csv=f"test_loss_{task}"))
        columns.append(Column("to target", lambda r, at=at: r.costs[at], None, csv=f"steps_to_target_{task}"))
    meanings = _MEANINGS | {
        f"vs {first}": "paired difference in mean rank to the first planner, with a 95 % interval; not told apart "
        "where that contains 0",
        "P(better)": f"mean over tasks of the chance that a run has a lower test loss than a run of {reference}, with "
        "a 95 % interval",
        **{task: f"rank on {task}; planners with equal means share the mean of their ranks" for task in tasks},
    }
    note = (
        f"under a task: rank by mean test loss; {'div.: runs that diverged; ' if diverged else ''}unclear: not "
        "told apart, for the interval contains 0; []: 95 % interval"
    )
    return Table(rows, columns, meanings, note, {"tuning [runs]": f"tuning: {_TUNING}"})


def _short_versus(row: Standing) -> str:
    versus = row.to_first
    if versus is None:
        return "(reference)"
    return f"{number_text(versus.difference.value, RANK_DECIMALS, sign=True)} {versus.short}"


def _left_out(standings: Standings) -> list[str]:
    """One line for each comparison with planners that are not ranked."""
    return [
        f"Left out of {comparison.name}: {', '.join(names)}"
        for comparison, names in zip(standings.comparisons, standings.left_out, strict=True)
        if names
    ]


def _unreached(standings: Standings) -> list[str]:
    """One line for each task whose target is reached too seldom to count."""
    return [
        f"On {task} no planner reaches the target in more than half of its runs: it adds 0 to every score"
        for at, task in enumerate(standings.tasks)
        if all(np.isinf(row.costs[at]) for row in standings.rows)
    ]


def _tasks_table(standings: Standings) -> Table[Any]:
    """One row a task: where its runs come from, and its target."""
    rows = []
    for at, (task, comparison) in enumerate(zip(standings.tasks, standings.comparisons, strict=True)):
        fastest = min(standings.rows, key=lambda row: row.costs[at])
        steps = fastest.costs[at]
        rows.append(
            (
                task,
                comparison.name,
                str(len(comparison.seeds)),
                str(comparison.task["budget"]),
                f"{comparison.target_val_loss:g} ({comparison.target_from})",
                f"{fastest.planner}, {steps:g} steps" if np.isfinite(steps) else "none",
            )
        )
    head = ("task", "comparison", "seeds", "budget", "target validation loss", "fastest")
    return plain_table(head, rows, words=len(head))

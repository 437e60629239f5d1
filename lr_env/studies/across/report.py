"""Standings over several comparisons as a document, and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.files import write_text
from lr_env.report.csv import csv_text
from lr_env.report.document import (
    Code,
    Column,
    Document,
    Figure,
    Heading,
    Table,
    Text,
    estimate_csv,
    in_files,
    plain_table,
)
from lr_env.report.files import draw_into
from lr_env.report.formatting import interval_text, number_text
from lr_env.report.markdown import write_markdown
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate
from lr_env.stats.ranks import LARGEST_RATIO
from lr_env.studies.across.standings import RANK_DECIMALS, Standings

_TUNING = "child steps spent on choosing the setting, and on training or fitting the planner before, in whole runs"
"""Legend of the tuning cost."""


@dataclass(frozen=True)
class AcrossReport:
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
            Figure("across.png", "Mean ranks and performance profiles"),
            Heading("Columns"),
            table.legend(),
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
        """Write manifest.json, summary.csv, summary.md and across.png.

        Every file is replaced as a whole or not at all, the figure last: see `lr_env.report.files`. The same
        comparisons in the same order give the same files.
        """
        write_text(folder / "manifest.json", json.dumps(self.to_json(), indent=2) + "\n")
        write_text(folder / "summary.csv", csv_text(standings_table(self.standings)))
        write_markdown(self.document(), folder / "summary.md")
        draw_into(folder / "across.png", self._draw)

    def _draw(self, path: Path) -> None:
        from lr_env.studies.across.figure import draw_standings  # here, where a broken matplotlib costs no table

        draw_standings(self.standings, path, self.title)


def standings_table(standings: Standings) -> Table:
    """One row a planner, the lowest mean rank first."""
    rows = standings.rows
    some_diverged = any(r.diverged for r in rows)
    planners = [r.planner for r in rows]
    marked = [f"{r.planner} ({r.diverged} div.)" if r.diverged else r.planner for r in rows]
    columns = [
        Column("planner", "who sets the learning rate", planners, 0, marked, csv={"planner": planners}, words=True),
        Column(
            "mean rank",
            "mean over tasks of the rank by mean test loss, 1 is best; with a 95 % interval",
            [_estimate_text(r.mean_rank, RANK_DECIMALS) for r in rows],
            0,
            csv=estimate_csv("mean_rank", [r.mean_rank for r in rows]),
        ),
        _versus_column(standings),
        *(
            Column(
                task,
                f"rank on {task}; planners with equal means share the mean of their ranks",
                [f"{r.ranks[at]:g}" for r in rows],
                3 + at,
            )
            for at, task in enumerate(standings.tasks)
        ),
        Column(
            "diverged",
            "runs ended by a loss that exploded or was not finite, of all final runs; each has an infinite loss",
            [f"{r.diverged}/{r.runs}" for r in rows] if some_diverged else None,
            csv={"n": [r.runs for r in rows], "diverged": [r.diverged for r in rows]},
            unlisted=True,
        ),
        *_statistics_columns(standings),
        *_cost_columns(standings),
        *(
            Column(
                task,
                csv={
                    f"rank_{task}": [r.ranks[at] for r in rows],
                    f"test_loss_{task}": [r.test_losses[at] for r in rows],
                    f"steps_to_target_{task}": [r.costs[at] for r in rows],
                },
            )
            for at, task in enumerate(standings.tasks)
        ),
    ]
    diverged = "div.: runs that diverged; " if some_diverged else ""
    return Table(
        columns,
        f"under a task: rank by mean test loss; {diverged}tie: not told apart, for the interval contains 0; []: 95 % "
        "interval",
    )


def _versus_column(standings: Standings) -> Column:
    """Differences to the first planner with their verdicts; the terminal leaves their intervals out."""
    first = standings.rows[0].planner
    versus = [row.to_first for row in standings.rows]
    cells, short = ["(reference)"], ["(reference)"]
    for one in filter(None, versus):
        text = _estimate_text(one.difference, RANK_DECIMALS, sign=True)
        cells.append(f"{text} {one.verdict}")
        short.append(f"{text.split(' ')[0]} {one.verdict}")
    return Column(
        f"vs {first}",
        "paired difference in mean rank to the first planner, with a 95 % interval; a tie where it contains 0: not "
        "told apart",
        cells,
        0,
        short,
        csv={
            "first": [first] * len(versus),
            **estimate_csv("mean_rank_less_first", [None if v is None else v.difference for v in versus]),
            "verdict_to_first": ["" if v is None else v.verdict for v in versus],
        },
    )


def _statistics_columns(standings: Standings) -> list[Column]:
    rows, reference = standings.rows, standings.reference
    improvements = [r.improvement for r in rows]
    chances = ["" if e is None else _estimate_text(e, 2) for e in improvements]
    scores = [_estimate_text(r.score, 2) for r in rows]
    return [
        Column(
            "P(better)",
            f"mean over tasks of the chance that a run has a lower test loss than a run of {reference}, with a 95 % "
            "interval",
            None if reference is None else chances,
            50,
            [cell.split(" ")[0] for cell in chances],
            csv={"reference": [reference or ""] * len(rows), **estimate_csv("improvement", improvements)},
        ),
        Column(
            "score",
            "mean of the performance profile of child steps to target over ratios from 1 to "
            f"{LARGEST_RATIO:g}, 1 is best; with a 95 % interval",
            scores,
            2,
            [cell.split(" ")[0] for cell in scores],
            csv=estimate_csv("score", [r.score for r in rows]),
        ),
    ]


def _cost_columns(standings: Standings) -> list[Column]:
    rows = standings.rows
    ratios = [r.steps_ratio for r in rows]
    return [
        Column(
            "steps [x]",
            "child steps that a run takes, with those of forks, over its own; mean over tasks",
            [f"{ratio:.3g}" for ratio in ratios] if any(ratio != 1 for ratio in ratios) else None,
            0,
            csv={"steps_ratio": ratios},
        ),
        Column(
            "tuning [runs]",
            f"{_TUNING}, over all tasks",
            [f"{r.tuning_cost:.0f}" for r in rows],
            1,
            head="tuning\n[runs]",
            note=f"tuning: {_TUNING}",
        ),
        Column(
            "tuning runs",
            "runs that the settings were chosen from, over all tasks",
            [str(r.tuning_runs) for r in rows],
            51,
            csv={"tuning_runs": [r.tuning_runs for r in rows]},
        ),
        Column(
            "tuning steps",
            "child steps spent on choosing the settings and before, over all tasks",
            [str(r.tuning_steps) for r in rows],
            52,
            csv={"tuning_steps": [r.tuning_steps for r in rows]},
        ),
    ]


def _estimate_text(estimate: Estimate, decimals: int, sign: bool = False) -> str:
    return f"{number_text(estimate.value, decimals, sign)} {interval_text(estimate, decimals)}"


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


def _tasks_table(standings: Standings) -> Table:
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

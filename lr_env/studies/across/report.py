"""Several comparisons put together, as files and as a table in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lr_env.files import write_text
from lr_env.report.csv import csv_text, ends
from lr_env.report.files import draw_into
from lr_env.report.formatting import interval_text, number_text
from lr_env.report.tables import Column, columns_grid, grid, meanings, print_columns
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate
from lr_env.stats.ranks import LARGEST_RATIO
from lr_env.studies.across.standings import RANK_DECIMALS, Standing, Standings
from lr_env.terminal import paragraph

_TUNING = "child steps spent on choosing the setting, and on training or fitting the planner before, in whole runs"
"""What the column of the tuning's cost means."""


def write_standings(folder: Path, standings: Standings, made: Mapping[str, Any]) -> None:
    """Write summary.md, summary.csv, across.png and manifest.json.

    Every file is replaced as a whole or not at all, the figure last: see `lr_env.report.files`. The same comparisons in
    the same order give the same files.

    Args:
        folder: where to.
        standings: of several comparisons.
        made: how they were put together, of what JSON has.
    """
    title = f"{len(standings.rows)} planners over {len(standings.tasks)} tasks"
    write_text(folder / "manifest.json", json.dumps(_manifest(standings, title, made), indent=2) + "\n")
    write_text(folder / "summary.csv", _csv(standings))
    write_text(folder / "summary.md", _markdown(standings, title, made))

    def draw(path: Path) -> None:
        from lr_env.studies.across.figure import draw_standings  # where a broken matplotlib costs no table

        draw_standings(standings, path, title)

    draw_into(folder / "across.png", draw)


def print_standings(standings: Standings, console: Console) -> None:
    """Print the conclusion under the table, of which the console's width shows as many columns as fit."""
    missing = [name for name in print_columns(_columns(standings), console) if name != "diverged"]
    diverged = "div.: runs that diverged; " if any(row.diverged for row in standings.rows) else ""
    tuned = "" if "tuning [runs]" in missing else f"tuning: {_TUNING}; "
    notes = (
        f"under a task: rank by mean test loss; {diverged}{tuned}tie: not told apart, for the interval contains 0; "
        "[]: 95 % interval"
    )
    if missing:
        notes += f"; only in the files: {', '.join(missing)}"
    for line in (notes, *_left_out(standings), *_unreached(standings)):
        paragraph(console, line, "dim")
    paragraph(console, standings.conclusion)


def _columns(standings: Standings) -> list[Column]:
    rows = standings.rows
    columns = [
        Column("planner", "who sets the learning rate", [r.planner for r in rows], 0, [_marked(r) for r in rows]),
        Column(
            "mean rank",
            "mean over tasks of the rank by mean test loss, 1 is best; with a 95 % interval",
            [_estimate(r.mean_rank, RANK_DECIMALS) for r in rows],
            0,
        ),
        _versus(standings),
    ]
    for at, task in enumerate(standings.tasks):
        meaning = f"rank on {task}; planners with equal means share the mean of their ranks"
        columns.append(Column(task, meaning, [f"{r.ranks[at]:g}" for r in rows], 3 + at))
    if any(r.diverged for r in rows):
        meaning = "runs ended by a loss that exploded or was not finite, of all final runs; each has an infinite loss"
        columns.append(Column("diverged", meaning, [f"{r.diverged}/{r.runs}" for r in rows]))
    if standings.reference is not None:
        meaning = (
            f"mean over tasks of the chance that a run has a lower test loss than a run of {standings.reference}, with "
            "a 95 % interval"
        )
        cells = ["" if r.improvement is None else _estimate(r.improvement, 2) for r in rows]
        columns.append(Column("P(better)", meaning, cells, 50, [cell.split(" ")[0] for cell in cells]))
    meaning = (
        "mean of the performance profile of child steps to target over ratios from 1 to "
        f"{LARGEST_RATIO:g}, 1 is best; with a 95 % interval"
    )
    cells = [_estimate(r.score, 2) for r in rows]
    columns.append(Column("score", meaning, cells, 2, [cell.split(" ")[0] for cell in cells]))
    if any(r.steps_ratio != 1 for r in rows):
        meaning = "child steps that a run takes, with those of forks, over its own; mean over tasks"
        columns.append(Column("steps [x]", meaning, [f"{r.steps_ratio:.3g}" for r in rows], 0))
    cost = [f"{r.tuning_cost:.0f}" for r in rows]
    columns.append(Column("tuning [runs]", f"{_TUNING}, over all tasks", cost, 1, head="tuning\n[runs]"))
    meaning = "runs that the settings were chosen from, over all tasks"
    columns.append(Column("tuning runs", meaning, [str(r.tuning_runs) for r in rows], 51))
    meaning = "child steps spent on choosing the settings and before, over all tasks"
    columns.append(Column("tuning steps", meaning, [str(r.tuning_steps) for r in rows], 52))
    return columns


def _versus(standings: Standings) -> Column:
    """Differences to the first planner with their verdicts; the terminal leaves their intervals out."""
    cells, short = [], []
    for row in standings.rows:
        if row.to_first is None:
            cells.append("(reference)")
            short.append("(reference)")
        else:
            text = _estimate(row.to_first.difference, RANK_DECIMALS, sign=True)
            cells.append(f"{text} {row.to_first.verdict}")
            short.append(f"{text.split(' ')[0]} {row.to_first.verdict}")
    meaning = (
        "paired difference in mean rank to the first planner, with a 95 % interval; a tie where it contains 0: not "
        "told apart"
    )
    return Column(f"vs {standings.rows[0].planner}", meaning, cells, 0, short)


def _estimate(estimate: Estimate, decimals: int, sign: bool = False) -> str:
    return f"{number_text(estimate.value, decimals, sign)} {interval_text(estimate, decimals)}"


def _marked(row: Standing) -> str:
    return f"{row.planner} ({row.diverged} div.)" if row.diverged else row.planner


def _left_out(standings: Standings) -> list[str]:
    """One line for each comparison of which planners were left out."""
    return [
        f"Left out of {comparison.name}: {', '.join(names)}"
        for comparison, names in zip(standings.comparisons, standings.left_out, strict=True)
        if names
    ]


def _unreached(standings: Standings) -> list[str]:
    """One line for each task that says nothing of how soon its target is reached."""
    return [
        f"On {task} no planner reaches the target in more than half of its runs: it adds 0 to every score"
        for at, task in enumerate(standings.tasks)
        if all(np.isinf(row.costs[at]) for row in standings.rows)
    ]


def _tasks(standings: Standings) -> list[tuple[str, ...]]:
    """One line a task: where its runs come from, and what its target is."""
    lines = []
    for at, (task, comparison) in enumerate(zip(standings.tasks, standings.comparisons, strict=True)):
        fastest = min(standings.rows, key=lambda row: row.costs[at])
        steps = fastest.costs[at]
        lines.append(
            (
                task,
                comparison.name,
                str(len(comparison.seeds)),
                str(comparison.task["budget"]),
                f"{comparison.target_val_loss:g} ({comparison.target_from})",
                f"{fastest.planner}, {steps:g} steps" if np.isfinite(steps) else "none",
            )
        )
    return lines


def _markdown(standings: Standings, title: str, made: Mapping[str, Any]) -> str:
    columns = _columns(standings)
    notes = [*_left_out(standings), *_unreached(standings)]
    parts = [
        f"# {title}",
        standings.conclusion,
        columns_grid(columns),
        "Rows are sorted by mean rank, best first. In summary.csv is every digit, with mean test losses and median "
        "child steps to target for each task. How far apart planners are on a task is in the report of its comparison.",
        "![Mean ranks and performance profiles](across.png)",
        "## Columns",
        meanings(columns),
        "## Tasks",
        grid(("task", "comparison", "seeds", "budget", "target validation loss", "fastest"), _tasks(standings)),
        "The target is in nats/example on the task's validation subset, which is measured at the end of every segment; "
        "the fastest planner has the lowest median over seeds of the child steps to it, with those of forks.",
        "\n".join(f"- {line}." for line in notes) or "No planner was left out.",
        "## How it was made",
        f"```sh\n{made['command']}\n```",
        f"Intervals are percentiles of {st.RESAMPLES} resamples: seeds are drawn within each task, the same for all "
        "planners. Ranks of resampled means lie nearer to the middle than those of means, so that the interval of the "
        "first planner is too high where others are close.",
        "\n".join(f"- {c.name}: `{c.manifest.get('command', 'no command')}`" for c in standings.comparisons),
    ]
    return "\n\n".join(parts) + "\n"


def _csv(standings: Standings) -> str:
    rows = []
    for row in standings.rows:
        cells: dict[str, Any] = {"planner": row.planner, **ends("mean_rank", row.mean_rank)}
        cells["first"] = standings.rows[0].planner
        cells |= ends("mean_rank_less_first", None if row.to_first is None else row.to_first.difference)
        cells["verdict_to_first"] = "" if row.to_first is None else row.to_first.verdict
        cells |= {"n": row.runs, "diverged": row.diverged, "reference": standings.reference or ""}
        cells |= ends("improvement", row.improvement) | ends("score", row.score)
        cells |= {"steps_ratio": row.steps_ratio, "tuning_runs": row.tuning_runs, "tuning_steps": row.tuning_steps}
        for at, task in enumerate(standings.tasks):
            cells |= {f"rank_{task}": row.ranks[at], f"test_loss_{task}": row.test_losses[at]}
            cells[f"steps_to_target_{task}"] = row.costs[at]
        rows.append(cells)
    return csv_text(rows)


def _manifest(standings: Standings, title: str, made: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        **made,
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

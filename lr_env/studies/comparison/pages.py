"""The page of a planner in a comparison: its setting, its sweep, and its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lr_env.records.record import RunRecord, settings_key
from lr_env.report.blocks import Block, Column, Figure, Heading, Table, Text
from lr_env.report.chart import Chart
from lr_env.report.curve_chart import PlannerRuns, curves_chart
from lr_env.report.document import Page, plain_table
from lr_env.report.formatting import number_text, setting_text
from lr_env.studies.comparison.charts import has_loss, sweep_chart, varied_settings

LOSS_DECIMALS = 4


def planner_page(
    planner: str,
    settings: Mapping[str, Any],
    *,
    scores: Table[Any] | None = None,
    records: Sequence[RunRecord] = (),
    tuning: Sequence[RunRecord] = (),
    baseline: Mapping[int, float] | None = None,
    shared: str = "",
    beliefs: Callable[[], Sequence[Block]] = tuple,
) -> Page:
    """The page of a planner.

    Args:
        planner: its name.
        settings: the setting that it ran with; empty where it is not chosen yet.
        scores: its row of the table of the comparison.
        records: its final runs, with curves.
        tuning: the runs of its sweep.
        baseline: seed -> test loss of the best baseline; None for the baseline itself.
        shared: name of the planner whose setting it took over, as a control does.
        beliefs: makes the part on what it believed in a run.
    """

    def blocks() -> Sequence[Block]:
        parts: list[Block] = [Text(f"`lr-env planners {planner}` says what it does.")]
        if settings:
            rows = [(name, setting_text({name: value}).partition("=")[2]) for name, value in settings.items()]
            parts += [Heading("Setting"), plain_table(("setting", "value"), rows, words=1)]
        if shared:
            parts.append(Text(f"It ran with the setting of {shared}, of which it is a control."))
        if scores is not None:
            parts += [Heading("Result"), scores]
        if any(len(run.curves.get("step", ())) for run in records):
            parts += [Heading("Runs"), Figure("", "Its final runs", chart=lambda: _own_curves(planner, records))]
        if records:
            parts.append(runs_table(records, baseline))
        if tuning:
            parts += [
                Heading("Tuning"),
                Text(_tuning_text(tuning)),
                Figure("", "The settings that were tried", chart=lambda: sweep_chart(tuning, settings)),
                tried_table(tuning, settings),
            ]
        return [*parts, *beliefs()]

    return Page(planner, blocks)


def _own_curves(planner: str, records: Sequence[RunRecord]) -> Chart:
    return curves_chart([PlannerRuns(planner, records)])


def _tuning_text(tuning: Sequence[RunRecord]) -> str:
    counts = {
        "diverged": sum(run.diverged for run in tuning),
        "ended early by a rule": sum(run.pruned for run in tuning),
        "not finished": sum(run.status != "finished" for run in tuning),
    }
    told = "".join(f"; {count} {what}" for what, count in counts.items() if count)
    settings, seeds = {settings_key(run.settings) for run in tuning}, {run.seed for run in tuning}
    return f"{len(tuning)} runs: {len(settings)} settings, up to {len(seeds)} seeds each{told}."


def runs_table(records: Sequence[RunRecord], baseline: Mapping[int, float] | None) -> Table[RunRecord]:
    """Runs of one planner, a row each."""
    score = partial(number_text, decimals=LOSS_DECIMALS)

    def of(name: str, scale: float = 1.0):
        return lambda run: run.scores[name] * scale if name in run.scores else None

    def gap(run: RunRecord) -> float | None:
        if baseline is None or run.seed not in baseline or "test_loss" not in run.scores:
            return None
        return (np.inf if run.diverged else run.scores["test_loss"]) - baseline[run.seed]

    columns: list[Column[RunRecord]] = [
        Column("seed", lambda run: run.seed),
        Column("status", status_text, words=True),
        Column("steps", lambda run: last_step(run), "{:,}".format),
        Column("validation loss", of("final_val_loss"), score, absent="-"),
        Column("test loss", of("test_loss"), score, absent="-"),
        Column("less the baseline's", gap, partial(number_text, decimals=LOSS_DECIMALS, sign=True), absent="-"),
        Column("test accuracy [%]", of("test_accuracy", 100), "{:.2f}".format, absent="-"),
        Column("planning [s]", lambda run: run.planning_seconds, "{:.2g}".format),
    ]
    return Table(sorted(records, key=lambda run: run.seed), columns)


def tried_table(tuning: Sequence[RunRecord], chosen: Mapping[str, Any]) -> Table[Any]:
    """The settings that were tried, a row each, the lowest mean loss first; a column for each seed."""
    groups: dict[str, list[RunRecord]] = {}
    for run in tuning:
        groups.setdefault(settings_key(run.settings), []).append(run)
    seeds = sorted({run.seed for run in tuning})

    def mean(runs: Sequence[RunRecord]) -> float | None:
        return float(np.mean([run.scores["final_val_loss"] for run in runs])) if all(map(has_loss, runs)) else None

    means = {setting: mean(runs) for setting, runs in groups.items()}
    rows = [groups[setting] for setting in sorted(groups, key=lambda setting: means[setting] or np.inf)]
    varied = varied_settings([runs[0].settings for runs in rows])
    key, score = settings_key(chosen), partial(number_text, decimals=LOSS_DECIMALS)

    def on(seed: int):
        def cell(runs: Sequence[RunRecord]) -> float | str | None:
            run = next((run for run in runs if run.seed == seed), None)
            return None if run is None else run.scores["final_val_loss"] if has_loss(run) else status_text(run)

        return cell

    columns: list[Column[Sequence[RunRecord]]] = [
        Column("setting", lambda runs: setting_text({n: runs[0].settings.get(n) for n in varied}), words=True),
        Column("choice", lambda runs: "chosen" if settings_key(runs[0].settings) == key else "", words=True),
        Column("mean validation loss", mean, score, absent="-"),
        *(
            Column(
                f"seed {seed}", on(seed), lambda value: value if isinstance(value, str) else score(value), absent="-"
            )
            for seed in seeds
        ),
    ]
    return Table(rows, columns)


def status_text(run: RunRecord) -> str:
    """How a run ended, or that it has not."""
    if run.status != "finished":
        return "running"
    return "diverged" if run.diverged else "ended early" if run.pruned else "finished"


def last_step(run: RunRecord) -> int:
    """The optimizer steps of a run so far."""
    steps = run.curves.get("step")
    return run.steps or (int(steps[-1]) if steps is not None and len(steps) else 0)

"""The table of a comparison, for the terminal, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np

from lr_env.objectives import VAL_LOSS
from lr_env.records.record import settings_key
from lr_env.report.document import Column, Table
from lr_env.report.formatting import (
    decimals_of,
    estimate_text,
    marked_planner,
    number_text,
    seeds_text,
    short_versus_text,
    value_and_interval_text,
    versus_text,
)
from lr_env.stats.intervals import Estimate
from lr_env.studies.comparison.spent import SPENT_MEANING
from lr_env.studies.comparison.summary import Row, Summary

LONGEST_SETTING = 26
"""Characters of a setting in the terminal; the files have all of it."""

_IQM = "its interquartile mean, of the runs without the best and the worst quarter"
_HESSIAN = (
    "of the training loss's Hessian at the end of a run, lower is flatter; mean over the runs that did not diverge"
)
_MEANINGS = {
    "planner": "who sets the learning rate",
    "setting": "chosen on validation data, see Tuning",
    "n": "runs, one a seed, the same seeds for every planner",
    "diverged": "runs ended by a loss that exploded or was not finite; they count with an infinite loss",
    "val loss": "mean loss on the whole validation split",
    "val loss IQM": _IQM,
    "val accuracy [%]": "mean val accuracy",
    "val accuracy IQM [%]": _IQM,
    "test loss": "mean test loss",
    "test loss IQM": _IQM,
    "test accuracy [%]": "mean test accuracy",
    "test accuracy IQM [%]": _IQM,
    "Hessian max": f"largest eigenvalue {_HESSIAN}",
    "Hessian trace": f"trace {_HESSIAN}",
    "tuning runs": SPENT_MEANING,
    "tuning steps": "child steps spent on choosing the setting, and on training or fitting the planner before",
    "extra steps": "child steps a run took beyond its budget, e.g. in forks",
    "planning [s]": "wall time in the planner, mean of a run",
}
"""Legend of the columns that are called the same in every comparison."""


def comparison_table(summary: Summary) -> Table[Row]:
    """One row a planner, the lowest mean test loss first."""
    rows, reference, baseline, target = summary.rows, summary.reference, summary.baseline, summary.target_val_loss
    diverged, forks, tuned = (
        any(values) for values in zip(*((r.diverged, r.extra_steps, r.spent) for r in rows), strict=True)
    )
    targeted, judged = target is not None, summary.objective.reported_as
    chance = partial(value_and_interval_text, decimals=2)
    columns: list[Column[Row]] = [
        Column("planner", lambda r: r.planner, rank=0, short=marked_planner, csv="planner", words=True),
        Column("setting", lambda r: r.setting, rank=3, short=_short_setting, csv="setting", words=True),
        Column("settings", lambda r: settings_key(r.settings), None, csv="settings"),
        Column("n", lambda r: r.n, csv="n", unlisted=True),
        Column("diverged", lambda r: r.diverged, str if diverged else None, csv="diverged", unlisted=True),
        *_score_columns(rows, "val", loss_rank=8, accuracy_rank=None),
        *_score_columns(rows, "test", loss_rank=0, accuracy_rank=4),
        *_reported_columns(summary),
        *_versus_columns(summary, "reference", reference, 2, shown=reference not in (None, baseline)),
        *_versus_columns(summary, "baseline", baseline, 0),
        Column("p (Holm)", _p_value, partial(number_text, decimals=3), 6, csv="p_holm_to_baseline"),
        *_versus_columns(summary, "best", rows[0].planner, None, shown=False),
        Column("P(better)", lambda r: r.improvement, chance, 7, _short_chance, csv="improvement", interval=True),
        *_hessian_columns(rows),
        Column("to target", lambda r: r.steps_to_target, _reached if targeted else None, 5, csv="steps_to_target"),
        Column("tuning runs", lambda r: r.spent, str if tuned else None, 1, head="tuning\nruns"),
        Column("tuning steps", lambda r: r.tuning_steps, rank=10, csv="tuning_steps"),
        Column("extra steps", lambda r: r.extra_steps, "{:.0f}".format if forks else None, 0, csv="extra_steps"),
        Column("planning [s]", lambda r: r.planning_seconds, "{:.2g}".format, 11, csv="planning_seconds"),
    ]
    meanings = _MEANINGS | {
        judged: f"mean {judged}",
        f"vs {reference}": f"paired difference in {judged} to the best constant rate; negative is better",
        f"vs {baseline}": f"paired difference in {judged} to the best baseline, the planner with the lowest mean "
        f"{summary.objective.selected_by} of those that take no steps beyond their budget and had no more runs "
        "before; not told apart where the interval contains 0, up to its end that is farther from 0",
        "p (Holm)": "two-sided p-value of the difference to the best baseline, adjusted for their number (Holm)",
        "P(better)": f"chance that a run has a lower {judged} than a run of {baseline}, with a 95 % interval",
        "to target": f"median optimizer steps of a run to a validation loss of {target or 0:g} nats/example",
    }
    note = (
        f"{seeds_text(len(summary.seeds))}; losses in nats/example; ± is half of a 95 % interval; unclear: not told "
        f"apart, for the interval contains 0{'; div.: runs that diverged' if diverged else ''}"
        f"{f'; equivalent: below the margin of {summary.margin:g}' if summary.margin else ''}"
    )
    return Table(rows, columns, meanings, note, {"tuning runs": f"tuning runs: {SPENT_MEANING}"})


def _score_columns(rows: Sequence[Row], split: str, *, loss_rank: int, accuracy_rank: int | None) -> list[Column[Row]]:
    """Means and interquartile means of loss and accuracy; a task may have no accuracy, which leaves CSV cells empty."""
    loss, accuracy, accuracy_iqm = (attrgetter(f"{split}_{name}") for name in ("loss", "accuracy", "accuracy_iqm"))
    decimals = decimals_of(r.test_loss for r in rows)
    mean = partial(estimate_text, decimals=decimals_of(map(accuracy, rows), 100), scale=100)

    def value(estimate: Estimate) -> str:
        return mean(estimate).split()[0]

    columns: list[Column[Row]] = [
        Column(f"{split} loss", loss, partial(estimate_text, decimals=decimals), loss_rank),
        Column(f"{split} loss IQM", attrgetter(f"{split}_loss_iqm"), lambda e: number_text(e.value, decimals)),
        Column(f"{split} accuracy [%]", accuracy, mean, accuracy_rank, lambda r: value(accuracy(r))),
        Column(f"{split} accuracy IQM [%]", accuracy_iqm, value),
    ]
    names = (f"{split}_loss", f"{split}_loss_iqm", f"{split}_accuracy", f"{split}_accuracy_iqm")
    columns = [replace(column, csv=name, interval=True) for column, name in zip(columns, names, strict=True)]
    if accuracy(rows[0]) is None:
        columns[2:] = [replace(column, text=None) for column in columns[2:]]
    return columns


def _reported_columns(summary: Summary) -> list[Column[Row]]:
    """What planners are judged by, unless it is the test loss, which is there anyway."""
    if summary.objective == VAL_LOSS:
        return []
    name = summary.objective.reported_as
    text = partial(estimate_text, decimals=decimals_of(row.judged for row in summary.rows))
    return [Column(name, lambda row: row.judged, text, 0, csv=name.replace(" ", "_"), interval=True)]


def _versus_columns(
    summary: Summary, kind: str, other: str | None, rank: int | None, *, shown: bool = True
) -> list[Column[Row]]:
    """Differences to another planner and their verdicts; only the CSV file names that planner in a column."""
    versus, rows = attrgetter(f"to_{kind}"), summary.rows
    decimals = decimals_of(v and v.difference for v in map(versus, rows))
    text = partial(versus_text, decimals=decimals)
    differences = f"{summary.objective.reported_as.replace(' ', '_')}_less_{kind}"
    return [
        Column(kind, lambda r: other, None, csv=kind),
        Column(
            f"vs {other}",
            versus,
            text if shown else None,
            rank,
            lambda r: short_versus_text(versus(r), decimals),
            csv=differences,
            absent="(reference)",
            interval=True,
        ),
        Column("verdict", lambda r: versus(r) and versus(r).verdict, None, csv=f"verdict_to_{kind}"),
    ]


def _hessian_columns(rows: Sequence[Row]) -> list[Column[Row]]:
    """Columns of what was measured only on demand; none where it was not."""
    if all(row.hessian_max is None and row.hessian_trace is None for row in rows):
        return []
    columns = []
    for name, rank in (("max", 12), ("trace", 13)):
        value = attrgetter(f"hessian_{name}")
        text = partial(estimate_text, decimals=decimals_of(map(value, rows)))
        columns.append(
            Column(f"Hessian {name}", value, text, rank, csv=f"hessian_{name}", absent="not measured", interval=True)
        )
    return columns


def _p_value(row: Row) -> float | None:
    p_value = np.nan if row.to_baseline is None else row.to_baseline.p_value
    return None if np.isnan(p_value) else p_value


def _short_setting(row: Row) -> str:
    setting = row.setting
    return setting if len(setting) <= LONGEST_SETTING else f"{setting[: LONGEST_SETTING - 3]}..."


def _reached(steps: float) -> str:
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def _short_chance(row: Row) -> str:
    return "" if row.improvement is None else number_text(row.improvement.value, 2)

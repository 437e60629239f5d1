"""The columns of a comparison's table, for the terminal, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lr_env.records.record import settings_key
from lr_env.report.document import Column, Table, Value, estimate_csv
from lr_env.report.formatting import decimals_of, estimate_text, interval_text, number_text, seeds_text
from lr_env.stats.intervals import Estimate, Versus
from lr_env.studies.comparison.spent import SPENT_MEANING
from lr_env.studies.comparison.summary import Row, Summary

LONGEST_SETTING = 26
"""Characters of a setting in the terminal; the files have all of it."""


BASELINE_MEANING = (
    "paired difference in test loss to the best baseline, the planner with the lowest mean final validation loss of "
    "those that take no steps beyond their budget; a tie where the interval contains 0: not told apart"
)


def comparison_table(summary: Summary) -> Table:
    """One row a planner, the lowest mean test loss first."""
    rows = summary.rows
    loss_decimals = decimals_of(r.test_loss for r in rows)
    columns = [
        *_planner_columns(rows),
        *_loss_columns("val", [r.val_loss for r in rows], [r.val_loss_iqm for r in rows], loss_decimals, rank=8),
        *_accuracy_columns("val", [r.val_accuracy for r in rows], [r.val_accuracy_iqm for r in rows], rank=None),
        *_loss_columns("test", [r.test_loss for r in rows], [r.test_loss_iqm for r in rows], loss_decimals, rank=0),
        *_accuracy_columns("test", [r.test_accuracy for r in rows], [r.test_accuracy_iqm for r in rows], rank=4),
        *_difference_columns(summary),
        *_hessian_columns(rows),
        *_cost_columns(summary),
    ]
    diverged = "; div.: runs that diverged" if any(r.diverged for r in rows) else ""
    return Table(
        columns,
        f"{seeds_text(len(summary.seeds))}; losses in nats/example; ± is half of a 95 % interval; tie: not told apart, "
        f"for the interval contains 0{diverged}",
    )


def _planner_columns(rows: Sequence[Row]) -> list[Column]:
    planners, settings = [r.planner for r in rows], [r.setting for r in rows]
    marked = [f"{r.planner} ({r.diverged} div.)" if r.diverged else r.planner for r in rows]
    short = [s if len(s) <= LONGEST_SETTING else s[: LONGEST_SETTING - 3] + "..." for s in settings]
    diverged = [r.diverged for r in rows]
    return [
        Column("planner", "who sets the learning rate", planners, 0, marked, csv={"planner": planners}, words=True),
        Column(
            "setting",
            "chosen on validation data, see Tuning",
            settings,
            3,
            short,
            csv={"setting": settings, "settings": [settings_key(r.settings) for r in rows]},
            words=True,
        ),
        Column(
            "n",
            "runs, one a seed, the same seeds for every planner",
            [str(r.n) for r in rows],
            csv={"n": [r.n for r in rows]},
            unlisted=True,
        ),
        Column(
            "diverged",
            "runs ended by a loss that exploded or was not finite; they count with an infinite loss",
            list(map(str, diverged)) if any(diverged) else None,
            csv={"diverged": diverged},
            unlisted=True,
        ),
    ]


def _loss_columns(
    split: str, means: Sequence[Estimate], iqms: Sequence[Estimate], decimals: int, rank: int | None
) -> list[Column]:
    of = "loss on the whole validation split" if split == "val" else "test loss"
    return [
        Column(
            f"{split} loss",
            f"mean {of}",
            [estimate_text(e, decimals) for e in means],
            rank,
            csv=estimate_csv(f"{split}_loss", means),
        ),
        Column(
            f"{split} loss IQM",
            "its interquartile mean, of the runs without the best and the worst quarter",
            [number_text(e.value, decimals) for e in iqms],
            csv=estimate_csv(f"{split}_loss_iqm", iqms),
        ),
    ]


def _accuracy_columns(
    split: str, means: Sequence[Estimate | None], iqms: Sequence[Estimate | None], rank: int | None
) -> list[Column]:
    """Accuracies in percent; only in the CSV file, and empty there, for a task that has none."""
    decimals = decimals_of(means, 100)
    cells = [estimate_text(e, decimals, 100) for e in means if e is not None]
    return [
        Column(
            f"{split} accuracy [%]",
            f"mean {split} accuracy",
            cells or None,
            rank,
            [cell.split()[0] for cell in cells],
            csv=estimate_csv(f"{split}_accuracy", means),
        ),
        Column(
            f"{split} accuracy IQM [%]",
            "its interquartile mean",
            [number_text(e.value * 100, decimals) for e in iqms if e is not None] or None,
            csv=estimate_csv(f"{split}_accuracy_iqm", iqms),
        ),
    ]


def _difference_columns(summary: Summary) -> list[Column]:
    rows, reference, baseline = summary.rows, summary.reference, summary.baseline
    columns = [
        _versus_column("baseline", baseline, [r.to_baseline for r in rows], BASELINE_MEANING, rank=0),
        _versus_column("best", rows[0].planner, [r.to_best for r in rows]),
    ]
    meaning = (
        "" if reference == baseline else "paired difference in test loss to the best constant rate; negative is better"
    )
    columns.insert(0, _versus_column("reference", reference, [r.to_reference for r in rows], meaning, rank=2))
    chances = [r.improvement for r in rows]
    return [
        *columns,
        Column(
            "P(better)",
            f"chance that a run has a lower test loss than a run of {baseline}, with a 95 % interval",
            ["" if e is None else f"{number_text(e.value, 2)} {interval_text(e, 2)}" for e in chances],
            7,
            ["" if e is None else number_text(e.value, 2) for e in chances],
            csv=estimate_csv("improvement", chances),
        ),
    ]


def _versus_column(
    kind: str, other: str | None, versus: Sequence[Versus | None], meaning: str = "", rank: int | None = None
) -> Column:
    """Differences to another planner and their verdicts; only in the CSV file without a meaning or another planner."""
    decimals = decimals_of(None if v is None else v.difference for v in versus)
    cells = [
        "(reference)" if v is None else f"{estimate_text(v.difference, decimals, sign=True)} {v.verdict}"
        for v in versus
    ]
    csv: dict[str, Sequence[Value]] = {
        kind: [other or ""] * len(versus),
        **estimate_csv(f"test_loss_less_{kind}", [None if v is None else v.difference for v in versus]),
        f"verdict_to_{kind}": ["" if v is None else v.verdict for v in versus],
    }
    return Column(f"vs {other}", meaning, cells if other and meaning else None, rank, csv=csv)


def _hessian_columns(rows: Sequence[Row]) -> list[Column]:
    """Columns of what was measured only on demand; none where it was not."""
    if all(row.hessian_max is None and row.hessian_trace is None for row in rows):
        return []
    columns = []
    for name, what, estimates, rank in (
        ("max", "largest eigenvalue", [r.hessian_max for r in rows], 12),
        ("trace", "trace", [r.hessian_trace for r in rows], 13),
    ):
        decimals = decimals_of(estimates)
        columns.append(
            Column(
                f"Hessian {name}",
                f"{what} of the training loss's Hessian at the end of a run, lower is flatter; mean over the runs that "
                "did not diverge",
                ["not measured" if e is None else estimate_text(e, decimals) for e in estimates],
                rank,
                csv=estimate_csv(f"hessian_{name}", estimates),
            )
        )
    return columns


def _cost_columns(summary: Summary) -> list[Column]:
    rows, target = summary.rows, summary.target_val_loss
    targets = [r.steps_to_target for r in rows]
    reached = ["never" if s is None or np.isinf(s) else f"{s:.0f}" for s in targets]
    spent = ["" if r.spent is None else str(r.spent) for r in rows]
    tuning, extra, planning = zip(*((r.tuning_steps, r.extra_steps, r.planning_seconds) for r in rows), strict=True)
    return [
        Column(
            "to target",
            ""
            if target is None
            else f"median optimizer steps of a run to a validation loss of {target:g} nats/example",
            None if target is None else reached,
            5,
            csv={"steps_to_target": ["" if s is None else s for s in targets]},
        ),
        Column(
            "tuning runs",
            SPENT_MEANING,
            spent if any(spent) else None,
            1,
            head="tuning\nruns",
            note=f"tuning runs: {SPENT_MEANING}",
        ),
        Column(
            "tuning steps",
            "child steps spent on choosing the setting, and on training or fitting the planner before",
            list(map(str, tuning)),
            10,
            csv={"tuning_steps": tuning},
        ),
        Column(
            "extra steps",
            "child steps a run took beyond its budget, e.g. in forks",
            [f"{steps:.0f}" for steps in extra] if any(extra) else None,
            0,
            csv={"extra_steps": extra},
        ),
        Column(
            "planning [s]",
            "wall time in the planner, mean of a run",
            [f"{seconds:.2g}" for seconds in planning],
            11,
            csv={"planning_seconds": planning},
        ),
    ]

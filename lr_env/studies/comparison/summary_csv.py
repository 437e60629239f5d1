"""The summary of a comparison as CSV."""

from __future__ import annotations

from typing import Any

from lr_env.records.record import settings_key
from lr_env.report.csv import csv_text, ends
from lr_env.studies.comparison.summary import Summary


def summary_csv(summary: Summary) -> str:
    """The rows with every digit; empty where there is nothing to tell."""
    rows = []
    flatness = any(row.hessian_max is not None or row.hessian_trace is not None for row in summary.rows)
    for row in summary.rows:
        cells: dict[str, Any] = {
            "planner": row.planner,
            "setting": row.setting,
            "settings": settings_key(row.settings),
            "n": row.n,
            "diverged": row.diverged,
        }
        cells |= ends("val_loss", row.val_loss) | ends("val_loss_iqm", row.val_loss_iqm)
        cells |= ends("val_accuracy", row.val_accuracy) | ends("val_accuracy_iqm", row.val_accuracy_iqm)
        cells |= ends("test_loss", row.test_loss) | ends("test_loss_iqm", row.test_loss_iqm)
        cells |= ends("test_accuracy", row.test_accuracy) | ends("test_accuracy_iqm", row.test_accuracy_iqm)
        for name, other, versus in (
            ("reference", summary.reference, row.to_reference),
            ("baseline", summary.baseline, row.to_baseline),
            ("best", summary.rows[0].planner, row.to_best),
        ):
            cells[name] = other or ""
            cells |= ends(f"test_loss_less_{name}", None if versus is None else versus.difference)
            cells[f"verdict_to_{name}"] = "" if versus is None else versus.verdict
        cells |= ends("improvement", row.improvement)
        if flatness:
            cells |= ends("hessian_max", row.hessian_max) | ends("hessian_trace", row.hessian_trace)
        cells["steps_to_target"] = "" if row.steps_to_target is None else row.steps_to_target
        cells["tuning_steps"] = row.tuning_steps
        cells["extra_steps"] = row.extra_steps
        cells["planning_seconds"] = row.planning_seconds
        rows.append(cells)
    return csv_text(rows)

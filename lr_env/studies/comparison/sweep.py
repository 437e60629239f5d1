"""The result of a sweep: each planner's best setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_env.planner import planner_settings
from lr_env.report.document import Document, Text, plain_table
from lr_env.report.formatting import setting_text
from lr_env.report.markdown import write_markdown
from lr_env.studies.comparison.comparison import ComparisonPlan, ComparisonRuns, tuning_steps


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep.

    Attributes:
        plan: of the sweep.
        runs: that were made.
        store: path of the record store.
        name: of the experiment in the store.
    """

    plan: ComparisonPlan
    runs: ComparisonRuns
    store: str
    name: str

    def document(self) -> Document:
        """Each planner's best setting, with its mean validation loss and the child steps that finding it took."""
        steps, rows = tuning_steps(self.runs.tuning, self.runs.chosen), []
        for planner, chosen in self.runs.chosen.items():
            settings = planner_settings(chosen)
            loss, cost = f"as {self.plan.controls.get(planner)}", ""
            if planner not in self.plan.controls:
                of_setting = [r for r in self.runs.tuning if (r.planner, r.settings) == (planner, settings)]
                whole = [r.scores["final_val_loss"] for r in of_setting if not r.pruned]
                loss = f"{sum(whole) / len(whole):.4f}"
                cost = f"{steps[planner]:,}"
            rows.append((planner, setting_text(settings), loss, cost))
        head = ("planner", "best setting", "validation loss", "child steps")
        where = Text(f"{len(self.runs.tuning)} runs in {self.store}, experiment {self.name!r}")
        return Document(f"{self.plan.task.name}: sweep", (plain_table(head, rows, words=2), where))

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write summary.md. The runs are in the store."""
        write_markdown(self.document(), folder / "summary.md")

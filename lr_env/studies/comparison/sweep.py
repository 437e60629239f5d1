"""The result of a sweep: each planner's best setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from lr_env.planner import planner_settings
from lr_env.report.document import Document, Page, Reported, Text, plain_table
from lr_env.report.formatting import setting_text
from lr_env.report.written import write_report
from lr_env.studies.comparison.comparison import ComparisonPlan, ComparisonRuns, tuning_steps
from lr_env.studies.comparison.pages import planner_page
from lr_env.studies.comparison.tuning import tuned_planner


@dataclass(frozen=True)
class SweepResult(Reported):
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
        table = replace(plain_table(head, rows, words=2), link=itemgetter(0))
        pages = tuple(self._page(planner) for planner in self.runs.chosen)
        return Document(f"{self.plan.task.name}: sweep", (table, where), pages)

    def _page(self, planner: str) -> Page:
        """The settings of a planner that were tried."""
        tuning = [run for run in self.runs.tuning if tuned_planner(run) == planner]
        settings = planner_settings(self.runs.chosen[planner])
        return planner_page(planner, settings, tuning=tuning, shared=self.plan.controls.get(planner, ""))

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write summary.md and report.html. The runs are in the store."""
        write_report(self.document(), folder)

"""A comparison as a document, and as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.objectives import Objective
from lr_env.provenance import command_line
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.tables import write_manifest, write_runs
from lr_env.report.chart import Chart
from lr_env.report.document import (
    Block,
    Code,
    Document,
    Figure,
    Heading,
    Page,
    Reported,
    Table,
    Text,
    in_files,
    plain_table,
)
from lr_env.report.files import write_csv
from lr_env.report.formatting import decimals_of, number_text, seeds_text, setting_text, versus_text
from lr_env.report.written import write_report
from lr_env.studies.belief_page import belief_blocks
from lr_env.studies.comparison.charts import comparison_curves, losses_by_seed, scores_chart
from lr_env.studies.comparison.columns import comparison_table
from lr_env.studies.comparison.comparison import ComparisonPlan, ComparisonRuns, manifest, tuning_steps
from lr_env.studies.comparison.pages import planner_page
from lr_env.studies.comparison.spent import spent
from lr_env.studies.comparison.summary import Row, Summary, summarise
from lr_env.studies.comparison.tuning import tuned_planner


@dataclass(frozen=True)
class ComparisonReport(Reported):
    """A comparison as a document, and as files.

    Attributes:
        summary: of the final runs.
        records: the final runs, with curves.
        tuning_records: the runs that the settings were chosen from.
        manifest: how the comparison was made, of what JSON has; summary.md shows it in its order. `command` is shown as
            a command and `title`, if any, is the title of the page and of the figures.
        notice: what is missing, where the comparison is not finished.
        in_flight: final runs that are not finished, with curves; the HTML page draws them.
        folder: of the report, where `lr-env explain` may have kept what planners believed.
    """

    summary: Summary
    records: Sequence[RunRecord] = ()
    tuning_records: Sequence[RunRecord] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    notice: str = ""
    in_flight: Sequence[RunRecord] = ()
    folder: Path | None = None

    @property
    def title(self) -> str:
        """The title of the page and of the figures."""
        if "title" in self.manifest:
            return str(self.manifest["title"])
        task = f"{self.manifest['task']}: " if self.manifest.get("task") else ""
        count = len(self.summary.rows)
        planners = "1 planner" if count == 1 else f"{count} planners"
        return f"{task}{planners} on {seeds_text(len(self.summary.seeds))}"

    def to_json(self) -> dict[str, Any]:
        """The rows and the conclusion; null for what JSON cannot hold."""
        return {"conclusion": self.summary.conclusion, "rows": comparison_table(self.summary).to_json()}

    def document(self) -> Document:
        """The report: in the terminal the table and the conclusion, in files all of it."""
        judged = self.summary.objective.reported_as
        table, conclusion = replace(comparison_table(self.summary), link=_planner), Text(self.summary.conclusion)
        explanation = in_files(
            Text(
                f"Rows are sorted by mean {judged}, best first. Losses are in nats/example. ± is half of a 95 % "
                "interval (Student t). In summary.csv is every digit, in runs.parquet every run with its curves."
            )
        )
        figures = (
            Heading("Differences", place="page"),
            Figure("scores.png", f"Paired differences in {judged}", self._draw_scores, self._scores_chart, "files"),
            Heading("Curves", place="page"),
            Figure(
                "curves.png", "Learning rates and validation losses", self._draw_curves, self._curves_chart, "files"
            ),
        )
        details = in_files(
            Heading("Columns"),
            table.column_legend(),
            *_controls(self.summary),
            Heading("How it was made"),
            *self._provenance(),
            Heading("Tuning"),
            Text(_tuning_seeds(self.summary, self.tuning_records)),
        )
        return Document(
            self.title,
            (
                replace(conclusion, place="files"),
                table,
                *explanation,
                *figures,
                *details,
                replace(self._tuning_table(), place="markdown"),
                Text("The settings that were tried are on the planners' pages.", place="page"),
                replace(self._tuning_table(tried=False), place="page"),
                replace(conclusion, place="terminal"),
            ),
            self._pages(table),
            self.notice,
        )

    def write(self, folder: str | os.PathLike[str], provenance: Mapping[str, Any] | None = None) -> None:
        """Write summary.md, summary.csv, runs.parquet, manifest.json, curves.png, scores.png and report.html.

        Every file is replaced as a whole or not at all, the figures and the page last: see `lr_env.report.written`. The
        same comparison gives the same summary.csv, byte for byte, and the same runs.parquet, but for `commit`,
        `device`, `threads` and columns whose name ends in `_seconds`.

        Args:
            folder: where to; made if it is not there.
            provenance: how it was made, beside what the manifest says.

        Raises:
            UserError: when the records have no curves.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_runs([*self.tuning_records, *self.records], folder / "runs.parquet", self._task)
        write_csv(comparison_table(self.summary), folder / "summary.csv")
        write_manifest(folder, self.manifest)
        write_report(replace(self, folder=folder).document(), folder)

    def _draw_curves(self, path: Path) -> None:
        from lr_env.studies.comparison import figures  # here, where a broken matplotlib costs no table

        figures.draw_curves(self.records, path, self.title)

    def _draw_scores(self, path: Path) -> None:
        from lr_env.studies.comparison import figures

        figures.draw_scores(self.summary, path, self.title)

    def _scores_chart(self) -> Chart:
        return scores_chart(self.summary, self.records)

    def _curves_chart(self) -> Chart:
        return comparison_curves([*self.records, *self.in_flight], [row.planner for row in self.summary.rows])

    def _pages(self, table: Table[Row]) -> tuple[Page, ...]:
        """A page for each planner."""
        if not self.records:
            return ()
        summary = self.summary
        shared = self.manifest.get("tuning", {}).get("controls", {})
        losses = losses_by_seed(self.records, summary.baseline, summary.seeds)
        baseline = dict(zip(summary.seeds, losses.tolist(), strict=True))
        return tuple(
            planner_page(
                row.planner,
                row.settings,
                scores=replace(table, rows=[row], note="", link=None),
                records=[run for run in (*self.records, *self.in_flight) if run.planner == row.planner],
                tuning=[run for run in self.tuning_records if tuned_planner(run) == row.planner],
                baseline=None if row.planner == summary.baseline else baseline,
                shared=shared.get(row.planner, ""),
                beliefs=partial(belief_blocks, row.planner, row.settings, self._task, self.folder),
            )
            for row in summary.rows
        )

    @property
    def _task(self) -> Mapping[str, Any]:
        """Settings of the task; empty where the manifest only names it."""
        task = self.manifest.get("task")
        return task if isinstance(task, Mapping) and "optimizer" in task else {}

    def _provenance(self) -> list[Block]:
        """The command, and one point for each entry of the manifest."""
        seeds = self.summary.seeds
        points = [f"final runs: {len(self.summary.rows)} planners on {seeds_text(len(seeds))}"]
        if "seeds" not in self.manifest:
            points.append(f"seeds: {_plain_text(seeds)}")
        points += [f"{k}: {_plain_text(v)}" for k, v in self.manifest.items() if k not in ("command", "title")]
        command = self.manifest.get("command")
        words = command if command is None or isinstance(command, str) else " ".join(map(str, command))
        return [*([] if words is None else [Code(words)]), Text(points=tuple(points))]

    def _tuning_table(self, tried: bool = True) -> Table[Any]:
        """One row a planner: the chosen setting, and with `tried` the mean validation loss of every setting tried."""
        controls = self.manifest.get("tuning", {}).get("controls", {})
        rows = []
        for row in self.summary.rows:
            runs = [run for run in self.tuning_records if tuned_planner(run) == row.planner]
            losses = _mean_losses(runs)
            count = f"{len(runs) if row.spent is None else row.spent} ({len(losses)} settings)" if runs else "none"
            if row.planner in controls:
                count = f"as {controls[row.planner]}"
            cells = (row.planner, row.setting, count, str(row.tuning_steps))
            rows.append((*cells, _tried_text(row, runs, losses)) if tried else cells)
        last = ["mean final validation loss of each setting, best first"] if tried else []
        table = plain_table(("planner", "chosen setting", "runs", "child steps", *last), rows, words=5 if tried else 3)
        return replace(table, link=itemgetter(0))


def _planner(row: Row) -> str:
    return row.planner


def _controls(summary: Summary) -> tuple[Block, ...]:
    """Section on what planners gain over their controls; none where no control took part."""
    if not summary.controls:
        return ()
    decimals = decimals_of(versus.difference for _, _, versus in summary.controls)
    rows = [(planner, control, versus_text(versus, decimals)) for planner, control, versus in summary.controls]
    return (
        Heading("Controls"),
        Text(
            "A control runs under the setting of its planner and lacks what is said to make the difference. `lr-env "
            "planners NAME` says what that is. Paired differences in test loss; negative where the planner is better."
        ),
        plain_table(("planner", "its control", "planner against control"), rows, words=2),
    )


def _plain_text(value: Any) -> str:
    """A value of the manifest in one line; consecutive integers as "0 to 19"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        first = value[0] if value and isinstance(value[0], int) else None
        if first is not None and len(value) > 2 and list(value) == list(range(first, first + len(value))):
            return f"{first} to {first + len(value) - 1}"
        return ", ".join(map(_plain_text, value))
    return str(value)


def _tuning_seeds(summary: Summary, records: Sequence[RunRecord]) -> str:
    seeds = sorted({r.seed for r in records})
    if not seeds:
        return "No runs were made to choose the settings."
    shared = sorted(set(seeds) & set(summary.seeds))
    note = f"has seeds {_plain_text(shared)} too" if shared else "has other seeds"
    return (
        f"Settings were chosen on validation data by runs on seeds {_plain_text(seeds)}; the comparison "
        f"{note}. The chosen one is in bold."
    )


def _mean_losses(runs: Sequence[RunRecord]) -> dict[str, float]:
    """Key of a setting -> mean final validation loss of its runs, best first; infinite where one did not end."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        losses.setdefault(settings_key(run.settings), []).append(
            np.inf if run.diverged or run.pruned else run.scores["final_val_loss"]
        )
    means = {key: float(np.mean(of)) for key, of in losses.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def _tried_text(row: Row, runs: Sequence[RunRecord], mean_losses: Mapping[str, float]) -> str:
    """The settings that were tried, by the fields in which they differ, with their losses; the chosen one is bold."""
    tried = {settings_key(run.settings): run.settings for run in runs}
    varied = [name for name in row.settings if len({settings_key({name: of.get(name)}) for of in tried.values()}) > 1]
    cells = []
    for key, loss in mean_losses.items():
        shown = {name: tried[key][name] for name in varied if name in tried[key]} or tried[key]
        early = any(run.pruned for run in runs if settings_key(run.settings) == key)
        cell = f"{setting_text(shown)}: {'ended early' if early else number_text(loss)}"
        cells.append(f"**{cell}**" if key == settings_key(row.settings) else cell)
    return "; ".join(cells)


def report_of(plan: ComparisonPlan, runs: ComparisonRuns) -> ComparisonReport:
    """Summarise the runs of a comparison.

    Raises:
        UserError: they are not comparable, see `summarise`.
    """
    summary = summarise(
        runs.final,
        target_val_loss=plan.task.target_val_loss,
        tuning_steps=tuning_steps(runs.tuning, runs.chosen),
        controls=plan.controls,
        spent=spent(runs.tuning, runs.chosen, plan.task.budget),
        apart=plan.apart,
        objective=Objective.of(plan.task),
        margin=plan.margin,
    )
    return ComparisonReport(summary, runs.final, runs.tuning, manifest(plan, runs, command_line()))

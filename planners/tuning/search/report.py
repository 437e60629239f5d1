"""The result of a search: the best settings of each planner, and what to do with the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.cli.task_options import variation_of
from lr_env.files import json_number
from lr_env.objectives import VAL_LOSS, Objective
from lr_env.records.record import RunRecord
from lr_env.records.tables import write_runs
from lr_env.registry import setting_defaults
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.document import Code, Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import setting_text
from lr_env.report.plotting import Axes, caption, distinct_style, log_scale, new_figure, own_style, plain, save
from lr_env.report.written import write_report
from lr_env.tasks import Task
from lr_env.words import sentence

RUNS_FILE = "runs.parquet"

MARKERS = "osDv^<>Pph"

_BASELINE = "constant"
"""The planner that the best one is compared with."""

_OFF_SCALE = 30.0
"""Losses above this multiple of the lowest are drawn at the upper border."""


def end_loss(record: RunRecord, objective: Objective) -> float:
    """Return what a run is selected by; infinite if it diverged or was pruned."""
    return np.inf if record.pruned else objective.selected(record)


@dataclass(frozen=True, eq=False)
class Best:
    """The best run of a planner in a search.

    Attributes:
        planner: its name.
        runs: how many runs it had.
        diverged: how many of them diverged.
        pruned: how many of them were pruned.
        record: the run with the lowest loss.
        objective: what is searched for.
    """

    planner: str
    runs: int
    diverged: int
    pruned: int
    record: RunRecord
    objective: Objective

    @property
    def settings(self) -> dict[str, Any]:
        """Its peak rate, and its other settings that are not the planner's defaults."""
        given, defaults = self.record.settings, setting_defaults(self.planner)
        changed = {name: value for name, value in given.items() if name == "peak" or value != defaults.get(name)}
        return {name: changed[name] for name in sorted(changed, key=lambda name: name != "peak")}

    @property
    def loss(self) -> float:
        """What it is selected by, less is better; infinite if no run was whole."""
        return end_loss(self.record, self.objective)


@dataclass(frozen=True, eq=False)
class SearchResult(Reported):
    """The runs of a search.

    Attributes:
        task: what was trained.
        planners: names of all planners that were searched.
        records: the runs with their curves, in the order of the trials.
        store: path of the record store.
        name: of the experiment in the store, and of Optuna's study.
        storage: file of the trials.
        folder: of the report.
    """

    task: Task
    planners: tuple[str, ...]
    records: tuple[RunRecord, ...]
    store: str
    name: str
    storage: Path
    folder: Path

    @property
    def objective(self) -> Objective:
        """What was searched for."""
        return Objective.of(self.task)

    def loss_of(self, record: RunRecord) -> float:
        """What a run is selected by, less is better; infinite if it diverged or was pruned."""
        return end_loss(record, self.objective)

    @property
    def best(self) -> list[Best]:
        """The best run of each planner that had any, the lowest loss first."""
        bests: list[Best] = []
        for name in self.planners:
            runs = [record for record in self.records if record.planner == name]
            if runs:
                counts = sum(run.diverged for run in runs), sum(run.pruned for run in runs)
                bests.append(Best(name, len(runs), *counts, min(runs, key=self.loss_of), self.objective))
        return sorted(bests, key=lambda best: best.loss)

    @property
    def compare_command(self) -> str:
        """The command that compares the best planner on fresh seeds; empty where there is none."""
        best, variation = self.best[0], variation_of(self.task)
        if not np.isfinite(best.loss) or variation is None:
            return ""
        other = _BASELINE if best.planner != _BASELINE else "cosine"
        settings = " ".join(f"{best.planner}.{name}={_rounded(value)}" for name, value in best.settings.items())
        return (
            f"lr-env compare {self.task.name}{variation} --planners {best.planner} {other} "
            f"--set {settings} --name {self.name}-best"
        )

    @property
    def fit_command(self) -> str:
        """The command that fits a model to the runs; empty for a task that commands do not find."""
        if (variation := variation_of(self.task)) is None:
            return ""
        return f"lr-env fit {self.task.name}{variation} --records {self.folder / RUNS_FILE} --name {self.name}-fit"

    def to_json(self) -> dict[str, Any]:
        """The best settings, and the loss of every run; null where it diverged."""
        return {
            "task": self.task.name,
            "best": [
                {
                    "planner": best.planner,
                    "settings": dict(best.record.settings),
                    "seed": best.record.seed,
                    **self._json_of(best.loss),
                    "runs": best.runs,
                    "diverged": best.diverged,
                    "pruned": best.pruned,
                }
                for best in self.best
            ],
            "trials": [
                {
                    "planner": record.planner,
                    "settings": dict(record.settings),
                    "seed": record.seed,
                    **self._json_of(self.loss_of(record)),
                }
                for record in self.records
            ],
        }

    def _json_of(self, loss: float) -> dict[str, Any]:
        name = "final_val_loss" if self.objective == VAL_LOSS else self.objective.selected_by.replace(" ", "_")
        return {name: json_number(loss)}

    def document(self) -> Document:
        """The best settings of each planner, and the commands that go on from there."""
        counts = {"diverged": sum(r.diverged for r in self.records), "were pruned": sum(r.pruned for r in self.records)}
        said = ", ".join(f"{count} of them {what}" for what, count in counts.items() if count)
        said = f" ({said})" if said else ""
        spared = sum(self.task.budget - r.steps for r in self.records if r.pruned)
        if spared:
            said += f", which spared {spared / (len(self.records) * self.task.budget):.0%} of the child steps"
        table = Table(
            self.best,
            [
                Column[Best]("planner", lambda best: best.planner, rank=0, words=True),
                Column[Best]("best setting", lambda best: setting_text(best.settings), rank=0, words=True),
                Column[Best](
                    self.objective.selected_by,
                    lambda best: best.loss,
                    _loss,
                    rank=0,
                    head=self.objective.selected_by.replace(" ", "\n", 1),
                ),
                Column[Best]("runs", lambda best: best.runs, rank=1),
                Column[Best]("diverged", lambda best: best.diverged, rank=2),
                *([Column[Best]("pruned", lambda best: best.pruned, rank=2)] if counts["were pruned"] else ()),
            ],
        )
        compare = (Text("Compare the best setting on fresh seeds:"), Code(self.compare_command, place="everywhere"))
        fit = (
            Text("Fit a model of training to the runs, for the planner latent-ode:"),
            Code(self.fit_command, place="everywhere"),
        )
        return Document(
            f"{self.task.name}: search",
            (
                table,
                Text(
                    "Losses of single runs: the lowest of many is lower than the mean of the same setting on other "
                    "seeds.",
                    quiet=True,
                ),
                Text(
                    f"{len(self.records)} runs{said} in {self.store}, experiment {self.name!r}; trials for Optuna's "
                    f"tools, as study {self.name!r}, in {self.storage}"
                ),
                *(compare if self.compare_command else ()),
                *(fit if self.fit_command else ()),
                Figure(
                    "search.png", f"{sentence(self.objective.selected_by)} over the peak rate", self.draw, self._chart
                ),
            ),
        )

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write runs.parquet, search.json, summary.md, search.png and report.html."""
        write_runs(self.records, folder / RUNS_FILE, self.task.settings())
        write_content(folder, "search", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))

    def _chart(self) -> Chart:
        """The loss of each run over its peak rate, as a chart."""
        series = []
        top = max((loss for record in self.records if np.isfinite(loss := self.loss_of(record))), default=1.0)
        for style, best in enumerate(self.best):
            runs = [record for record in self.records if record.planner == best.planner]
            for whole, marker in ((True, ""), (False, "cross")):
                of = [record for record in runs if np.isfinite(self.loss_of(record)) == whole]
                losses = [self.loss_of(record) if whole else top for record in of]
                texts = [setting_text(record.settings) + ("" if whole else ": no loss") for record in of]
                peaks = [float(record.settings["peak"]) for record in of]
                look: dict[str, Any] = {"style": style, "group": best.planner, "marker": marker, "texts": texts}
                if of:
                    series.append(Series(best.planner, peaks, losses, "points", **look))
        title = "A run each; crosses, at the top: diverged, or pruned"
        loss = Axis(self._axis, "log")
        return Chart([Panel(title, Axis("peak learning rate", "log"), loss, series)])

    @property
    def _axis(self) -> str:
        final = "final " if self.objective == VAL_LOSS else ""
        return f"{final}{self.objective.selected_by} [{self.objective.unit}]"

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw the loss of each run over its peak rate, as a PNG."""
        figure = new_figure(7.5, 4.8, f"{self.task.name}: search of schedules and rates")
        axes = figure.subplots()
        plain(axes)
        losses = np.array([self.loss_of(record) for record in self.records])
        finite = losses[np.isfinite(losses)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.1, 1.0)
        top = min(float(high), float(low) * _OFF_SCALE) * 1.1
        for number, best in enumerate(self.best):
            style = {"color": distinct_style(number)["color"], "marker": MARKERS[number % len(MARKERS)]}
            self._draw_planner(axes, best.planner, top, style)
        log_scale(axes, "x")
        log_scale(axes, "y")
        axes.set_ylim(float(low) / 1.1, top)
        axes.set_xlabel("peak learning rate")
        axes.set_ylabel(self._axis)
        cut = "; larger losses are at the upper border" if high > top else ""
        caption(axes, f"a run each; crosses: diverged, or pruned{cut}")
        axes.legend(frameon=False, fontsize=9)
        save(figure, path)

    def _draw_planner(self, axes: Axes, planner: str, top: float, style: Mapping[str, Any]) -> None:
        """Draw the runs of a planner, those beyond the axes at their upper border."""
        runs = [record for record in self.records if record.planner == planner]
        peaks = np.array([float(record.settings["peak"]) for record in runs])
        losses = np.array([self.loss_of(record) for record in runs])
        ended = np.isfinite(losses)
        shown = np.minimum(losses[ended], top)
        axes.plot(peaks[ended], shown, linestyle="none", markersize=5, alpha=0.8, label=planner, clip_on=False, **style)
        if not ended.all():
            top_row = np.full((~ended).sum(), top)
            axes.plot(peaks[~ended], top_row, "x", color=style["color"], markersize=7, clip_on=False)


def _rounded(value: Any) -> str:
    """A setting for a command, with 4 digits, which say as much as one run can."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if np.isfinite(loss) else "no whole run"

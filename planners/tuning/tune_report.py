"""The runs that a tuner made of a task, and the planner that it selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr_env.cli.task_options import variation_of
from lr_env.files import json_number
from lr_env.objectives import Objective, check_can_follow
from lr_env.planner import Planner, planner_settings
from lr_env.records.record import RunRecord
from lr_env.registry import find_tuner, setting_defaults
from lr_env.report.document import Code, Column, Document, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import setting_text
from lr_env.report.written import write_report
from lr_env.runs.lab import Lab
from lr_env.studies.procedure import Procedure
from lr_env.tasks import Task
from lr_env.tuner import KnowsBefore, Telling
from lr_env.words import counted

if TYPE_CHECKING:
    from planners.tuning.tune import Tune


@dataclass(frozen=True, eq=False)
class TuneResult(Reported):
    """Runs of a task, and what they select.

    Attributes:
        task: what was trained.
        tuner: name of the tuner.
        records: its runs, in order.
        selected: the planner that it selected.
        note: what the tuner tells besides; empty if nothing.
    """

    task: Task
    tuner: str
    records: tuple[RunRecord, ...]
    selected: Planner
    note: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the selected planner that are not its defaults."""
        defaults = setting_defaults(self.selected.name)
        return {name: value for name, value in planner_settings(self.selected).items() if value != defaults.get(name)}

    def to_json(self) -> dict[str, Any]:
        """The whole result."""
        objective = Objective.of(self.task)
        return {
            "task": self.task.name,
            "tuner": self.tuner,
            "runs": [
                {
                    "planner": run.planner,
                    "settings": dict(run.settings),
                    "seed": run.seed,
                    "diverged": run.diverged,
                    objective.name: json_number(objective.selected(run)),
                }
                for run in self.records
            ],
            "selected": {"planner": self.selected.name, "settings": planner_settings(self.selected)},
            "note": self.note,
        }

    def document(self) -> Document:
        """The runs, what was selected, and how to use it."""
        objective = Objective.of(self.task)
        rows = [
            (number + 1, run.planner, setting_text(run.settings), objective.selected(run))
            for number, run in enumerate(self.records)
        ]
        columns: list[Column[Any]] = [
            Column("run", itemgetter(0), str, 0),
            Column("planner", itemgetter(1), rank=0),
            Column("settings", itemgetter(2), rank=1),
            Column("final loss", itemgetter(3), "{:.4f}".format, 0),
        ]
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        kind = type(self.selected)
        usage = (
            f"from {kind.__module__} import {kind.__name__}\n"
            "from planners.torch_scheduler import PlannerLR\n"
            f"scheduler = PlannerLR(optimizer, {kind.__name__}({settings}), budget={self.task.budget})"
        )
        options = "".join(f" --set {self.selected.name}.{name}={value}" for name, value in self.settings.items())
        variation = variation_of(self.task)
        command = f"lr-env compare {self.task.name}{variation} --planners {self.selected.name} wsd{options}"
        shown = [] if variation is None else [Text("Compare it with others:"), Code(command)]
        told = [f"{self.note[0].upper()}{self.note[1:]}."] if self.note else []
        chosen = f"{self.tuner} selects {self.selected.name} after {counted(len(self.records), 'run')}."
        table = [Table(rows, columns)] if rows else []
        return Document(
            f"{self.task.name}: tuned with {counted(len(self.records), 'run')}",
            (*table, Text(" ".join([chosen, *told])), Code(usage), *shown),
        )

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write tune.json and summary.md."""
        write_content(folder, "tune", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))


def tune(study: Tune, lab: Lab) -> TuneResult:
    """Let a tuner make the runs that are left, and select a planner.

    Raises:
        UserError: it cannot follow the objective of the task, or the experiment was begun otherwise.
    """
    tuner, task = find_tuner(study.tuner), lab.task
    check_can_follow(Objective.of(task), f"tuner {study.tuner!r}", tuner)
    records: list[RunRecord] = []
    if study.runs:
        spec = {"tune": {"tuner": study.tuner, "seed": study.seed}}
        with lab.experiment(spec, at_once=tuner.batch_size(0), runs=study.runs) as experiment:
            procedure = Procedure(experiment, tuner, "tune", 1, study.seed)
            procedure.spend(study.runs, lab.reporting("tuning"))
            records = procedure.records[0]
    lab.folder.mkdir(parents=True, exist_ok=True)
    selected = tuner.select(task, study.seed, records, lab.folder)
    note = (
        tuner.tell(task, study.seed, records)
        if isinstance(tuner, Telling) and (records or isinstance(tuner, KnowsBefore))
        else ""
    )
    return TuneResult(task, study.tuner, tuple(records), selected, note)

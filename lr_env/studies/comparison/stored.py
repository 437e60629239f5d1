"""A comparison read from the record store: its report again, or of what is finished while it still runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from lr_env import optimizers
from lr_env.capabilities import fingerprint
from lr_env.env.episodes import FLATNESS
from lr_env.errors import UserError
from lr_env.objectives import Objective
from lr_env.planner import Planner
from lr_env.provenance import command_line
from lr_env.records.record import FINISHED, RunRecord
from lr_env.records.store import Store
from lr_env.records.tables import read_manifest
from lr_env.report.formatting import listed, seeds_text
from lr_env.runs.spec import ExperimentSpec
from lr_env.studies.comparison.comparison import (
    ComparisonPlan,
    ComparisonRuns,
    choose,
    manifest,
    tuning_steps,
)
from lr_env.studies.comparison.generations import generations
from lr_env.studies.comparison.report import ComparisonReport
from lr_env.studies.comparison.spent import spent
from lr_env.studies.comparison.summary import summarise
from lr_env.studies.comparison.tuning import tuning_runs
from lr_env.tasks import Task, find_task

_ONLY_MADE = ("command", "wall_seconds_of_last_start")
"""Entries of a manifest that the record store does not have."""

_MADE = (*_ONLY_MADE, "commit")
"""Entries of a manifest that an earlier report knows better."""


def is_comparison(spec: Mapping[str, Any]) -> bool:
    """Whether the spec of an experiment is that of a comparison, with final runs."""
    return isinstance(spec.get("planners"), list) and bool(spec.get("seeds")) and "tune_seeds" in spec


@dataclass(frozen=True, eq=False)
class StoredComparison:
    """A comparison as the record store has it at one moment.

    Attributes:
        name: of the experiment.
        spec: of the experiment, see `lr_env.runs.spec`.
        tuning: runs of the sweep; some may be running. They have curves where no final run was begun.
        final: final runs, with curves; some may be running.
        saved: the manifest of an earlier report; empty where there is none.
        at: when it was read.
        folder: of its report.
    """

    name: str
    spec: Mapping[str, Any]
    tuning: Sequence[RunRecord]
    final: Sequence[RunRecord]
    saved: Mapping[str, Any]
    at: datetime
    folder: Path

    @classmethod
    def read(cls, store: Store, name: str, folder: Path) -> StoredComparison:
        """Read a comparison of a store.

        Args:
            store: where its runs are.
            name: of the experiment.
            folder: of its report, which may have an earlier one.

        Raises:
            UserError: there is no comparison of that name, or it is damaged.
        """
        with store.unchanged():
            spec = store.experiment(name)
            if spec is None or not is_comparison(spec):
                raise UserError(f"{name!r} is no comparison in the record store {str(store.path)!r}")
            final = store.runs(name, "final", curves=True)
            curves = not final or bool(spec.get("tuning_runs")) or bool(spec["task"].get("objective"))
            tuning = tuning_runs(store, name, curves=curves)
        return cls(name, spec, tuning, final, _saved_manifest(folder, spec), datetime.now().astimezone(), folder)

    @cached_property
    def plan(self) -> ComparisonPlan:
        """What was to be run.

        Raises:
            UserError: the task, or a planner, is not one that can be found here.
        """
        spec = self.spec
        return ComparisonPlan(
            task=_task_of(self.name, spec, self.saved),
            planners=tuple(name for batch in generations(spec) for name in batch),
            rates=tuple(spec["rates"]),
            tune_seeds=tuple(spec["tune_seeds"]),
            seeds=tuple(spec["seeds"]),
            settings=spec.get("settings", {}),
            flatness=FLATNESS in spec,
            stop=_rule_text(spec.get("stop")),
            tuning_runs=spec.get("tuning_runs", 0),
        )

    @cached_property
    def chosen(self) -> dict[str, Planner]:
        """Planner -> its chosen setting, of those whose final runs have begun, and the planners of their controls."""
        plan, begun = self.plan, {run.planner for run in self.final}
        if not begun:
            return {}
        begun |= {original for name, original in plan.controls.items() if name in begun}
        of_begun = replace(plan, planners=tuple(name for name in plan.planners if name in begun))
        return choose(of_begun, self.tuning, self.folder)

    @property
    def finished(self) -> list[RunRecord]:
        """The final runs that are finished."""
        return [run for run in self.final if run.status == FINISHED]

    @property
    def is_whole(self) -> bool:
        """Whether every final run is finished."""
        return len(self.finished) == len(self.plan.planners) * len(self.plan.seeds)

    @cached_property
    def block(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The planners and the seeds of the largest table of finished runs that has no hole."""
        seeds_of: dict[str, set[int]] = {}
        for run in self.finished:
            seeds_of.setdefault(run.planner, set()).add(run.seed)
        order = sorted(seeds_of, key=lambda name: -len(seeds_of[name]))
        best: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
        common: set[int] = set(self.plan.seeds)
        for count, name in enumerate(order, 1):
            common &= seeds_of[name]
            if count * len(common) > len(best[0]) * len(best[1]):
                best = tuple(order[:count]), tuple(sorted(common))
        return best

    def report(self) -> ComparisonReport:
        """The report: as the comparison writes it, or of the runs that are finished, with a notice that says so.

        Raises:
            UserError: nothing is finished yet that could be compared; see also `plan`.
        """
        plan, (planners, seeds) = self.plan, self.block
        if not planners:
            raise UserError(f"{self.name!r} has no final run that is finished yet")
        # In the order of the store, as the comparison reads them.
        final = [run for run in self.finished if run.planner in planners and run.seed in seeds]
        tuning = [run for run in self.tuning if run.status == FINISHED]
        if not self.is_whole:
            tuning = [run for run in tuning if run.planner in self.chosen]
        steps, had = tuning_steps(tuning, self.chosen), spent(tuning, self.chosen, plan.task.budget)
        summary = summarise(
            final,
            target_val_loss=plan.task.target_val_loss,
            tuning_steps={name: steps[name] for name in planners},
            controls={name: of for name, of in plan.controls.items() if name in planners and of in planners},
            spent=had,
            apart=plan.apart,
            objective=Objective.of(plan.task),
            margin=plan.margin,
        )
        runs = ComparisonRuns(tuning, final, self.chosen, self._spec(), 0.0)
        made = self._manifest(runs)
        going = [run for run in self.final if run.status != FINISHED]
        return ComparisonReport(summary, final, tuning, made, self.notice, going, self.folder)

    @property
    def notice(self) -> str:
        """What is missing, in words; empty where nothing is."""
        notices = []
        plan = self.plan
        if not self.is_whole:
            planners, seeds = self.block
            done = sum(run.status == FINISHED for run in (*self.tuning, *self.final))
            going = len(self.tuning) + len(self.final) - done
            most = "up to " if plan.rule is not None else ""
            text = (
                f"**Not finished**: {done} of {most}{plan.num_runs} runs are finished, and {going} are running or were "
                f"stopped, as of {self.at:%Y-%m-%d %H:%M:%S %Z}."
            )
            if planners:
                text += f" Below: {len(planners)} of {len(plan.planners)} planners on {seeds_text(len(seeds))} of "
                text += f"{len(plan.seeds)}, which all of them have finished."
            if planners and (missing := [name for name in plan.planners if name not in planners]):
                text += f" Still without: {listed(missing)}."
            notices.append(text)
        if changed := self._changed():
            notices.append(f"What {listed(changed)} depends on, such as the file of a model, has changed since.")
        return " ".join(notices)

    def _manifest(self, runs: ComparisonRuns) -> dict[str, Any]:
        """The manifest of the runs, with what only an earlier report has of how they were made."""
        made = manifest(self.plan, runs, "")
        commits = dict.fromkeys(str(run.provenance["commit"]) for run in runs.final if "commit" in run.provenance)
        made |= {"commit": ", ".join(commits)} if commits else {}
        entries = {}
        for name, value in made.items():
            if name in self.saved and (name in _MADE or self.saved[name] == value):
                entries[name] = self.saved[name]  # in the same order, where it has entries itself
            elif name not in _ONLY_MADE:
                entries[name] = value
        if not self.is_whole:
            entries["title"] = f"{self.plan.task.name}: learning-rate schedules compared, not finished"
        return entries if "command" in entries else {**entries, "report": command_line()}

    def _changed(self) -> list[str]:
        """Planners whose fingerprint is not the one that the comparison was begun with."""
        prints = self.spec.get("fingerprints", {})
        return [name for name, of in self.chosen.items() if name in prints and fingerprint(of) != prints[name]]

    def _spec(self) -> ExperimentSpec:
        known = {name: self.spec.get(name) for name in ("task", "data", "device", "threads", "versions", "training")}
        study = {name: value for name, value in self.spec.items() if name not in (*known, "id")}
        return ExperimentSpec(**{**known, "data": known["data"] or {}, "study": study})  # type: ignore[arg-type]


def _saved_manifest(folder: Path, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest in a folder, if it is of the same task and seeds."""
    try:
        saved = read_manifest(folder)
    except (OSError, ValueError):
        return {}
    task = saved.get("task")
    same = isinstance(task, dict) and {**task, "target_val_loss": None} == spec.get("task")
    return saved if same and saved.get("seeds") == spec.get("seeds") else {}


def _task_of(name: str, spec: Mapping[str, Any], saved: Mapping[str, Any]) -> Task:
    """The task of a spec: that of its name, with the fields that options replace.

    Raises:
        UserError: it is another one, which only the program that began the experiment has.
    """
    stored = spec["task"]
    task = find_task(stored["name"])
    plain = ("budget", "segment", "batch_size", "train_fraction", "label_noise", "val_subset")
    task = replace(task, **{field: stored[field] for field in plain})
    if objective := stored.get("objective"):
        task = replace(task, objective=objective, target_val_loss=stored["target_val_loss"] or task.target_val_loss)
    optimizer = dict(stored["optimizer"])
    if kind := getattr(optimizers, optimizer.pop("class"), None):
        task = replace(task, optimizer=kind(**optimizer))
    if saved:
        task = replace(task, target_val_loss=saved["task"]["target_val_loss"])
    if {**task.settings(), "target_val_loss": None} != stored:
        raise UserError(
            f"{name!r} is a comparison on a task {stored['name']!r} that differs from the one of that name here: make "
            "its report in the program that ran it"
        )
    return task


def _rule_text(stop: Any) -> str:
    """The text of a rule by which runs end early, of what it is in a spec."""
    if stop is None:
        return "none"
    name, *options = [stop] if isinstance(stop, str) else stop
    return ":".join([name, *(str(option) for option in options if isinstance(option, int))])

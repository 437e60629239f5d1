"""Let tuners spend their runs, several times from the start, and run the planners that they selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_env.capabilities import Previewable
from lr_env.errors import UserError
from lr_env.objectives import Objective, check_can_follow
from lr_env.planner import Planner
from lr_env.records.record import run_key
from lr_env.registry import find_tuner, find_variants
from lr_env.rollout import PlannedRun
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.seeds import PER_REPEAT, TUNERS
from lr_env.studies.procedure import Procedure
from lr_env.studies.tuning_budget.exchange import SHARES, Exchange
from lr_env.studies.tuning_budget.report import BudgetCurve, TunedPlanner
from lr_env.tuner import SelfTraining, Telling

if TYPE_CHECKING:
    from lr_env.studies.tuning_budget.study import TuningBudget

FINAL = "final"


def run_procedures(study: TuningBudget, lab: Lab) -> BudgetCurve:
    """Let each tuner spend its runs, several times, and run the planners that it selects on the same fresh seeds.

    Args:
        study: what is measured.
        lab: what is trained, and where its runs and the files of planners are saved.

    Raises:
        UserError: another process works on it, or it was begun otherwise.
    """
    objective = Objective.of(lab.task)
    for tuner, *_ in study.procedures:
        check_can_follow(objective, f"tuner {tuner!r}", find_tuner(tuner))
    most = max(len(study.seeds), study.repeats * study.runs[0])
    with lab.experiment(
        {"budgets": study.spec}, at_once=most, runs=study.num_runs, extends=_has_more_runs
    ) as experiment:
        if lab.fresh:
            for file in lab.folder.glob("*/model-*.safetensors"):
                file.unlink()
        selected: dict[tuple[str, int, int], Tuned] = {}
        for tuner, repeats, runs in study.procedures:
            kinds = study.variants_of(tuner)
            numbers = range(study.first_repeat, study.first_repeat + repeats)
            answers = _procedure(experiment, tuner, numbers, runs, kinds, lab.folder, lab.reporting(tuner))
            if twice := sorted({label for label, *_ in answers} & {label for label, *_ in selected}):
                raise UserError(f"two tuners answer with {twice[0]!r}: leave out {tuner!r} or the other")
            selected |= answers
        before: set[tuple[str, str, int]] = set()
        for until in sorted(
            {runs for _, runs, _ in selected}
        ):  # apart, so that a budget that is added later changes none
            planners = [tuned.planner for (_, runs, _), tuned in selected.items() if runs == until]
            planned = {run_key(run): run for run in (PlannedRun(p, s) for p in planners for s in study.seeds)}
            new = [planned[place] for place in sorted(planned.keys() - before)]
            experiment.run(new, FINAL, ("val", "test"), lab.reporting("answers"))
            before |= planned.keys()
        ends = {run_key(run): run for run in lab.store.runs(lab.name, FINAL, curves=objective.needs_curves)}
    answers = tuple(
        TunedPlanner(
            label,
            runs,
            repeat,
            tuned.planner,
            tuple(ends[run_key(PlannedRun(tuned.planner, seed))] for seed in study.seeds),
            objective,
            tuned.child_steps,
            tuned.note,
        )
        for (label, runs, repeat), tuned in selected.items()
    )
    reference = study.reference[0] if study.reference else ""
    curve = BudgetCurve(lab.task.name, study.tuners, study.runs, study.seeds, answers, reference, study.margin)
    return replace(curve, exchange=_exchange(study, lab, curve)) if study.in_steps else curve


def _exchange(study: TuningBudget, lab: Lab, curve: BudgetCurve) -> Exchange:
    """Run the planners that a tuner selected with other budgets, on the same seeds.

    Raises:
        UserError: they are no schedules, which could be stretched.
    """
    task, objective = lab.task, Objective.of(lab.task)
    answers = [a for a in curve.answers if (a.label, a.runs) == (study.in_steps, study.runs[-1])]
    for answer in answers:
        if not isinstance(answer.planner, Previewable):
            raise UserError(
                f"in-steps {study.in_steps!r}: it selects no schedule that could be stretched: give another"
            )
    budgets, losses = [], []
    for share in SHARES:
        budget = max(1, round(share * task.num_segments)) * task.segment
        budgets.append(budget)
        if budget == task.budget:
            losses.append([a.losses().tolist() for a in answers])
            continue
        part = lab.part(f"{budget}-steps", replace(task, budget=budget))
        planned = [
            PlannedRun(planner, seed) for planner in dict.fromkeys(a.planner for a in answers) for seed in study.seeds
        ]
        with part.experiment(
            {"stretched": study.in_steps, "seeds": list(study.seeds)}, at_once=len(planned), runs=len(planned)
        ) as experiment:
            experiment.run(sorted(planned, key=run_key), FINAL, ("val", "test"), lab.reporting("other budgets"))
            runs = lab.store.runs(part.name, FINAL, curves=objective.needs_curves)
            ends = {run_key(run): objective.reported(run) for run in runs}
        losses.append([[ends[run_key(PlannedRun(a.planner, seed))] for seed in study.seeds] for a in answers])
    return Exchange(study.in_steps, np.array(budgets) / task.budget, np.array(losses))


def _has_more_runs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was added are larger numbers of runs, after those that there were."""
    had = before["budgets"].get("runs") if isinstance(before.get("budgets"), dict) else None
    shorter = {**now["budgets"], "runs": now["budgets"]["runs"][: len(had) if isinstance(had, list) else 0]}
    return before == {**now, "budgets": shorter}


@dataclass(frozen=True)
class Tuned:
    """What a tuner selected, the child steps that this took, and what the tuner tells of it."""

    planner: Planner
    child_steps: int
    note: str = ""


def _procedure(
    experiment: Experiment,
    name: str,
    repeats: range,
    runs: Sequence[int],
    variants: Sequence[str],
    folder: Path,
    progress: Callable[[int], None],
) -> Mapping[tuple[str, int, int], Tuned]:
    """All repeats of a tuner's procedure in lockstep: (name of the answer, runs, repeat) -> planner.

    Rounds that are finished are not proposed anew.
    """
    tuner, task, tuned = find_tuner(name), experiment.task, {}
    if isinstance(tuner, SelfTraining):
        for until in runs:
            for repeat in repeats:
                first = TUNERS.start + repeat * PER_REPEAT
                seeds = [first + tuner.seed_index(number) for number in range(until)]
                place = folder / f"{name}-{repeat}"
                place.mkdir(parents=True, exist_ok=True)
                given = task, repeat, seeds, experiment.execution, place
                tuned[name, until, repeat] = Tuned(experiment.engine.call(tuner.train, *given), until * task.budget)
                progress(until * task.budget)
        return tuned
    settings, procedure = name.partition(":")[2], Procedure(experiment, tuner, name, len(repeats), repeats.start)
    for until in runs:
        procedure.spend(until, progress)
        for repeat, earlier in enumerate(procedure.records, repeats.start):
            place = folder / f"{name}-{repeat}"
            place.mkdir(parents=True, exist_ok=True)
            steps = sum(run.child_steps for run in earlier)
            selected = tuner.select(task, repeat, earlier, place)
            note = tuner.tell(task, repeat, earlier) if isinstance(tuner, Telling) and until == runs[-1] else ""
            tuned[name, until, repeat] = Tuned(selected, steps, note)
            for kind in variants:
                for label, planner in find_variants(kind)(selected, task, repeat, earlier, place).items():
                    named = label.format(tuner=name)
                    own = f"{label} ({settings})" if settings and named == label else named
                    tuned[own, until, repeat] = Tuned(planner, steps)
            with suppress(OSError):  # not empty
                place.rmdir()
    return tuned

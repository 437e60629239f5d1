"""Let tuners spend their runs, several times from the start, and run the planners that they selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import find_tuner, find_variants
from lr_env.rollout import PlannedRun, not_made_before
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.seeds import PER_REPEAT, TUNERS
from lr_env.studies.tuning_budget.report import BudgetCurve, TunedPlanner
from lr_env.tuner import SelfTraining

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
    most = max(len(study.seeds), study.repeats * study.runs[0])
    with lab.experiment(
        {"budgets": study.spec}, at_once=most, runs=study.num_runs, extends=_has_more_runs
    ) as experiment:
        if lab.fresh:
            for file in lab.folder.glob("*/model-*.safetensors"):
                file.unlink()
        selected: dict[tuple[str, int, int], Planner] = {}
        for tuner, repeats, runs in study.procedures:
            answers = _procedure(experiment, tuner, repeats, runs, study.variants, lab.folder, lab.reporting(tuner))
            if twice := sorted({label for label, *_ in answers} & {label for label, *_ in selected}):
                raise UserError(f"two tuners answer with {twice[0]!r}: leave out {tuner!r} or the other")
            selected |= answers
        before: set[tuple[str, str, int]] = set()
        for until in sorted(
            {runs for _, runs, _ in selected}
        ):  # apart, so that a budget that is added later changes none
            planners = [planner for (_, runs, _), planner in selected.items() if runs == until]
            planned = {run_key(run): run for run in (PlannedRun(p, s) for p in planners for s in study.seeds)}
            new = [planned[place] for place in sorted(planned.keys() - before)]
            experiment.run(new, FINAL, ("val", "test"), lab.reporting("answers"))
            before |= planned.keys()
        ends = {run_key(run): run for run in lab.store.runs(lab.name, FINAL)}
    answers = tuple(
        TunedPlanner(label, runs, repeat, planner, tuple(ends[run_key(PlannedRun(planner, s))] for s in study.seeds))
        for (label, runs, repeat), planner in selected.items()
    )
    reference = study.reference[0] if study.reference else ""
    return BudgetCurve(lab.task.name, study.tuners, study.runs, study.seeds, answers, reference, study.margin)


def _has_more_runs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was added are larger numbers of runs, after those that there were."""
    had = before["budgets"].get("runs") if isinstance(before.get("budgets"), dict) else None
    shorter = {**now["budgets"], "runs": now["budgets"]["runs"][: len(had) if isinstance(had, list) else 0]}
    return before == {**now, "budgets": shorter}


def _procedure(
    experiment: Experiment,
    name: str,
    repeats: int,
    runs: Sequence[int],
    variants: Sequence[str],
    folder: Path,
    progress: Callable[[int], None],
) -> Mapping[tuple[str, int, int], Planner]:
    """All repeats of a tuner's procedure in lockstep: (name of the answer, runs, repeat) -> planner.

    Rounds that are finished are not proposed anew.
    """
    tuner, task, planners = find_tuner(name), experiment.task, {}
    if isinstance(tuner, SelfTraining):
        for until in runs:
            for repeat in range(repeats):
                first = TUNERS.start + repeat * PER_REPEAT
                seeds = [first + tuner.seed_index(number) for number in range(until)]
                place = folder / f"{name}-{repeat}"
                place.mkdir(parents=True, exist_ok=True)
                given = task, repeat, seeds, experiment.execution, place
                planners[name, until, repeat] = experiment.engine.call(tuner.train, *given)
                progress(until * task.budget)
        return planners
    settings = name.partition(":")[2]
    records: list[list[RunRecord]] = [[] for _ in range(repeats)]
    turn = 0
    for until in runs:
        while len(records[0]) < until:
            done = len(records[0])
            count = min(tuner.batch_size(done), until - done)
            phase = f"{name}-{turn}"
            if len(_finished(experiment, phase)) < count * repeats:
                planned = []
                for repeat, earlier in enumerate(records):
                    first = TUNERS.start + repeat * PER_REPEAT
                    seeds = [first + tuner.seed_index(number) for number in range(done, done + count)]
                    planned += not_made_before(tuner.propose(task, repeat, earlier, count), seeds, earlier)
                experiment.run(planned, phase, ("val",), progress)
            else:
                progress(count * repeats * task.budget)
            for run in _finished(experiment, phase):
                records[(run.seed - TUNERS.start) // PER_REPEAT].append(run)
            turn += 1
        for repeat, earlier in enumerate(records):
            place = folder / f"{name}-{repeat}"
            place.mkdir(parents=True, exist_ok=True)
            selected = planners[name, until, repeat] = tuner.select(task, repeat, earlier, place)
            for kind in variants:
                for label, planner in find_variants(kind)(selected, task, repeat, earlier, place).items():
                    named = label.format(tuner=name)
                    own = f"{label} ({settings})" if settings and named == label else named
                    planners[own, until, repeat] = planner
            with suppress(OSError):  # not empty
                place.rmdir()
    return planners


def _finished(experiment: Experiment, phase: str) -> list[RunRecord]:
    """The finished runs of a round, with their curves, in an order that does not depend on how they were made."""
    runs = experiment.store.runs(experiment.name, phase, curves=True)
    return sorted((run for run in runs if run.status == "finished"), key=run_key)

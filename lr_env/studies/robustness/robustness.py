"""Off the path that planners were tuned on: what they lose to a schedule that was tuned anew for each condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError, check_seeds, unknown
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import find_tuner
from lr_env.rollout import PlannedRun
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.studies.robustness.perturbed import disturbed
from lr_env.studies.robustness.report import TUNED, RobustnessResult
from lr_env.studies.tuning_budget.report import REPORTED_SCORE, SELECTION_SCORE
from lr_env.studies.tuning_budget.tuning_budget import LEAST_TUNING_SEED, MOST_RUNS, Budgets, run_budgets
from lr_env.tasks import Task

ORACLE_SEED = 4_000_000
"""Seeds of the runs by which the schedule of a condition is chosen count up from here."""

CANDIDATES, CHECKS = 6, 4
"""Of a condition's schedules so many of the best are run again, on so many further seeds."""

Varied = Callable[[Task], Task]


def _same(task: Task) -> Task:
    return task


def _budget(factor: float) -> Varied:
    """What is left at the middle of the run is that much more."""

    def vary(task: Task) -> Task:
        if task.budget % (4 * task.segment):
            raise UserError(
                f"a budget of {task.budget} steps has no middle that can be halved between segments of {task.segment}: "
                "give a multiple of 4 segments, or leave the conditions 'half is left' and 'twice is left' out"
            )
        return replace(task, budget=round(task.budget * (1 + factor) / 2))

    return vary


def wider(task: Task, factor: int = 2) -> Task:
    """The task with a network that is so much wider.

    Raises:
        UserError: the network has no width among its settings.
    """
    network: Any = task.network
    if hasattr(network, "hidden"):
        return replace(task, network=replace(network, hidden=tuple(factor * width for width in network.hidden)))
    if hasattr(network, "width"):
        return replace(task, network=replace(network, width=factor * network.width))
    raise UserError(f"{task.name}: its network has no width that could be changed; leave the condition 'wider' out")


@dataclass(frozen=True)
class Condition:
    """Something that is otherwise than when planners were tuned.

    Attributes:
        vary: what is trained then.
        disturbance: settings of `lr_env.studies.robustness.perturbed.Disturbed`, of the task as it was.
    """

    vary: Varied = _same
    disturbance: Callable[[Task], Mapping[str, Any]] = lambda task: {}


def _rates(factor: float) -> Condition:
    return Condition(disturbance=lambda task: {"factor": factor, "until": 0.2})


def _left(factor: float) -> Condition:
    return Condition(_budget(factor), lambda task: {"announced": task.budget})


CONDITIONS: Mapping[str, Condition] = {
    "low start": _rates(1 / 5),
    "high start": _rates(3.0),
    "half is left": _left(0.5),
    "twice is left": _left(2.0),
    "quarter data": Condition(lambda task: replace(task, train_fraction=task.train_fraction / 4)),
    "wrong labels": Condition(lambda task: replace(task, label_noise=0.2)),
    "wider": Condition(wider),
    "large batch": Condition(lambda task: replace(task, batch_size=4 * task.batch_size)),
}
"""Rates off by a factor in the first fifth; half or twice of what was left at the middle; a quarter of the data; a
fifth of the labels wrong; twice the width; four times the batch."""


@dataclass(frozen=True)
class Conditions:
    """What is measured.

    Attributes:
        tuners: names of those who tune on the task as it is.
        runs: that each may make for that.
        oracle: runs by which the schedule of a condition is chosen, before the best are run again.
        seeds: on which all are run.
        names: of conditions.
    """

    tuners: tuple[str, ...]
    runs: int
    oracle: int
    seeds: tuple[int, ...]
    names: tuple[str, ...] = tuple(CONDITIONS)

    @property
    def most_tuning(self) -> int:
        """Runs by which a schedule is tuned for a condition."""
        return self.oracle + CANDIDATES * CHECKS

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError(f"no conditions: give some of {', '.join(CONDITIONS)}")
        for name in self.names:
            if name not in CONDITIONS:
                raise unknown("condition", name, CONDITIONS)
        check_seeds(self.seeds, LEAST_TUNING_SEED)
        if not CANDIDATES <= self.oracle <= MOST_RUNS:
            raise UserError(
                f"{self.oracle} runs to tune for a condition: give at least {CANDIDATES}, at most {MOST_RUNS:,}"
            )


def run_conditions(wanted: Conditions, lab: Lab, folder: Path) -> RobustnessResult:
    """Tune on the task, then run under each condition what was tuned, and what is tuned for it.

    Args:
        wanted: what is measured.
        lab: what is trained, and where: experiments of its name, followed by the condition.
        folder: where files of answers are kept.

    Raises:
        UserError: a condition does not go with the task; see `run_budgets`.
    """
    varied = {condition: CONDITIONS[condition].vary(lab.task) for condition in wanted.names}
    tuned = run_budgets(Budgets(wanted.tuners, (wanted.runs,), 1, wanted.seeds), lab.part("tuned"), folder)
    planners = {answer.label: answer.planner for answer in tuned.answers}
    best = tuned.best
    losses = {TUNED: {answer.label: answer.losses() for answer in tuned.answers}}
    oracles = {TUNED: (best.planner, best.losses())}
    for condition, other in varied.items():
        settings = CONDITIONS[condition].disturbance(lab.task)
        part, telling = lab.part(condition.replace(" ", "-"), other), lab.reporting(condition)
        final_runs = len(wanted.seeds) * len(planners)
        with part.experiment(
            {"condition": condition, "oracle": wanted.oracle, "seeds": list(wanted.seeds)},
            at_once=max(wanted.oracle, final_runs),
            runs=wanted.most_tuning + final_runs,
        ) as experiment:
            oracle = _oracle(experiment, wanted.oracle, settings, telling)
            final = {**{label: disturbed(planner, settings) for label, planner in planners.items()}, "": oracle}
            runs = {run_key(run): run for run in (PlannedRun(p, s) for p in final.values() for s in wanted.seeds)}
            experiment.run(sorted(runs.values(), key=run_key), "final", ("val", "test"), telling)
            ends = {run_key(run): run for run in lab.store.runs(part.name, "final")}
        found = {
            label: np.array([ends[run_key(PlannedRun(planner, seed))].end(REPORTED_SCORE) for seed in wanted.seeds])
            for label, planner in final.items()
        }
        oracles[condition] = oracle, found.pop("")
        losses[condition] = found
    return RobustnessResult(lab.task.name, wanted.seeds, losses, oracles, planners)


def _oracle(experiment: Experiment, runs: int, settings: Mapping[str, Any], progress: Callable[[int], None]) -> Planner:
    """The WSD schedule that is best under a condition: of so many, the best run again on further seeds."""
    offered = [disturbed(planner, settings) for planner in find_tuner("wsd").propose(experiment.task, 0, [], runs)]
    experiment.run([PlannedRun(planner, ORACLE_SEED) for planner in offered], "oracle", ("val",), progress)
    ends = _by_planner(experiment.store.runs(experiment.name, "oracle"), offered)
    best = sorted(offered, key=lambda planner: float(np.mean(ends[offered.index(planner)])))[:CANDIDATES]
    again = [PlannedRun(planner, ORACLE_SEED + 1 + seed) for planner in best for seed in range(CHECKS)]
    experiment.run(again, "oracle-again", ("val",), progress)
    more = _by_planner(experiment.store.runs(experiment.name, "oracle-again"), best)
    return best[int(np.argmin([np.mean(of) for of in more]))]


def _by_planner(records: Sequence[RunRecord], planners: Sequence[Planner]) -> list[list[float]]:
    """Losses on the whole validation split of each planner's runs; infinite where one diverged."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in records:
        found.setdefault(run_key(run)[:2], []).append(run.end(SELECTION_SCORE))
    return [found[run_key(PlannedRun(planner, 0))[:2]] for planner in planners]

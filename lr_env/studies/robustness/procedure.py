"""Robustness under shifted conditions: the regret relative to a schedule that is tuned for each condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_env.objectives import Objective
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import find_tuner
from lr_env.rollout import PlannedRun
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.seeds import CONDITIONS as CONDITIONS_SEEDS
from lr_env.studies.robustness.conditions import CANDIDATES, CHECKS, CONDITIONS
from lr_env.studies.robustness.perturbed import disturbed
from lr_env.studies.robustness.report import TUNED, RobustnessResult
from lr_env.studies.robustness.tracked import tracked
from lr_env.studies.tuning_budget.study import TuningBudget

if TYPE_CHECKING:
    from lr_env.studies.robustness.study import Robustness


def run_conditions(study: Robustness, lab: Lab) -> RobustnessResult:
    """Tune on the task, then run under each condition what was tuned, and what is tuned for it.

    Args:
        study: what is measured.
        lab: what is trained, and where: experiments of its name, followed by the condition.

    Raises:
        UserError: a condition does not go with the task; see `TuningBudget.run`.
    """
    names, left_out = study.names(lab.task)
    varied = {condition: CONDITIONS[condition].vary(lab.task) for condition in names}
    tuned = TuningBudget(study.tuners, (study.runs,), 1, study.seeds).run(lab.part("tuned"))
    planners = {answer.label: answer.planner for answer in tuned.answers}
    best = tuned.best
    losses = {TUNED: {answer.label: answer.losses() for answer in tuned.answers}}
    if study.track:
        followed = {f"{label}, tracked": (label, tracked(planner)) for label, planner in planners.items()}
        planners |= {name: planner for name, (_, planner) in followed.items() if planner is not None}
        # Nothing changes its rates there.
        losses[TUNED] |= {name: losses[TUNED][label] for name, (label, _) in followed.items() if name in planners}
    oracles, objective = {TUNED: (best.planner, best.losses())}, Objective.of(lab.task)
    for condition, other in varied.items():
        settings = CONDITIONS[condition].disturbance(lab.task)
        part, telling = lab.part(condition.replace(" ", "-"), other), lab.reporting(condition)
        final_runs = len(study.seeds) * len(planners)
        with part.experiment(
            {"condition": condition, "oracle": study.oracle, "seeds": list(study.seeds)},
            at_once=max(study.oracle, final_runs),
            runs=study.tuning_runs + final_runs,
        ) as experiment:
            oracle = _oracle(experiment, study.oracle, settings, telling)
            final = {**{label: disturbed(planner, settings) for label, planner in planners.items()}, "": oracle}
            runs = {run_key(run): run for run in (PlannedRun(p, s) for p in final.values() for s in study.seeds)}
            experiment.run(sorted(runs.values(), key=run_key), "final", ("val", "test"), telling)
            ends = {run_key(run): run for run in lab.store.runs(part.name, "final", curves=objective.needs_curves)}
        test_losses = {
            label: np.array([objective.reported(ends[run_key(PlannedRun(planner, seed))]) for seed in study.seeds])
            for label, planner in final.items()
        }
        oracles[condition] = oracle, test_losses.pop("")
        losses[condition] = test_losses
    return RobustnessResult(lab.task.name, study.seeds, losses, oracles, planners, left_out, objective)


def _oracle(experiment: Experiment, runs: int, settings: Mapping[str, Any], progress: Callable[[int], None]) -> Planner:
    """The best of a number of WSD schedules under a condition; the best few are run again on further seeds."""
    offered = [disturbed(planner, settings) for planner in find_tuner("wsd").propose(experiment.task, 0, [], runs)]
    experiment.run([PlannedRun(planner, CONDITIONS_SEEDS.start) for planner in offered], "oracle", ("val",), progress)
    objective = Objective.of(experiment.task)
    curves = objective.needs_curves
    ends = _by_planner(experiment.store.runs(experiment.name, "oracle", curves=curves), offered, objective)
    best = sorted(offered, key=lambda planner: float(np.mean(ends[offered.index(planner)])))[:CANDIDATES]
    again = [PlannedRun(planner, CONDITIONS_SEEDS.start + 1 + seed) for planner in best for seed in range(CHECKS)]
    experiment.run(again, "oracle-again", ("val",), progress)
    more = _by_planner(experiment.store.runs(experiment.name, "oracle-again", curves=curves), best, objective)
    return best[int(np.argmin([np.mean(of) for of in more]))]


def _by_planner(records: Sequence[RunRecord], planners: Sequence[Planner], objective: Objective) -> list[list[float]]:
    """What each planner's runs are selected by; infinite where one diverged."""
    losses: dict[tuple[str, str], list[float]] = {}
    for run in records:
        losses.setdefault(run_key(run)[:2], []).append(objective.selected(run))
    return [losses[run_key(PlannedRun(planner, 0))[:2]] for planner in planners]

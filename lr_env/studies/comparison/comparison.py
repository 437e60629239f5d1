"""The two jobs of the command line: a sweep of settings, and a head-to-head comparison on top of one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from lr_env.capabilities import Forking, Previewable, fingerprint, original_of, pretraining_steps
from lr_env.children import Backend
from lr_env.children.flatness import default_settings
from lr_env.children.meters import on_demand
from lr_env.env.episodes import FLATNESS
from lr_env.errors import UserError, check_seeds, refuse_duplicates
from lr_env.objectives import VAL_LOSS, Objective, check_planner
from lr_env.planner import Planner, planner_settings
from lr_env.provenance import code_version, device_name
from lr_env.pruning import PlannerPruners, PruningRule, find_rule
from lr_env.records.record import RunRecord, run_key, settings_key
from lr_env.registry import candidates, check_settings, find_planner, matched_control, with_settings
from lr_env.rollout import PlannedRun
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.runs.spec import ExperimentSpec
from lr_env.seeds import PER_REPEAT
from lr_env.studies.comparison.generations import generations, has_more_planners, merge_planners
from lr_env.studies.comparison.tuning import COMMON, Tuning, made_of_runs, spend, tuned_planner, tuning_runs
from lr_env.tasks import Task


@dataclass(frozen=True)
class ComparisonPlan:
    """What is to be run.

    Attributes:
        task: what is trained.
        planners: names of planners.
        rates: peak rates that a sweep tries, each planner one setting for each.
        tune_seeds: seeds of every setting's runs in the sweep.
        seeds: seeds of the final runs; none for a sweep alone.
        settings: planner -> settings in place of those that its sweep would try.
        flatness: whether to measure the Hessian at the end of the final runs.
        stop: rule by which runs of the sweep end early, see `lr_env.pruning.find_rule`.
        tuning_runs: runs that each planner has in the common procedure, see `lr_env.studies.comparison.tuning`; 0 for a
            sweep over `rates` on `tune_seeds`.
        margin: largest difference of losses that does not matter, nats per example; reports alone depend on it.
    """

    task: Task
    planners: tuple[str, ...]
    rates: tuple[float, ...]
    tune_seeds: tuple[int, ...]
    seeds: tuple[int, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    flatness: bool = False
    stop: str = "none"
    tuning_runs: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not self.planners:
            raise UserError("no planners: name at least one, e.g. --planners constant cosine")
        refuse_duplicates("planner", self.planners)
        check_seeds(self.seeds)
        if self.tuning_runs:
            if not 1 <= self.tuning_runs <= PER_REPEAT or self.rates or self.tune_seeds or self.rule is not None:
                raise UserError(
                    f"{self.tuning_runs} tuning runs: give 1 to {PER_REPEAT:,}, and no rates, tuning seeds or rule, "
                    "which are of a sweep over a grid"
                )
            return
        low, high = self.task.lr_range
        if not self.rates:
            raise UserError("no rates: give at least one, e.g. --rates 0.01:1:9")
        for rate in self.rates:
            if not (np.isfinite(rate) and low <= rate <= high):
                raise UserError(f"rate {rate:g}: rates must be finite and lie in the task's range, {low:g} to {high:g}")
        refuse_duplicates("rate", self.rates)
        check_seeds(self.tune_seeds)
        if not self.tune_seeds:
            raise UserError("no seeds to tune on: give at least one with --tune-seeds")
        if both := sorted(set(self.seeds) & set(self.tune_seeds)):
            raise UserError(
                f"seed {both[0]} is used for tuning and for the comparison: the comparison needs fresh seeds"
            )

    def tuning(self, planner: str) -> Tuning:
        """How a planner is tuned by the common procedure."""
        return Tuning(planner, self.task, self.settings.get(planner, {}), self.tuning_runs)

    def sample(self, planner: str) -> Planner | type[Planner]:
        """The planner with one of the settings that are tried; its class, where these follow from runs."""
        if not self.tuning_runs:
            return self.candidates(planner)[0]
        tuning = self.tuning(self.controls.get(planner, planner))
        if planner in self.controls or tuning.by_itself:
            return find_planner(planner)
        return tuning.given or tuning.tuner.propose(self.task, 0, [], 1)[0]

    def candidates(self, planner: str) -> list[Planner]:
        """The settings of a planner that the sweep tries: each once, so only one where all were given.

        Raises:
            UserError: the planner does not have a setting that is asked for.
        """
        offered = candidates(find_planner(planner), self.rates)
        fixed = dict(self.settings.get(planner, {}))
        check_settings(planner, fixed)
        changed = [with_settings(setting, fixed) for setting in offered]
        return [setting for index, setting in enumerate(changed) if setting not in changed[:index]]

    @cached_property  # finding a planner reads the metadata of every installed package
    def controls(self) -> dict[str, str]:
        """Control -> the planner that takes part and whose setting it takes over, in place of a sweep of its own."""
        originals = {name: original_of(find_planner(name)) for name in self.planners}
        return {name: original for name, original in originals.items() if original in self.planners}

    @cached_property
    def rule(self) -> PruningRule | None:
        """The rule by which runs of the sweep end early."""
        return find_rule(self.stop)

    def sweep_runs(self, planners: Sequence[str]) -> list[PlannedRun]:
        """Every setting of some planners on every tuning seed."""
        return [
            PlannedRun(setting, seed)
            for name in planners
            if name not in self.controls
            for setting in self.candidates(name)
            for seed in self.tune_seeds
        ]

    def sweep_rounds(self, planners: Sequence[str]) -> list[list[PlannedRun]]:
        """The same in rounds, each judged by those before: every other setting, then those between, seed by seed.

        Without a rule by which runs end early it is one round.
        """
        runs = self.sweep_runs(planners)
        if self.rule is None:
            return [runs]
        place = {
            settings_key(planner_settings(setting)): number
            for name in planners
            for number, setting in enumerate(self.candidates(name))
        }
        rounds: dict[tuple[int, int], list[PlannedRun]] = {}
        for run in runs:
            key = self.tune_seeds.index(run.seed), place[settings_key(run.settings)] % 2
            rounds.setdefault(key, []).append(run)
        return [rounds[key] for key in sorted(rounds)]

    def check_rates(self) -> None:
        """Find out before training that a schedule would ask for a rate outside the task's range.

        Only planners that can preview their rates are asked.

        Raises:
            UserError: naming the planner and the setting.
        """
        low, high = self.task.lr_range
        for name in () if self.tuning_runs else self.planners:
            for setting in self.candidates(name):
                if not isinstance(setting, Previewable):
                    continue
                rates = setting.preview(self.task.num_segments)
                if not (low <= rates.min() <= rates.max() <= high):
                    outside = rates.min() if rates.min() < low else rates.max()
                    raise UserError(
                        f"planner {name!r} with {planner_settings(setting)} would ask for the learning rate "
                        f"{outside:g}, outside the task's range of {low:g} to {high:g}: give other --rates or a "
                        "longer --segment"
                    )

    @cached_property
    def apart(self) -> tuple[str, ...]:
        """Planners in a class of their own: they were trained with more runs before than each has here."""
        if not self.tuning_runs:
            return ()
        return tuple(name for name in self.planners if name not in self.controls and self.tuning(name).apart)

    @property
    def reads_curves(self) -> bool:
        """Whether settings are chosen by the curves of runs."""
        return bool(self.tuning_runs) or Objective.of(self.task).needs_curves

    @property
    def measurements(self) -> dict[str, Any]:
        """How what is measured only on demand is measured; empty where nothing is."""
        return {FLATNESS: default_settings(self.task)} if self.flatness else {}

    @property
    def num_runs(self) -> int:
        """The number of all runs."""
        if self.tuning_runs:
            tuned = sum(self.tuning(name).left for name in self.planners if name not in self.controls)
        else:
            tuned = len(self.sweep_runs(self.planners))
        return tuned + len(self.planners) * len(self.seeds)

    @property
    def child_steps(self) -> int:
        """Optimizer steps of all runs."""
        return self.num_runs * self.task.budget

    def study(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the results depend on besides the task.

        Args:
            before: the spec that the experiment was begun with, if it was.

        Raises:
            UserError: the experiment cannot take these planners.
        """
        had = [name for generation in generations(before) for name in generation] if before else []
        for control, original in self.controls.items():
            if control in had and original not in had:
                raise UserError(
                    f"{control} already has a setting of its own in this experiment: to add {original} and run it as "
                    f"{original}'s control, start a new experiment with --name or --fresh"
                )
        samples = {name: self.sample(name) for name in self.planners}
        prints = {name: fingerprint(one) for name, one in samples.items() if not isinstance(one, type)}
        fingerprints = {name: value for name, value in prints.items() if value is not None}
        return {
            **merge_planners(before, self.planners),
            **({"settings": {name: dict(fixed) for name, fixed in self.settings.items()}} if self.settings else {}),
            **({"fingerprints": fingerprints} if fingerprints else {}),
            "rates": list(self.rates),
            "tune_seeds": list(self.tune_seeds),
            "seeds": list(self.seeds),
            **({} if self.rule is None else {"stop": self.rule.to_json()}),
            **({"tuning_runs": self.tuning_runs} if self.tuning_runs else {}),
            **self.measurements,
        }


@dataclass(frozen=True)
class ComparisonRuns:
    """The runs of a comparison.

    Attributes:
        tuning: the records of the sweep.
        final: the records of the final runs, with curves; empty for a sweep alone.
        chosen: planner -> its best setting in the sweep.
        spec: what the results depend on.
        seconds: wall time of this start.
    """

    tuning: Sequence[RunRecord]
    final: Sequence[RunRecord]
    chosen: Mapping[str, Planner]
    spec: ExperimentSpec
    seconds: float


def open_comparison(plan: ComparisonPlan, lab: Lab) -> AbstractContextManager[Experiment]:
    """Begin the experiment of a comparison, or go on with it; see `Lab.experiment`.

    Raises:
        UserError: see `ComparisonPlan` and `Lab.experiment`.
    """
    plan.check_rates()
    for name in plan.planners:
        if plan.tuning_runs and name not in plan.controls:
            plan.tuning(name).check()
        elif not plan.tuning_runs:
            check_planner(plan.candidates(name)[0], plan.task)
    kinds = {name: find_planner(name) for name in plan.planners}
    needs = frozenset().union(*(cast("Planner", plan.sample(name)).needs for name in plan.planners))
    return lab.experiment(
        plan.study,
        at_once=len(plan.planners) * max(len(plan.rates) * len(plan.tune_seeds), len(plan.seeds), 1),
        runs=plan.num_runs,
        extends=has_more_planners,
        planners=kinds,
        extra_signals=on_demand(needs),
        forks=any(isinstance(kind, Forking) for kind in kinds.values()),
    )


def run_comparison(plan: ComparisonPlan, lab: Lab) -> ComparisonRuns:
    """Make the runs of a plan, or those that are left: what an earlier start finished is not run again.

    Args:
        plan: what to run.
        lab: where, and how children are trained.

    Raises:
        UserError: see `ComparisonPlan` and `Lab.experiment`.
    """
    began = time.monotonic()
    with open_comparison(plan, lab) as experiment:
        batches = generations(experiment.spec.study)
        for names in batches:
            _tune(plan, names, experiment, lab)
        tuning = tuning_runs(lab.store, lab.name, curves=plan.reads_curves)
        chosen = choose(plan, tuning, lab.folder)
        for names in batches:
            final = [PlannedRun(chosen[planner], seed) for seed in plan.seeds for planner in names]
            experiment.run(final, "final", ("val", "test", *plan.measurements), lab.reporting("comparing"))
        records = lab.store.runs(lab.name, "final", curves=True) if plan.seeds else []
    return ComparisonRuns(tuning, records, chosen, experiment.spec, time.monotonic() - began)


def _tune(plan: ComparisonPlan, planners: Sequence[str], experiment: Experiment, lab: Lab) -> None:
    """Make the runs of a sweep, in rounds where a rule ends runs early.

    The runs of a planner are judged by its own of the rounds before, so that its sweep depends on no other planner. A
    setting of which a run ended early is not tried on further seeds.
    """
    report, before = lab.reporting("tuning"), []
    if plan.tuning_runs:
        spend([plan.tuning(name) for name in planners if name not in plan.controls], experiment, report)
        return
    for runs in plan.sweep_rounds(planners):
        out = {(record.planner, settings_key(record.settings)) for record in before if record.pruned}
        left = [run for run in runs if (run.planner.name, settings_key(run.settings)) not in out]
        experiment.run(left, "tune", ("val",), report, _pruners(plan, before))
        report((len(runs) - len(left)) * plan.task.budget)
        keys = {run_key(run) for run in left}
        if plan.rule is not None:
            before += [run for run in lab.store.runs(lab.name, "tune", curves=True) if run_key(run) in keys]


def _pruners(plan: ComparisonPlan, before: Sequence[RunRecord]) -> PlannerPruners | None:
    """A pruner for each planner, by its runs so far; None where all runs are to be whole."""
    if plan.rule is None or not before:
        return None
    of_planners = {
        name: plan.rule.pruner([record for record in before if record.planner == name], plan.task)
        for name in dict.fromkeys(record.planner for record in before)
    }
    return PlannerPruners(tuple((name, pruner) for name, pruner in of_planners.items() if pruner is not None))


def choose(plan: ComparisonPlan, tuning: Sequence[RunRecord], folder: Path) -> dict[str, Planner]:
    """The setting of each planner of a plan: the best of its runs, or that of the planner whose control it is.

    Args:
        plan: what was run.
        tuning: the runs of all planners, see `tuning_runs`; with curves where the plan reads them.
        folder: where files of planners are kept, such as fitted models.
    """
    swept = [name for name in plan.planners if name not in plan.controls]
    if plan.tuning_runs:
        of = {name: [run for run in tuning if tuned_planner(run) == name] for name in swept}
        chosen = {name: plan.tuning(name).select(of[name], folder) for name in swept}
    else:
        objective = Objective.of(plan.task)
        chosen = {name: best_setting(name, plan.candidates(name), tuning, objective) for name in swept}
    matched = {name: matched_control(name, chosen[of]) for name, of in plan.controls.items()}
    return {name: (chosen | matched)[name] for name in plan.planners}


def best_setting(
    planner: str, offered: Sequence[Planner], tuning: Sequence[RunRecord], objective: Objective = VAL_LOSS
) -> Planner:
    """The setting of a planner with the lowest mean loss on the whole validation split, over the tuning seeds.

    Another objective takes the place of that loss.

    A setting of which a run diverged, or ended early, comes after all others. Among equals the earlier setting wins.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in tuning:
        if record.planner == planner:
            runs.setdefault(settings_key(record.settings), []).append(record)

    def rank(setting: Planner) -> tuple[int, float]:
        of_setting = runs[settings_key(planner_settings(setting))]
        failed = sum(r.diverged or r.pruned for r in of_setting)
        return failed, float(np.mean([_loss(r, objective) for r in of_setting if not r.pruned] or [np.inf]))

    return min(offered, key=rank)


def _loss(record: RunRecord, objective: Objective) -> float:
    """The loss of a run, also where it diverged: settings of which some did are told apart by it."""
    return record.score("final_val_loss") if objective == VAL_LOSS else objective.selected(record)


def tuning_steps(tuning: Sequence[RunRecord], chosen: Mapping[str, Planner]) -> dict[str, int]:
    """Planner -> child steps that its sweep took, and what it was trained or fitted with before.

    Those of a control are those of the planner whose setting it takes over.
    """
    fitted = made_of_runs(tuning)
    steps = {planner: 0 if planner in fitted else pretraining_steps(setting) for planner, setting in chosen.items()}
    for record in tuning:
        planner = tuned_planner(record)
        steps[planner] = steps.get(planner, 0) + record.child_steps
    swept = {tuned_planner(record) for record in tuning}
    shared = {name: original_of(setting) for name, setting in chosen.items() if name not in swept}
    return steps | {name: steps[of] for name, of in shared.items() if of in steps}


def manifest(plan: ComparisonPlan, runs: ComparisonRuns, command: str) -> dict[str, Any]:
    """How the runs were made, for people and for programs."""
    training, steps = runs.spec.training, tuning_steps(runs.tuning, runs.chosen)
    backend = Backend(**training["backend"])
    swept = [] if plan.tuning_runs else [name for name in plan.planners if name not in plan.controls]
    tried = {name: len(plan.candidates(name)) for name in swept}
    fewer = {name: count for name, count in tried.items() if count < len(plan.rates)}
    how: dict[str, Any] = {"procedure": COMMON, "runs_per_planner": plan.tuning_runs}
    if not plan.tuning_runs:
        how = {
            "settings_per_planner": len(plan.rates),
            "runs_per_planner": len(plan.rates) * len(plan.tune_seeds),
            "rates": list(plan.rates),
            "seeds": list(plan.tune_seeds),
        }
    return {
        "title": f"{plan.task.name}: learning-rate schedules compared",
        "command": command,
        "task": plan.task.settings(),
        "data_sha256": runs.spec.data.get("sha256"),
        "seeds": list(plan.seeds),
        "tuning": {
            **how,
            **({"fewer_settings": fewer} if fewer else {}),
            **({"controls": plan.controls} if plan.controls else {}),
            **({} if plan.rule is None else {"stop": plan.stop, "stopped": sum(r.pruned for r in runs.tuning)}),
        },
        "child_steps": {
            "tuning": sum(n for name, n in steps.items() if name not in plan.controls),
            "final": sum(r.child_steps for r in runs.final),
        },
        "commit": code_version(),
        "device": _device(runs),
        "threads": runs.spec.threads,
        "backend": f"{backend}, {training['lockstep']} children in lockstep",
        "numerics": {name: value for name, value in training["wanted"].items() if name not in ("backend", "lockstep")},
        **plan.measurements,
        "versions": dict(runs.spec.versions),
        "wall_seconds_of_last_start": round(runs.seconds, 1),
    }


def _device(runs: ComparisonRuns) -> str:
    """The device that the last runs were made on, which may be one of another machine."""
    recorded = [str(run.provenance["device"]) for run in runs.final if run.provenance.get("device")]
    return recorded[-1] if recorded else device_name(runs.spec.device)

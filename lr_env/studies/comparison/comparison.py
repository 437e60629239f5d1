"""The two jobs of the command line: a sweep of settings, and a head-to-head comparison on top of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lr_env.capabilities import Forking, Previewable, fingerprint, original_of, pretraining_steps
from lr_env.children import Backend
from lr_env.children.flatness import usual_settings
from lr_env.children.meters import on_demand
from lr_env.children.numerics import EXACT, Numerics
from lr_env.env.episodes import FLATNESS
from lr_env.errors import UserError, check_seeds, refuse_duplicates
from lr_env.files import only_process
from lr_env.planner import Planner, planner_settings
from lr_env.provenance import code_version, device_name, versions
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.store import Store
from lr_env.registry import candidates, check_settings, find_planner, matched_control, with_settings
from lr_env.rollout import PlannedRun
from lr_env.runs.execution import Training, check_lockstep
from lr_env.runs.experiment import Experiment, added_to, generations, lock_of, start_over
from lr_env.runs.own_code import own_code
from lr_env.tasks import Task
from lr_env.tasks.data import data_spec, load


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        task: what is trained.
        planners: names of planners.
        rates: peak rates that a sweep tries, each planner one setting for each.
        tune_seeds: seeds of every setting's runs in the sweep.
        seeds: seeds of the final runs; none for a sweep alone.
        device: where children are trained.
        backend: "auto", "loop", "stacked" or "compiled".
        lockstep: children at a time; None for as many as pay and fit.
        checkpoint_seconds: wall time between checkpoints.
        settings: planner -> settings in place of those that its sweep would try.
        flatness: whether to measure the Hessian at the end of the final runs.
        numerics: precision and determinism.
    """

    task: Task
    planners: tuple[str, ...]
    rates: tuple[float, ...]
    tune_seeds: tuple[int, ...]
    seeds: tuple[int, ...] = ()
    device: str = "cpu"
    backend: str = "auto"
    lockstep: int | None = None
    checkpoint_seconds: float = 60.0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    flatness: bool = False
    numerics: Numerics = EXACT

    def __post_init__(self) -> None:
        if not self.planners:
            raise UserError("no planners: name at least one, e.g. --planners constant cosine")
        refuse_duplicates("planner", self.planners)
        low, high = self.task.lr_range
        if not self.rates:
            raise UserError("no rates: give at least one, e.g. --rates 0.01:1:9")
        for rate in self.rates:
            if not (np.isfinite(rate) and low <= rate <= high):
                raise UserError(f"rate {rate:g}: rates must be finite and lie in the task's range, {low:g} to {high:g}")
        refuse_duplicates("rate", self.rates)
        for seeds in (self.tune_seeds, self.seeds):
            check_seeds(seeds)
        if not self.tune_seeds:
            raise UserError("no seeds to tune on: give at least one with --tune-seeds")
        if both := sorted(set(self.seeds) & set(self.tune_seeds)):
            raise UserError(
                f"seed {both[0]} is used for tuning and for the comparison: the comparison needs fresh seeds"
            )
        check_lockstep(self.lockstep)

    def candidates(self, planner: str) -> list[Planner]:
        """The settings of a planner that the sweep tries: each once, so only one where all were given.

        Raises:
            UserError: the planner does not have a setting that is asked for.
        """
        offered = candidates(find_planner(planner), self.rates)
        own = dict(self.settings.get(planner, {}))
        check_settings(planner, own)
        changed = [with_settings(setting, own) for setting in offered]
        return [setting for index, setting in enumerate(changed) if setting not in changed[:index]]

    @cached_property  # finding a planner reads the metadata of every installed package
    def controls(self) -> dict[str, str]:
        """Control -> the planner that takes part and whose setting it takes over, in place of a sweep of its own."""
        originals = {name: original_of(find_planner(name)) for name in self.planners}
        return {name: original for name, original in originals.items() if original in self.planners}

    def sweep_runs(self, planners: Sequence[str]) -> list[PlannedRun]:
        """Every setting of some planners on every tuning seed."""
        return [
            PlannedRun(setting, seed)
            for name in planners
            if name not in self.controls
            for setting in self.candidates(name)
            for seed in self.tune_seeds
        ]

    def check_rates(self) -> None:
        """Find out before training that a schedule would ask for a rate outside the task's range.

        Only planners that can preview their rates are asked.

        Raises:
            UserError: naming the planner and the setting.
        """
        low, high = self.task.lr_range
        for name in self.planners:
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

    @property
    def measurements(self) -> dict[str, Any]:
        """How what is measured only on demand is measured; empty where nothing is."""
        return {FLATNESS: usual_settings(self.task)} if self.flatness else {}

    @property
    def child_steps(self) -> int:
        """Optimizer steps of all runs."""
        runs = len(self.sweep_runs(self.planners)) + len(self.planners) * len(self.seeds)
        return runs * self.task.budget

    def spec(self, known: Mapping[str, Any] | None) -> dict[str, Any]:
        """Everything that the results depend on; what was measured for an earlier start is taken from it."""
        most = len(self.planners) * max(len(self.rates) * len(self.tune_seeds), len(self.seeds))
        extra_signals = on_demand(frozenset().union(*(self.candidates(name)[0].needs for name in self.planners)))
        forks = any(isinstance(find_planner(name), Forking) for name in self.planners)
        how = Training(self.device, self.backend, self.lockstep, self.numerics, extra_signals, forks)
        training = how.settled(self.task, known, most, self.child_steps)
        prints = {name: fingerprint(self.candidates(name)[0]) for name in self.planners}
        fingerprints = {name: value for name, value in prints.items() if value is not None}
        code = own_code(self.task, {name: find_planner(name) for name in self.planners})
        return {
            "task": {**self.task.settings(), "target_val_loss": None},  # only read by the report
            **added_to(known, self.planners),
            **({"settings": {name: dict(own) for name, own in self.settings.items()}} if self.settings else {}),
            **({"fingerprints": fingerprints} if fingerprints else {}),
            **({"own_code": code} if code else {}),
            "rates": list(self.rates),
            "tune_seeds": list(self.tune_seeds),
            "seeds": list(self.seeds),
            "data": data_spec(self.task.data, self.device),
            "device": self.device,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "training": training,
            **self.measurements,
        }


@dataclass(frozen=True)
class Result:
    """What a job made.

    Attributes:
        tuning: the records of the sweep.
        final: the records of the final runs, with curves; empty for a sweep alone.
        chosen: planner -> its best setting in the sweep.
        spec: what the results depend on.
        seconds: wall time of this start of the job.
    """

    tuning: Sequence[RunRecord]
    final: Sequence[RunRecord]
    chosen: Mapping[str, Planner]
    spec: Mapping[str, Any]
    seconds: float


def run_job(
    job: Job,
    store: Store,
    name: str,
    *,
    fresh: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> Result:
    """Run a job, or what is left of it: what an earlier start finished, be it with fewer planners, is not run again.

    Args:
        job: what to run.
        store: where the records are kept.
        name: of the experiment in the store.
        fresh: forget what was done under this name before.
        progress: told (what is going on, child steps done since the last call).

    Raises:
        UserError: see `Job`, `Experiment` and `only_process`.
    """
    began = time.monotonic()
    report = progress or (lambda what, steps: None)
    with only_process(lock_of(store, name), f"{name!r} in {str(store.path)!r}"):
        job.check_rates()
        known = None if fresh else store.experiment(name)
        had = [planner for generation in generations(known) for planner in generation] if known else []
        for control, of in job.controls.items():
            if control in had and of not in had:
                raise UserError(f"planner {control} was tuned by itself: {of}, whose control it is, cannot be added")
        spec = job.spec(known)
        if fresh:  # once the job is known to be possible
            start_over(store, name)
        training = spec["training"]
        experiment = Experiment(
            store,
            name,
            job.task,
            spec,
            device=job.device,
            backend=Backend(**training["backend"]),
            lockstep=training["lockstep"],
            numerics=job.numerics,
            checkpoint_seconds=job.checkpoint_seconds,
        )
        for names in generations(spec):
            experiment.run(job.sweep_runs(names), "tune", ("val",), lambda steps: report("tuning", steps))
        tuning = store.runs(name, "tune")
        chosen = choose(job, tuning)
        for names in generations(spec):
            final = [PlannedRun(chosen[planner], seed) for seed in job.seeds for planner in names]
            experiment.run(final, "final", ("val", "test", *job.measurements), lambda steps: report("comparing", steps))
        records = store.runs(name, "final", curves=True) if job.seeds else []
    return Result(tuning, records, chosen, spec, time.monotonic() - began)


def choose(job: Job, tuning: Sequence[RunRecord]) -> dict[str, Planner]:
    """The setting of each planner of a job: the best of its sweep, or that of the planner whose control it is."""
    own = [name for name in job.planners if name not in job.controls]
    chosen = {name: best_setting(name, job.candidates(name), tuning) for name in own}
    matched = {name: matched_control(name, chosen[of]) for name, of in job.controls.items()}
    return {name: (chosen | matched)[name] for name in job.planners}


def best_setting(planner: str, offered: Sequence[Planner], tuning: Sequence[RunRecord]) -> Planner:
    """The setting of a planner with the lowest mean loss on the whole validation split, over the tuning seeds.

    A setting of which a run diverged comes after all others. Among equals the earlier setting wins.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in tuning:
        if record.planner == planner:
            runs.setdefault(settings_key(record.settings), []).append(record)

    def rank(setting: Planner) -> tuple[int, float]:
        found = runs[settings_key(planner_settings(setting))]
        return sum(r.diverged for r in found), float(np.mean([r.score("final_val_loss") for r in found]))

    return min(offered, key=rank)


def tuning_steps(tuning: Sequence[RunRecord], chosen: Mapping[str, Planner]) -> dict[str, int]:
    """Planner -> child steps that its sweep took, and what it was trained or fitted with before.

    Those of a control are those of the planner whose setting it takes over.
    """
    steps = {planner: pretraining_steps(setting) for planner, setting in chosen.items()}
    for record in tuning:
        steps[record.planner] = steps.get(record.planner, 0) + record.child_steps
    swept = {record.planner for record in tuning}
    shared = {name: original_of(setting) for name, setting in chosen.items() if name not in swept}
    return steps | {name: steps[of] for name, of in shared.items() if of in steps}


def manifest(job: Job, result: Result, command: str) -> dict[str, Any]:
    """How a result was made, for people and for programs."""
    training, steps = result.spec["training"], tuning_steps(result.tuning, result.chosen)
    backend = Backend(**training["backend"])
    tried = {name: len(job.candidates(name)) for name in job.planners if name not in job.controls}
    fewer = {name: count for name, count in tried.items() if count < len(job.rates)}
    return {
        "title": f"{job.task.name}: learning-rate schedules compared",
        "command": command,
        "task": job.task.settings(),
        "data_sha256": load(job.task.data).sha256,
        "seeds": list(job.seeds),
        "tuning": {
            "settings_per_planner": len(job.rates),
            "runs_per_planner": len(job.rates) * len(job.tune_seeds),
            "rates": list(job.rates),
            "seeds": list(job.tune_seeds),
            **({"fewer_settings": fewer} if fewer else {}),
            **({"controls": job.controls} if job.controls else {}),
        },
        "child_steps": {
            "tuning": sum(n for name, n in steps.items() if name not in job.controls),
            "final": sum(r.child_steps for r in result.final),
        },
        "commit": code_version(),
        "device": device_name(job.device),
        "threads": result.spec["threads"],
        "backend": f"{backend}, {training['lockstep']} children in lockstep",
        "numerics": asdict(job.numerics),
        **job.measurements,
        "versions": dict(result.spec["versions"]),
        "wall_seconds_of_last_start": round(result.seconds, 1),
    }

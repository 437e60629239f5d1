"""Ablations of the latent-ODE planners: variants that lack a part or have another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.latent_ode.artifact import MODELS
from planners.latent_ode.controls import BestOfSweep, MeanOfBest
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.generative.fit import GenerativeFitting
from planners.latent_ode.generative.planner import LatentODEGenerative
from planners.latent_ode.model.dynamics import Sizes
from planners.latent_ode.model.generative import GenerativeSizes
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.tuner import fitted_to
from planners.schedules import Constant, Cosine, OneCycle

PLANS: Mapping[str, Mapping[str, Any]] = {
    "no anchor": {"prior_strength": 0.0},
    "the best plan": {"averaging_temperature": 0.0},
    "the best plan, no pessimism": {"averaging_temperature": 0.0, "pessimism": 0.0},
    "the best plan, pessimism 2": {"averaging_temperature": 0.0, "pessimism": 2.0},
    "the best plan, by gradients": {"averaging_temperature": 0.0, "search_rounds": 0, "gradient_steps": 50},
    "blend 1": {"averaging_temperature": 1.0},
    "blend 4": {"averaging_temperature": 4.0},
    "horizon 8 %": {"horizon": 0.08},
    "horizon 16 %": {"horizon": 0.16},
    "horizon 50 %": {"horizon": 0.5},
    "planned once": {"plan_interval": 1.0},
    "planned every 5 %": {"plan_interval": 0.05},
    "any gain is enough": {"confidence_sigmas": 0.0},
    "first plan at 10 %": {"first_plan": 0.1},
    "no allowance for how runs answer": {"response_threshold": None},
    "trust 0.3": {"trust_radius": 0.3},
    "no trust region": {"trust_radius": None},
}
"""Label -> settings of the planner that replace those of the tuned one."""

FITS: Mapping[str, Fitting] = {
    "2 members": Fitting(sizes=Sizes(members=2)),
    "10 members": Fitting(sizes=Sizes(members=10)),
    "half the latent size": Fitting(sizes=Sizes(latent=3)),
    "path penalty 0.01": Fitting(path_penalty=0.01),
    "no corrections": Fitting(corrections=0),
}
"""Label -> settings of another fit of a model to the same runs."""


GENERATIVE_PLANS: Mapping[str, Mapping[str, Any]] = {
    "one-sided": {"two_sided_match": False},
    "taken up now": {"match_any_time": False},
    "one-sided, taken up now": {"two_sided_match": False, "match_any_time": False},
    "paths of one run": {"horizon_runs": 1},
    "sigma 0.05": {"sigma": 0.05},
    "sigma 0.5": {"sigma": 0.5},
    "tolerance 0.5": {"tolerance": 0.5},
    "tolerance 8": {"tolerance": 8.0},
    "200 samples": {"samples": 200},
    "one future": {"averaged_futures": 1},
    "horizon 16 %": {"horizon": 0.16},
    "horizon 50 %": {"horizon": 0.5},
    "planned at 10 % alone": {"plan_interval": 1.0},
    "planned at 30 % alone": {"first_plan": 0.3, "plan_interval": 1.0},
    "planned every 20 %": {"plan_interval": 0.2},
    "begun with one-cycle": {"warm_start_family": OneCycle.name},
    "begun with cosine": {"warm_start_family": Cosine.name},
    "begun with a constant": {"warm_start_family": Constant.name},
}
"""Label -> settings of the published planner that replace those of the tuned one."""

GENERATIVE_FITS: Mapping[str, GenerativeFitting] = {
    "window 10": GenerativeFitting(sizes=GenerativeSizes(window=10)),
    "time by the hundred": GenerativeFitting(sizes=GenerativeSizes(time=100.0)),
    "no path penalty": GenerativeFitting(path_penalty=0.0),
    "path penalty 1": GenerativeFitting(path_penalty=1.0),
}
"""Label -> settings of another fit of its model to the same runs."""

SWEEP_WITHOUT = {"without one-cycle": OneCycle.name, "without constants": Constant.name}
"""Label -> family of schedules whose runs are left out of the fit."""


def ablations(
    selected: Planner, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
) -> Mapping[str, Planner]:
    """Return variants of the latent-ODE planners that lack a part or have another one, made of the same runs."""
    if isinstance(selected, LatentODE):
        return _controlled(selected, task, seed, records, folder)
    if isinstance(selected, LatentODEGenerative):
        return _generative(selected, task, seed, records, folder)
    return {}


def _controlled(
    planner: LatentODE, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
) -> dict[str, Planner]:
    """Return planners with other settings, other fits, and the shipped models of other tasks."""
    variants: dict[str, Planner] = {label: replace(planner, **settings) for label, settings in PLANS.items()}
    for label, fitting in FITS.items():
        variants[label] = replace(planner, model=fitted_to(task, records, folder, replace(fitting, seed=seed)))
    for other in MODELS.shipped():
        if other != task.name:
            variants[f"model of {other}"] = LatentODE(model=other, mismatch="rescaled")
    return variants


def _generative(
    planner: LatentODEGenerative, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
) -> dict[str, Planner]:
    """Return planners with other settings and fits, and the controlled model and its controls on the same sweep."""

    def fitted(fitting: GenerativeFitting, runs: Sequence[RunRecord] = records) -> LatentODEGenerative:
        return LatentODEGenerative(model=fitted_to(task, runs, folder, replace(fitting, seed=seed)))

    controlled = LatentODE(model=fitted_to(task, records, folder, Fitting(seed=seed)))
    variants: dict[str, Planner] = {"controlled": controlled}
    variants |= {control.name: control.matched(controlled) for control in (BestOfSweep, MeanOfBest)}
    families = {record.planner for record in records}
    for label, settings in GENERATIVE_PLANS.items():
        if settings.get("warm_start_family", "") in ("", *families):
            variants[label] = replace(planner, **settings)
    variants |= {label: fitted(fitting) for label, fitting in GENERATIVE_FITS.items()}
    for label, family in SWEEP_WITHOUT.items():
        if family in families:
            variants[label] = fitted(GenerativeFitting(), [run for run in records if run.planner != family])
    return variants

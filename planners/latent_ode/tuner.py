"""The latent-ODE planner as a tuner: an adaptive sweep, a model of it, and what that model and its controls play."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.rollout import place_of
from lr_env.tasks import Task
from planners.latent_ode.controls import CONTROLS
from planners.latent_ode.data.dataset import MIN_RUNS, run_dataset
from planners.latent_ode.fit_report import about_runs
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.fitting.fit_artifact import fit_artifact
from planners.latent_ode.generative.fit import GenerativeFitting
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.sweep.sweep import ADAPTIVE, next_round, next_schedules, seed_number_of
from planners.tuning.tuners import AT_ONCE

ONCE = "latent-ode-once"
"""The planner that plans only at the start."""


@dataclass(frozen=True)
class LatentODETuner:
    """Spends runs as `lr-env fit` does, but that a round ends where it is asked for answers.

    Attributes:
        name: of the tuner.
        design: of its sweep.
    """

    name: str = LatentODE.name
    design: str = ADAPTIVE

    def round(self, done: int) -> int:
        """As in an adaptive sweep; other designs are run at once."""
        return next_round(done) if self.design == ADAPTIVE else AT_ONCE

    def check(self, runs: Sequence[int]) -> None:
        """See that a model can be fitted to so many.

        Raises:
            UserError: it cannot.
        """
        if min(runs) < MIN_RUNS:
            raise UserError(f"{min(runs)} runs of tuner {self.name!r}: a model needs at least {MIN_RUNS}")

    def seed_number(self, run: int) -> int:
        """As in a sweep."""
        return seed_number_of(self.design, run)

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The next runs of a sweep."""
        return next_schedules(self.design, task, task.tuning_range, seed, records, count)

    def answers(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Mapping[str, Planner]:
        """The planner, the same planning once, and the controls; the model is kept in the folder."""
        planner = LatentODE(model=fitted_to(task, records, folder, Fitting(seed=seed)))
        once = replace(planner, plan_interval=1.0)
        return {
            self.name: planner,
            ONCE: once,
            **{control.name: control.matched(planner) for control in CONTROLS},
        }


def fitted_to(task: Task, records: Sequence[RunRecord], folder: Path, fitting: Fitting | GenerativeFitting) -> str:
    """The file of the model of some runs, which is fitted if it is not there.

    Args:
        task: what is trained.
        records: the runs, with their curves.
        folder: where models are kept, each under a name that tells runs and fitting.
        fitting: how one is fitted.
    """
    told = [(*place_of(run), run.diverged, run.scores.get("final_val_loss")) for run in records]
    mark = sha256(json.dumps([told, task.settings(), asdict(fitting)], default=str).encode()).hexdigest()[:12]
    file = folder / f"model-{len(records)}-{mark}.safetensors"
    if not file.is_file():
        fitted, _ = fit_artifact(run_dataset(records, task.budget), fitting, about_runs(task, records))
        fitted.save(file)
    return str(file)


def latent_ode() -> LatentODETuner:
    """The tuner by its defaults."""
    return LatentODETuner()

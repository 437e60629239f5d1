"""The latent-ODE planners as tuners: a sweep, and a model of it to plan by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from lr_env.errors import UserError, unknown
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.tasks import Task
from planners.latent_ode.controls import CONTROLS
from planners.latent_ode.data.dataset import MIN_RUNS, run_dataset
from planners.latent_ode.fit_report import about_runs
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.fitting.fit_artifact import fit_artifact
from planners.latent_ode.generative.fit import GenerativeFitting
from planners.latent_ode.generative.planner import LatentODEGenerative
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.sweep.designs import DESIGNS
from planners.latent_ode.sweep.sweep import ADAPTIVE, next_round, next_schedules, seed_number
from planners.tuning.tuners import UNLIMITED_BATCH

ONCE = "latent-ode-once"
"""The planner that plans only at the start."""


@dataclass(frozen=True)
class LatentODETuner:
    """The sweep of `lr-env fit`, and then the planner latent-ode with a model of its runs.

    A round of the sweep ends early where a planner is asked for.

    Attributes:
        name: name of the tuner.
        design: design of its sweep: adaptive, or a name in `planners.latent_ode.sweep.designs.DESIGNS`.

    Raises:
        UserError: there is no such design.
    """

    name: str = LatentODE.name
    design: str = ADAPTIVE

    reads_curves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.design not in (designs := {ADAPTIVE, *DESIGNS}):
            raise unknown("design", self.design, designs)

    def batch_size(self, done: int) -> int:
        """Return the size of the next round of an adaptive sweep; other designs have one round."""
        return next_round(done) if self.design == ADAPTIVE else UNLIMITED_BATCH

    def check(self, runs: Sequence[int]) -> None:
        """Check that a model can be fitted to each of these numbers of runs.

        Raises:
            UserError: it cannot.
        """
        if min(runs) < MIN_RUNS:
            raise UserError(f"{min(runs)} runs of tuner {self.name!r}: a model needs at least {MIN_RUNS}")

    def seed_index(self, run: int) -> int:
        """Return the number of the seed of a run, as in a sweep."""
        return seed_number(self.design, run)

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Return the schedules of the next runs of the sweep."""
        return next_schedules(self.design, task, task.tuning_range, seed, records, count)

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """Return the planner with a model of the runs, which is saved in the folder."""
        return LatentODE(model=fitted_to(task, records, folder, Fitting(seed=seed)))


@dataclass(frozen=True)
class GenerativeTuner(LatentODETuner):
    """The sweep of arXiv:2509.23052, and then the planner latent-ode-generative with a model of its runs."""

    name: str = LatentODEGenerative.name
    design: str = "paper"

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """Return the planner with a model of the runs, which is saved in the folder."""
        return LatentODEGenerative(model=fitted_to(task, records, folder, GenerativeFitting(seed=seed)))


def controls(
    selected: Planner, task: Task, seed: int, records: Sequence[RunRecord], folder: Path
) -> Mapping[str, Planner]:
    """Return variants of the latent-ODE planner: the same planning only once, and its controls."""
    if not isinstance(selected, LatentODE):
        return {}
    return {
        ONCE: replace(selected, plan_interval=1.0),
        **{control.name: control.matched(selected) for control in CONTROLS},
    }


def fitted_to(task: Task, records: Sequence[RunRecord], folder: Path, fitting: Fitting | GenerativeFitting) -> str:
    """Return the file of the model of some runs with their curves; fit the model if the file is not there.

    The records have the objective of the task in the place of the validation loss, see `Objective.as_loss`.

    The name of the file in the folder contains a hash of the runs and the settings of the fit.
    """
    ends = [(*run_key(run), run.diverged, run.scores.get("final_val_loss")) for run in records]
    mark = sha256(json.dumps([ends, task.settings(), asdict(fitting)], default=str).encode()).hexdigest()[:12]
    file = folder / f"model-{len(records)}-{mark}.safetensors"
    if not file.is_file():
        fitted, _ = fit_artifact(run_dataset(records, task.budget), fitting, about_runs(task, records))
        fitted.save(file)
    return str(file)

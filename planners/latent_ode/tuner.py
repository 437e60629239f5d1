"""The latent-ODE planner as a tuner: an adaptive sweep, a model of it, and what that model and its controls play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.latent_ode.controls import CONTROLS
from planners.latent_ode.designs import wsd
from planners.latent_ode.fit import Fitting, fit
from planners.latent_ode.fitting_report import about_runs
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.repertoire import repertoire_of
from planners.latent_ode.series import series
from planners.latent_ode.sweep import adapted, next_round, seed_number
from planners.latent_ode.trained import Trained

ONCE = "latent-ode-once"
"""The planner that plans only at the start."""


@dataclass(frozen=True)
class LatentODETuner:
    """Spends runs as `lr-env fit` does.

    Attributes:
        name: of the tuner.
    """

    name: str = LatentODE.name

    def round(self, done: int) -> int:
        """As in an adaptive sweep."""
        return next_round(done)

    def seed_number(self, run: int) -> int:
        """As in a sweep."""
        return seed_number(run)

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The runs of an adaptive sweep."""
        if not records:
            return [run.planner for run in wsd(count, task.tuning_range, [0] * count, seed)]
        return adapted(task, seed, records, count)

    def answers(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Mapping[str, Planner]:
        """The planner, the same planning once, and the controls; the model is kept in the folder."""
        file = folder / f"model-{len(records)}.safetensors"
        if not file.is_file():
            runs = series(records, task.budget)
            fitted = fit(runs, Fitting(seed=seed))
            about = about_runs(task, records)
            Trained(fitted.model, fitted.scales, repertoire_of(runs), about).save(file)
        planner = LatentODE(model=str(file))
        once = LatentODE(model=str(file), every=1.0)
        return {
            self.name: planner,
            ONCE: once,
            **{control.name: control.matched(planner) for control in CONTROLS},
        }


def latent_ode() -> LatentODETuner:
    """The tuner by its defaults."""
    return LatentODETuner()

"""The latent-ODE planner without each of its parts, and otherwise, as answers of tuners for `lr-env budget`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.latent_ode.fit import Fitting
from planners.latent_ode.model import Sizes
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.trained import shipped_models
from planners.latent_ode.tuner import LatentODETuner, fitted_to

DEFAULT = "by default"
"""The planner as it is."""

PLANS: Mapping[str, Mapping[str, Any]] = {
    "the best plan": {"blend": 0.0},
    "the best plan, no pessimism": {"blend": 0.0, "pessimism": 0.0},
    "the best plan, pessimism 2": {"blend": 0.0, "pessimism": 2.0},
    "the best plan, by gradients": {"blend": 0.0, "rounds": 0, "ascents": 50},
    "blend 1": {"blend": 1.0},
    "blend 4": {"blend": 4.0},
    "horizon 8 %": {"horizon": 0.08},
    "horizon 16 %": {"horizon": 0.16},
    "horizon 50 %": {"horizon": 0.5},
    "planned once": {"every": 1.0},
    "planned every 5 %": {"every": 0.05},
    "any gain is enough": {"sure": 0.0},
    "first plan at 10 %": {"lead": 0.1},
    "trust 0.3": {"trust": 0.3},
    "no trust region": {"trust": None},
}
"""Label -> settings of the planner that are otherwise."""

FITS: Mapping[str, Fitting] = {
    "2 members": Fitting(sizes=Sizes(members=2)),
    "10 members": Fitting(sizes=Sizes(members=10)),
    "half the latent size": Fitting(sizes=Sizes(latent=3)),
    "path penalty 0.01": Fitting(path_penalty=0.01),
    "no corrections": Fitting(corrections=0),
}
"""Label -> how else a model is fitted to the same runs."""


@dataclass(frozen=True)
class Ablations(LatentODETuner):
    """Spends runs as its parent does; answers with the planner, and with all that it might be instead.

    Attributes:
        design: of its sweep.
    """

    name: str = "latent-ode-ablations"

    def answers(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Mapping[str, Planner]:
        """The planner first; models are kept in the folder, but for those of other tasks, which are shipped."""
        planner = LatentODE(model=fitted_to(task, records, folder, Fitting(seed=seed)))
        found: dict[str, Planner] = {DEFAULT: planner}
        found |= {label: replace(planner, **settings) for label, settings in PLANS.items()}
        for label, fitting in FITS.items():
            found[label] = replace(planner, model=fitted_to(task, records, folder, replace(fitting, seed=seed)))
        for other in shipped_models():
            if other != task.name:
                found[f"model of {other}"] = LatentODE(model=other, reuse="rescaled")
        return found


@dataclass(frozen=True)
class OfADesign(LatentODETuner):
    """A sweep of another design, whose kinds of runs may depend on how many are asked for at once."""

    def answers(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Mapping[str, Planner]:
        """The planner under the name of the tuner, and nothing else."""
        return {self.name: LatentODE(model=fitted_to(task, records, folder, Fitting(seed=seed)))}


def ablations() -> Ablations:
    """All of `PLANS` and `FITS`."""
    return Ablations()


def paper() -> OfADesign:
    """The sweep of arXiv:2509.23052."""
    return OfADesign("latent-ode-paper", "paper")


def random() -> OfADesign:
    """Random straight lines of the log rate."""
    return OfADesign("latent-ode-random-sweep", "random")


def mixed() -> OfADesign:
    """These and schedules that people use."""
    return OfADesign("latent-ode-mixed", "mixed")


def wsd() -> OfADesign:
    """Warm-up, stable, decay: the beginning of an adaptive sweep all through."""
    return OfADesign("latent-ode-wsd", "wsd")

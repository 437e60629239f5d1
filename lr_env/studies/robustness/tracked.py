"""Tracked planners: they make up for rates that are changed before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import Forking, OwnOptimizer
from lr_env.planner import Planner, RunSpec, Signals, State
from lr_env.rates import actuation_factor
from lr_env.studies.robustness.around import Around


@dataclass(frozen=True)
class Tracked(Around):
    """A planner whose next rate is divided by the factor by which its last one was changed on the way.

    What is asked for and what is used differ where a wrapper, a scheduler or a disturbance stands between. Any planner
    can have this; `latent-ode` has it by itself (`compensate_actuation`).

    Attributes:
        tracked: True; tells the settings from those of other planners around it.
    """

    tracked: bool = True

    reads: ClassVar[frozenset[str]] = frozenset({"lr"})

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment."""
        return {"own": self.planner.start(run, seeds), "asked": None, "range": list(run.lr_range)}

    def plan(self, state: State, signals: Signals) -> tuple[NDArray[np.float64], State]:
        """The rate of each run, as the planner's `plan` has it, (runs,) or (runs, draws)."""
        lr, own = self.planner.plan(state["own"], signals)
        lr = np.asarray(lr, dtype=np.float64)
        if state["asked"] is not None:
            factor = actuation_factor(signals["lr"], state["asked"])
            lr = np.clip(lr / factor.reshape(-1, *[1] * (lr.ndim - 1)), *state["range"])
        # As the signal has it: the largest rate of all groups of parameters.
        asked = lr.max(1)[:, -1] if lr.ndim == 3 else lr.reshape(len(lr), -1).mean(1)
        return lr, {**state, "own": own, "asked": asked}


def tracked(planner: Planner) -> Planner | None:
    """A planner that is tracked; None where that is not possible, or where it is by itself."""
    if isinstance(planner, Forking | OwnOptimizer) or hasattr(planner, "compensate_actuation"):
        return None
    return Tracked(planner, planner.name)

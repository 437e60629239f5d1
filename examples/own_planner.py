"""Add a planner and compare it: "halving" lowers the rate when the validation loss stalls.

python examples/own_planner.py --seeds 10

To find it by name in `lr-env compare` as well, declare it in the pyproject.toml of your package:

    [project.entry-points."lr_env.planners"]
    halving = "my_package:Halving"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from lr_env import TASKS
from lr_env.planner import RunSpec, Signals, State, require
from lr_env.rollout import rollout
from planners.schedules import Constant, Cosine


@dataclass(frozen=True)
class Halving:
    """Halves the rate when the validation loss has not improved for some segments."""

    peak: float
    patience: int = 5

    name = "halving"
    needs = frozenset({"val_loss"})

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Nothing seen yet, for each of the runs."""
        runs = len(seeds)
        return {"lr": np.full(runs, self.peak), "best": np.full(runs, np.inf), "waited": np.zeros(runs, dtype=int)}

    def plan(self, state: State, signals: Signals) -> tuple[np.ndarray, State]:
        """The rate of every run; what changes goes into a new state, so that runs can be resumed and forked."""
        require(self, signals)
        better = signals["val_loss"] < state["best"]
        waited = np.where(better, 0, state["waited"] + 1)
        stalled = waited > self.patience
        lr = np.where(stalled, state["lr"] / 2, state["lr"])
        best = np.minimum(signals["val_loss"], state["best"])
        return lr, {"lr": lr, "best": best, "waited": np.where(stalled, 0, waited)}

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> list[Halving]:
        """One setting for each peak rate of a sweep."""
        return [cls(rate) for rate in rates]


@dataclass
class Args:
    task: str = "DigitsMLP"
    """What is trained."""
    peak: float = 0.05
    """Largest learning rate of every planner."""
    seeds: int = 10
    """Paired runs of every planner."""


def main(args: Args) -> None:
    for planner in (Constant(args.peak), Cosine(args.peak), Halving(args.peak)):
        records = rollout(planner, TASKS[args.task], range(args.seeds))
        losses = np.array([record.scores["test_loss"] for record in records])
        print(
            f"{planner.name:10} test loss {losses.mean():.4f} (standard deviation {losses.std():.4f}, n={len(losses)})"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Add a planner of your own and compare it: "halving" halves the rate when the validation loss stalls.

python examples/own_planner.py --seeds 10

`lr-env compare` finds it by its name if the pyproject.toml of your package declares it:

    [project.entry-points."lr_env.planners"]
    halving = "my_package:Halving"
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from lr_env import TASKS
from lr_env.planner import RunSpec, Signals, State, require, step_after
from lr_env.rollout import rollout
from lr_env.testing import check_planner
from planners.schedules import Constant, Cosine


@dataclass(frozen=True)
class Halving:
    """Halve the rate when the validation loss has not improved for some segments."""

    peak: float
    patience: int = 5

    name = "halving"
    needs = frozenset({"step", "val_loss"})

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state before the first segment, with one entry for each run."""
        runs = len(seeds)
        return {"lr": np.full(runs, self.peak), "best": np.full(runs, np.inf), "waited": np.zeros(runs, dtype=int)}

    def plan(self, state: State, signals: Signals) -> tuple[np.ndarray, State]:
        """Return the rate of every run, and a new state. The old one is not changed, so that runs can be resumed."""
        require(self, signals)
        step = step_after(self, state, signals)  # refuses a second call in the same segment
        better = signals["val_loss"] < state["best"]
        waited = np.where(better, 0, state["waited"] + 1)
        stalled = waited > self.patience
        lr = np.where(stalled, state["lr"] / 2, state["lr"])
        best = np.minimum(signals["val_loss"], state["best"])
        return lr.copy(), {"lr": lr, "best": best, "waited": np.where(stalled, 0, waited), "step": step}

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> list[Halving]:
        """Return the settings that a sweep tries: one for each peak rate."""
        return [cls(rate) for rate in rates]


@dataclass
class Args:
    task: str = "DigitsMLP"
    """Name of the task; `lr-env tasks` lists them."""
    peak: float = 0.05
    """Peak learning rate of every planner."""
    seeds: int = 10
    """Runs of every planner, on the same seeds."""


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_planner(Halving(args.peak), Path(folder))  # conformance tests; call them in the tests of your package
    for planner in (Constant(args.peak), Cosine(args.peak), Halving(args.peak)):
        records = rollout(planner, TASKS[args.task], range(args.seeds))
        losses = np.array([record.scores["test_loss"] for record in records])
        print(
            f"{planner.name:10} test loss {losses.mean():.4f} (standard deviation {losses.std():.4f}, n={len(losses)})"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))

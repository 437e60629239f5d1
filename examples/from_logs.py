"""From logs to a planned run: train with different schedules, import TensorBoard's files, fit a model, plan with it.

python examples/from_logs.py --data fashion-mnist --runs 30 --seeds 10

It asks two questions on fresh seeds: is the planned run better than the best logged schedule, and than WSD (warm-up,
stable, decay) tuned with as many runs?
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from own_training import Args as Training
from own_training import main as train

from lr_env.stats.intervals import paired_difference

SHAPES = ("cosine", "linear", "one-cycle", "wsd", "constant", "multi-step")


@dataclass
class Args:
    data: str = "digits"
    """Data set: digits, fashion-mnist or cifar10."""
    steps: int = 1000
    """Optimizer steps of a run."""
    runs: int = 30
    """Runs that are logged, and runs that WSD is tuned with."""
    seeds: int = 10
    """Fresh seeds for the comparison."""
    members: int = 5
    """Models in the ensemble that is fitted to the logs."""
    folder: Path = Path("from-logs")
    """Folder for logs, record store and model."""


def lr_env(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lr_env.cli", *words], check=True)


def main(args: Args) -> None:
    random = np.random.default_rng(0)
    common = {"data": args.data, "steps": args.steps, "every": max(1, args.steps // 50)}

    logged = []
    for number in range(args.runs):
        peak = float(f"{10 ** random.uniform(-2.5, 0):.3g}")
        settings = {"planner": SHAPES[number % len(SHAPES)], "peak": peak, **common}
        logged.append(
            (train(Training(**settings, seed=1000 + number, log=args.folder / "logs" / str(number))), settings)
        )

    store = ["--store", str(args.folder / "records.sqlite")]
    lr_env("import", str(args.folder / "logs"), "--name", "mine", *store, "--fresh")
    lr_env("fit", "--runs-of", "mine", "--members", str(args.members), *store, "--results", str(args.folder))
    model = args.folder / "fit" / "mine" / "model.safetensors"

    tuned = []
    for number in range(args.runs):
        shape = f"warmup={random.uniform(0.02, 0.3):.3g}", f"cooldown={random.uniform(0.1, 0.7):.3g}"
        peak = float(f"{10 ** random.uniform(-2.5, 0):.3g}")
        settings = {"planner": "wsd", "peak": peak, "set": shape, **common}
        tuned.append((train(Training(**settings, seed=2000 + number)), settings))

    def best(runs: list[tuple[float, dict]]) -> dict:
        return min(runs, key=lambda run: np.nan_to_num(run[0], nan=np.inf))[1]

    contenders = {
        "planned": {"planner": "latent-ode", "model": model, **common},
        "best of the logged": best(logged),
        "tuned WSD": best(tuned),
    }
    losses = {
        name: np.array([train(Training(**settings, seed=seed)) for seed in range(args.seeds)])
        for name, settings in contenders.items()
    }
    for name, settings in contenders.items():
        print(f"{name:18} validation loss {losses[name].mean():.4f}  {settings}")
    for name in ("best of the logged", "tuned WSD"):
        difference = paired_difference(losses["planned"], losses[name])
        print(
            f"planned - {name}: {difference.value:+.4f}, 95 % interval [{difference.low:+.4f}, {difference.high:+.4f}]"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))

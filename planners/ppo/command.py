"""`lr-env train-ppo`: train a controller of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from tyro.conf import arg

from lr_env.cli.parsing import parse_name, progress_bar, writable
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError
from lr_env.runs.options import parse_rates

_MOST = {"decisions": 10**9, "children": 10**6, "noise": 10.0}
"""More are a slip of the finger."""


@dataclass(frozen=True)
class TrainPpo(TaskOptions):
    """Train a PPO controller (arXiv:1909.09712) on children in lockstep; the best policy by validation loss is kept."""

    decisions: Annotated[int, arg(metavar="N")] = 400_000
    """Decisions to learn from, over all children."""
    children: Annotated[int, arg(metavar="N")] = 32
    """Children trained at a time."""
    action: Annotated[str, arg(metavar="NAME")] = "scale"
    """scale (continuous) or discrete (lower, keep, raise)."""
    max_change: Annotated[float, arg(metavar="FACTOR")] = 1.05
    """Factor of the largest action."""
    reward: Annotated[str, arg(metavar="NAME")] = "improvement"
    """improvement, neg_val_loss or final."""
    start_rates: Annotated[str, arg(metavar="RATES")] = "0.01,0.001,0.0001"
    """Rates of which each run starts from one."""
    noise: Annotated[float, arg(metavar="SIGMA")] = 0.0
    """Standard deviation of Gaussian noise on the log of the rate at each decision of training."""
    gamma: Annotated[float, arg(metavar="FACTOR")] = 1.0
    """Discount of a decision."""
    gae_lambda: Annotated[float, arg(metavar="FACTOR")] = 1.0
    """Of generalised advantage estimation; 1 looks at all that follows a decision."""
    learning_rate: Annotated[float, arg(metavar="RATE")] = 1e-3
    """Learning rate of the policy."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the policy and of the children."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the training, under results/ppo. Default: that of the task."""
    results: Path = Path("results")
    """Folder for the results."""
    fresh: bool = False
    """Forget what was trained under this name, and start over."""
    tensorboard: bool = False
    """Write TensorBoard's logs, too."""

    @property
    def folder(self) -> Path:
        """Where the policy goes, and what is kept of its training."""
        return self.results / "ppo" / parse_name(self.task if self.name is None else self.name)

    def run(self) -> None:
        """Train, and say how good it became."""
        trainer = _trainer()
        task, folder = self.varied_task(), self.folder
        for what, most in _MOST.items():
            if getattr(self, what) > most:
                raise UserError(f"{what} {getattr(self, what)}: give at most {most:,}")
        own = {field.name for field in fields(trainer.PPOSettings)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in own} | {"start_rates": parse_rates(self.start_rates)}
        training = trainer.PPOSettings(**given)
        writable(folder)
        with progress_bar(self.decisions) as progress:
            made: dict[str, Any] = trainer.train(
                task,
                training,
                folder,
                execution=self.execution(),
                fresh=self.fresh,
                tensorboard=self.tensorboard,
                progress=progress,
            )
        history = made["history"]
        best = min(history, key=lambda entry: entry["val_loss"])
        share = 100 * made["seconds"]["children"] / max(made["seconds"]["whole"], 1e-9)
        print(f"validation loss {history[0]['val_loss']:.4f} untrained, {best['val_loss']:.4f} at best", end=" ")
        print(f"(after {best['decisions']:,} decisions), {history[-1]['val_loss']:.4f} at the end")
        print(f"{made['child_steps']:,} child steps; {share:.0f} % of the time went to the children")
        policy = folder / "policy.safetensors"
        print(f"Policy: {policy}; see what it makes of those rates, and compare it, with")
        print(f"  lr-env start-rates {self.task}{self.variation} --rates {self.start_rates} --set policy={policy}")
        print(f"  lr-env compare {self.task}{self.variation} --planners ppo constant --set ppo.policy={policy}")


def _trainer() -> ModuleType:
    """The module that trains, which needs stable-baselines3.

    Raises:
        UserError: that is not installed.
    """
    try:
        from planners.ppo import training
    except ImportError as error:
        raise UserError(
            f"training a controller needs the package stable-baselines3 ({error}): pip install stable-baselines3"
        ) from error
    return training

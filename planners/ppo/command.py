"""`lr-env train-ppo`: train a controller of the learning rate with PPO."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from lr_env.cli.engine_options import TrainingOptions
from lr_env.cli.parsing import beyond, parse_name, progress_bar, writable
from lr_env.errors import UserError
from lr_env.runs.options import parse_rates

if TYPE_CHECKING:
    from lr_env.tasks import Task, TaskFamily

_LIMITS = {"decisions": 10**9, "children": 10**6, "noise": 10.0}
"""Upper limits that catch typing errors."""

_FAMILY_OPTIONS = (
    "family", "decisions", "children", "action", "max_change", "reward", "noise", "gamma", "gae_lambda",
    "learning_rate", "seed", "name", "results", "fresh", "tensorboard", "log", "device", "backend", "threads", "engine",
    "workers", "ray_address",
)  # fmt: skip
"""Options that apply to a task family, whose tasks have initial rates of their own."""


@dataclass(frozen=True)
class TrainPpo(TrainingOptions):
    """Train a PPO controller of the learning rate (arXiv:1909.09712), and save the best policy by validation loss.

    The controller changes the rate once a segment. It learns from many networks ("children") trained at the same time,
    all on one TASK; with --family each round of them is on another task of a family.
    """

    resumable: ClassVar[bool] = True
    """What was done before a stop is stored, and the same command continues it."""

    task: Annotated[str, Positional, arg(metavar="TASK", help_behavior_hint="(not with --family)")] = ""
    """Name of the task (data set, network, optimizer, batch size, budget); `lr-env tasks` lists them."""
    family: Annotated[str | None, arg(metavar="NAME")] = None
    """Learn on the tasks of a family in place of a TASK; each begins at its own rate."""
    decisions: Annotated[int, arg(metavar="N")] = 400_000
    """Actions to learn from: one for each segment of each child."""
    children: Annotated[int, arg(metavar="N")] = 32
    """Children trained at the same time."""
    action: Annotated[str, arg(metavar="NAME")] = "scale"
    """Kind of action: scale (any factor up to --max-change) or discrete (lower, keep, raise)."""
    max_change: Annotated[float, arg(metavar="FACTOR")] = 1.05
    """Largest factor by which one action changes the rate."""
    reward: Annotated[str, arg(metavar="NAME")] = "improvement"
    """Reward: improvement (of the log validation loss), neg_val_loss or final (minus the loss at the end)."""
    start_rates: Annotated[str, arg(metavar="RATES")] = "0.01,0.001,0.0001"
    """Initial rates; each run draws one of them."""
    noise: Annotated[float, arg(metavar="SIGMA")] = 0.0
    """Standard deviation of Gaussian noise on the log rate of each segment, while training."""
    gamma: Annotated[float, arg(metavar="FACTOR")] = 1.0
    """Discount factor for each action."""
    gae_lambda: Annotated[float, arg(metavar="FACTOR")] = 1.0
    """Lambda of generalised advantage estimation; 1 uses all later rewards."""
    learning_rate: Annotated[float, arg(metavar="RATE")] = 1e-3
    """Learning rate of the policy."""
    seed: Annotated[int, arg(metavar="SEED")] = 0
    """Seed of the policy and of the children."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the training and of its folder in results/ppo. Default: the name of the task."""
    results: Path = Path("results")
    """Folder for the results."""
    fresh: bool = False
    """Delete what was trained under this name, and start over."""
    tensorboard: bool = False
    """Write logs for TensorBoard while training."""
    log: Annotated[str | None, arg(metavar="TRACKER")] = None
    """Write the finished training into the logs of a tracker: tensorboard or mlflow, or one of another package."""

    @property
    def folder(self) -> Path:
        """Folder of the policy and of the files of its training."""
        own = self.short_name if self.family is None else self.family
        return self.results / "ppo" / parse_name(own if self.name is None else self.name)

    def learned_on(self) -> Task | TaskFamily:
        """What it learns on.

        Raises:
            UserError: there is no such task or family, or an option does not apply to it.
        """
        from lr_env.tasks.families import find_family

        if self.family is None:
            if not self.task:
                raise UserError("give the TASK to learn on, or --family NAME (see lr-env train-ppo --help)")
            return self.varied_task()
        if which := beyond(self, _FAMILY_OPTIONS):
            raise UserError(f"{which} does not apply to a task family: leave it or --family out")
        return find_family(self.family)

    def run(self) -> None:
        """Train, and print how the validation loss changed."""
        from lr_env.records.writers.base import find_writer
        from planners.ppo import training  # here, because the command line must start without torch
        from planners.ppo.tracked import finished_training, tracked_training
        from planners.ppo.training_tasks import training_tasks

        on, folder = self.learned_on(), self.folder
        for option, limit in _LIMITS.items():
            if getattr(self, option) > limit:
                raise UserError(f"{option} {getattr(self, option)}: give at most {limit:,}")
        names = {field.name for field in fields(training.PPOSettings)} & {field.name for field in fields(self)}
        options: dict[str, Any] = {name: getattr(self, name) for name in names} | {
            "start_rates": parse_rates(self.start_rates)
        }
        settings = training.PPOSettings(**options)
        writer = None if self.log is None else find_writer(self.log)
        if writer is not None:
            writer.check()
            if not self.fresh and (result := finished_training(folder, training_tasks(on), settings)):
                print(f"Log: {writer.write(folder.name, '', [tracked_training(result, folder)], folder)}")
                return
        writable(folder)
        engine = self.find_engine(self.device, self.set_threads())
        with closing(engine), progress_bar(self.decisions) as progress:
            result = training.train(
                on,
                settings,
                folder,
                execution=self.execution(),
                fresh=self.fresh,
                tensorboard=self.tensorboard,
                progress=progress,
                engine=engine,
            )
        if writer is not None:
            print(f"Log: {writer.write(folder.name, '', [tracked_training(result, folder)], folder)}")
        history = result["history"]
        best = min(history, key=lambda entry: entry["val_loss"])
        share = 100 * result["seconds"]["children"] / max(result["seconds"]["whole"], 1e-9)
        print(f"validation loss {history[0]['val_loss']:.4f} untrained, {best['val_loss']:.4f} at best", end=" ")
        print(f"(after {best['decisions']:,} decisions), {history[-1]['val_loss']:.4f} at the end")
        print(f"{result['child_steps']:,} training steps of children, which took {share:.0f} % of the time")
        policy = folder / "policy.safetensors"
        if self.family is not None:
            print(f"Policy: {policy}; compare it with others, on tasks that it has not seen, by")
            print(f"  lr-env tuning-across {self.family} --runs 0,10 --tuners ppo-policy:policy={policy} wsd")
            return
        print(f"Policy: {policy}; run it from its initial rates, and compare it, with")
        print(f"  lr-env start-rates {self.task}{self.variation} --rates {self.start_rates} --set policy={policy}")
        print(f"  lr-env compare {self.task}{self.variation} --planners ppo constant --set ppo.policy={policy}")

"""Train a PPO controller of the learning rate on children in lockstep (arXiv:1909.09712)."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO as Algorithm  # noqa: N811
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from lr_env.children import AUTO, Backend, Execution
from lr_env.env.episodes import Episodes
from lr_env.errors import UserError
from lr_env.files import atomic_write, exclusive_lock, remove_leftovers
from lr_env.isolation import isolating
from lr_env.provenance import versions
from lr_env.records.checkpoint import fitting, load_tree, save_tree
from lr_env.rollout import rollout
from lr_env.runs.engine import Engine, LocalEngine
from lr_env.runs.spec import with_unknown
from lr_env.runs.split_children import SplitChildren
from lr_env.seeds import PER_POLICY, POLICY_TRAINING
from lr_env.tasks import Task, TaskFamily
from planners.ppo.planner import PPO
from planners.ppo.policy import LARGEST_CHANGE, Policy
from planners.ppo.sb3_state import LeanPolicy, restore_tree, state_tree
from planners.ppo.training_tasks import TrainingTasks, training_tasks

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class PPOSettings:
    """Settings of the training of a controller.

    Attributes:
        decisions: actions to learn from, one for each segment of each child.
        children: number of children trained at the same time.
        action: "scale" or "discrete"; see `lr_env.env.actions`.
        max_change: factor of the largest action.
        reward: name of the reward; see `lr_env.env.rewards`.
        start_rates: initial rates; each run draws one of them from its seed. Tasks of a family have rates of their own.
        noise: standard deviation of Gaussian noise on the log rate of each segment, while training.
        seed: seed of the policy and the children.
        gamma, gae_lambda, learning_rate, epochs, minibatches, entropy: settings of PPO. The first two are 1, because
            the value of an action shows at the end of the run: with a gae_lambda of 0.95, controllers of DigitsMLP were
            worse.
        evaluate_every: decisions between two evaluations of the policy on validation data.
        evaluation_runs: runs in each evaluation.
    """

    decisions: int = 400_000
    children: int = 32
    action: str = "scale"
    max_change: float = 1.05
    reward: str = "improvement"
    start_rates: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    noise: float = 0.0
    seed: int = 0
    gamma: float = 1.0
    gae_lambda: float = 1.0
    learning_rate: float = 1e-3
    epochs: int = 4
    minibatches: int = 2
    entropy: float = 0.0
    evaluate_every: int = 32_000
    evaluation_runs: int = 24

    def __post_init__(self) -> None:
        for name in ("decisions", "children", "epochs", "minibatches", "evaluate_every", "evaluation_runs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be a whole number of at least 1")
        if self.action not in ("scale", "discrete"):
            raise UserError(f"action {self.action!r}: a controller changes the rate by 'scale' or 'discrete' actions")
        rates = tuple(map(float, np.atleast_1d(self.start_rates)))  # an array and a single number are accepted, too
        if not rates:
            raise UserError("no start rates: give at least one")
        object.__setattr__(self, "start_rates", rates)
        if not 1 < self.max_change <= LARGEST_CHANGE:
            raise UserError(f"max_change is {self.max_change}: it must be above 1 and at most {LARGEST_CHANGE:g}")
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise UserError("gamma must be above 0 and at most 1, gae_lambda at least 0 and at most 1")
        if not (0 < self.learning_rate <= 1 and 0 <= self.noise < math.inf):
            raise UserError("learning_rate must be above 0 and at most 1, noise finite and at least 0")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed}: it must be a whole number from 0 to 2**32 - 1")


@isolating
def train(
    on: Task | TaskFamily,
    training: PPOSettings,
    folder: Path,
    *,
    execution: Execution = AUTO,
    fresh: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
    checkpoint_seconds: float = 60.0,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Train a controller, or continue a training that was stopped.

    Args:
        on: the task of the children; the paper uses Adam as its optimizer. Or a family, of whose training tasks each
            round of runs draws one; the controller is judged by the first tasks of its validation split.
        training: settings of the training.
        folder: folder for policy.safetensors (the best by validation loss), last.safetensors, training.json, SB3's logs
            as CSV, and a checkpoint until the end.
        execution: how children are trained; the policy stays on the CPU. A continued training keeps its first backend.
        fresh: whether to delete the content of the folder first.
        tensorboard: whether to write logs for TensorBoard as well.
        progress: called with (name of the phase, decisions since the last call).
        checkpoint_seconds: seconds between two checkpoints.
        engine: where the children are trained; by default in this process. The policy stays in this process.

    Returns:
        The content of training.json.

    Raises:
        UserError: bad settings; the folder holds a training with other settings, or another process trains in it;
            TensorBoard is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / "lock", f"the training in {str(folder)!r}"), _global_generators_restored():
        trainer = _Trainer(training_tasks(on), training, folder, execution, fresh, engine or LocalEngine())
        return trainer.run(tensorboard, progress or (lambda what, decisions: None), checkpoint_seconds)


@contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Restore the global generators of torch, numpy and Python at the end: SB3 seeds them and draws from them."""
    of_torch, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


class _Trainer:
    def __init__(
        self,
        tasks: TrainingTasks,
        training: PPOSettings,
        folder: Path,
        execution: Execution,
        fresh: bool,
        engine: Engine,
    ) -> None:
        self.per_update = tasks.rollout * training.children
        if self.per_update % training.minibatches or self.per_update < 2 * training.minibatches:
            raise UserError(
                f"{training.minibatches} minibatches do not divide the {self.per_update} decisions between two updates "
                "into parts of at least 2: train another number of children"
            )
        self.tasks, self.training, self.folder = tasks, training, folder
        spec = {
            **tasks.spec(execution.device),
            "training": asdict(training),
            "device": execution.device,
            "backend": execution.to_json()["backend"],
            "numerics": asdict(execution.numerics),
            "threads": torch.get_num_threads(),
            "versions": versions(["stable-baselines3", "gymnasium"]),
        }
        self.spec: dict[str, Any] = json.loads(json.dumps(spec))
        self.fresh = fresh
        remove_leftovers(self.checkpoint)
        saved = None if fresh else self._load()
        if saved is not None:
            with fitting(self.checkpoint):
                execution = execution.with_backend(Backend(**json.loads(saved["backend"])))
        self.venv = tasks.environment(
            execution,
            partial(SplitChildren, engine) if engine.slots > 1 else None,
            num_envs=training.children,
            action=training.action,
            max_change=training.max_change,
            reward=training.reward,
            start_rates=training.start_rates,
            noise=training.noise,
        )
        self.execution = execution.with_backend(self._episodes.children.backend)
        self.judged = tasks.judged(training.evaluation_runs, training.start_rates)
        self.env = VecNormalize(self.venv, gamma=training.gamma)
        self.algorithm = Algorithm(
            LeanPolicy if training.action == "scale" else "MlpPolicy",
            self.env,
            n_steps=tasks.rollout,
            batch_size=self.per_update // training.minibatches,
            n_epochs=training.epochs,
            gamma=training.gamma,
            gae_lambda=training.gae_lambda,
            learning_rate=training.learning_rate,
            ent_coef=training.entropy,
            policy_kwargs={"net_arch": {"pi": [32, 32], "vf": [32, 32]}},
            seed=training.seed,
            device="cpu",
        )
        self.env.seed(POLICY_TRAINING.start + PER_POLICY * training.seed)  # the algorithm has seeded it from 0 up
        self.history: list[dict[str, float]] = []
        self.seconds = {"children": 0.0, "whole": 0.0}
        if saved is not None:
            with fitting(self.checkpoint):
                restore_tree(self.algorithm, self.env, saved)
                tasks.check_snapshot(saved["env"], self.venv.vector_env.snapshot())
                self.venv.vector_env.restore(saved["env"])
                asked = self.algorithm.num_timesteps * self.venv.vector_env.task.segment
                self.venv.child_steps = saved.get("child_steps", asked)  # not told before there were families
                self.history = [{"decisions": decisions, "val_loss": loss} for decisions, loss in saved["history"]]
                self.seconds = dict(saved["seconds"])

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def best(self) -> Path:
        return self.folder / "policy.safetensors"

    def run(self, tensorboard: bool, progress: Progress, checkpoint_seconds: float) -> dict[str, Any]:
        progress("training", self.algorithm.num_timesteps)
        if tensorboard and find_spec("tensorboard") is None:
            raise UserError("TensorBoard's logs need the package tensorboard: pip install tensorboard")
        if self.fresh:
            shutil.rmtree(self.folder / "logs", ignore_errors=True)
        formats = ["csv", *(["tensorboard"] if tensorboard else [])]
        self.algorithm.set_logger(configure(str(self.folder / "logs" / str(self.algorithm.num_timesteps)), formats))
        if self.fresh:  # only after all checks
            for name in ("checkpoint", "policy.safetensors", "last.safetensors", "training.json"):
                (self.folder / name).unlink(missing_ok=True)
        try:
            self._train(progress, checkpoint_seconds)
        finally:
            self.algorithm.logger.close()
        result = {
            "name": self.tasks.name,
            **self.spec,
            "history": self.history,
            "child_steps": self.child_steps,
            "decisions": self.algorithm.num_timesteps,
            "backend": str(self.execution.backend),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }
        self._save_best(Policy.load(self.best))  # again, with the cost of the whole training
        with atomic_write(self.folder / "training.json") as path:
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        self._policy().save(self.folder / "last.safetensors")
        self.checkpoint.unlink(missing_ok=True)
        return result

    def _train(self, progress: Progress, checkpoint_seconds: float) -> None:
        if not self.history:
            self._evaluate(progress)
        saved = time.monotonic()
        while self.algorithm.num_timesteps < self.training.decisions:
            start, child_seconds = time.perf_counter(), self._episodes.child_seconds
            self.algorithm.learn(self.per_update, reset_num_timesteps=False, log_interval=1)
            self.seconds["whole"] += time.perf_counter() - start
            self.seconds["children"] += self._episodes.child_seconds - child_seconds
            progress("training", self.per_update)
            if self.algorithm.num_timesteps - self.history[-1]["decisions"] >= self.training.evaluate_every:
                self._evaluate(progress)
            if time.monotonic() - saved >= checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        if self.history[-1]["decisions"] < self.algorithm.num_timesteps:
            self._evaluate(progress)

    @property
    def child_steps(self) -> int:
        """Training steps of children, including the evaluation runs."""
        return self.venv.child_steps + len(self.history) * sum(len(one.seeds) * one.task.budget for one in self.judged)

    @property
    def _episodes(self) -> Episodes:
        return self.venv.vector_env.episodes

    def _policy(self) -> Policy:
        """Return the policy as it is now."""
        net: Any = self.algorithm.policy
        linear = [part for part in net.mlp_extractor.policy_net if isinstance(part, torch.nn.Linear)]
        parts = (*linear, net.action_net)
        layers = tuple((p.weight.detach().numpy().copy(), p.bias.detach().numpy().copy()) for p in parts)
        about = {
            "task": self.tasks.name,
            "training": self.spec["training"],
            "decisions": self.algorithm.num_timesteps,
            "child_steps": self.child_steps,
            "history": self.history,
        }
        statistics = self.env.obs_rms
        assert not isinstance(statistics, dict)
        return Policy(
            statistics.mean.astype(np.float32),
            statistics.var.astype(np.float32),
            layers,
            self.training.action,
            self.training.max_change,
            about,
        )

    def _evaluate(self, progress: Progress) -> None:
        """Run the policy as a planner on fixed seeds, and save it if it is the best so far."""
        progress("judging", 0)
        candidate = self.folder / "candidate.safetensors"
        policy = self._policy()
        policy.save(candidate)
        losses, execution = [], self.tasks.judging(self.execution)
        for one in self.judged:
            planner = PPO(one.rate, policy=str(candidate))
            records = rollout(planner, one.task, one.seeds, score=("val",), execution=execution)
            losses.append([record.scores["final_val_loss"] for record in records])
        mean = self.tasks.mean(self.judged, losses)
        is_best = all(mean < entry["val_loss"] for entry in self.history)
        self.history.append({"decisions": self.algorithm.num_timesteps, "val_loss": mean})
        if is_best:
            self._save_best(policy)
        candidate.unlink()

    def _save_best(self, policy: Policy) -> None:
        """Save the best policy, with the training steps so far in its provenance."""
        about = {**policy.about, "child_steps": self.child_steps, "history": self.history}
        replace(policy, about=about).save(self.best)

    def _save(self) -> None:
        tree = {
            **state_tree(self.algorithm, self.env),
            "spec": json.dumps(self.spec, sort_keys=True),
            "backend": json.dumps(self.execution.resolved_backend.to_json()),
            "env": self.venv.vector_env.snapshot(),
            "child_steps": self.venv.child_steps,
            "history": [[entry["decisions"], entry["val_loss"]] for entry in self.history],
            "seconds": dict(self.seconds),
        }
        save_tree(self.checkpoint, tree)

    def _load(self) -> dict[str, Any] | None:
        """Load the checkpoint of this training, if there is one."""
        try:
            saved = load_tree(self.checkpoint)
        except FileNotFoundError:
            if (self.folder / "training.json").exists():
                raise UserError(
                    f"{str(self.folder)!r} holds a finished training: give another --name, or --fresh to start over"
                ) from None
            return None
        except UserError as error:
            raise UserError(f"{str(self.checkpoint)!r} cannot be continued: start over with --fresh") from error
        with fitting(self.checkpoint):
            earlier = with_unknown(json.loads(saved["spec"]), self.spec)
        if earlier != self.spec:
            differ = ", ".join(name for name, value in self.spec.items() if earlier.get(name) != value)
            raise UserError(
                f"{str(self.folder)!r} has a training with another {differ}: give the same, another --name, or --fresh"
            )
        return saved

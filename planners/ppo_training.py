"""Training a PPO controller of the learning rate on children in lockstep (arXiv:1909.09712)."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO as Algorithm  # noqa: N811
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from lr_env.children.optimizers import Adam
from lr_env.episodes import Episodes
from lr_env.errors import UserError
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.rollout import rollout
from lr_env.sb3 import LRVecEnv, make_vec_env
from lr_env.tasks import Task
from planners.policy import Policy
from planners.ppo import PPO

EVALUATION_SEED = 2_000_000
"""Seeds of the runs that judge a policy count up from here, far from those of training and of comparisons."""

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Training:
    """How a controller is trained.

    Attributes:
        decisions: to learn from, over all children.
        children: trained at a time.
        action: "scale" or "discrete"; see `lr_env.actions`.
        max_change: factor of the largest action.
        reward: see `lr_env.rewards`.
        start_rates: of which each run starts from one, drawn from its seed.
        noise: standard deviation of Gaussian noise on the log of the rate at each decision, while training.
        adam: whether children are trained by Adam, as in the paper, in place of the task's optimizer.
        seed: of the policy and the children.
        gamma, gae_lambda, learning_rate, epochs, minibatches, entropy: PPO's.
        evaluate_every: decisions between two looks at how good the policy is.
        evaluation_runs: in each of them.
    """

    decisions: int = 400_000
    children: int = 32
    action: str = "scale"
    max_change: float = 1.05
    reward: str = "improvement"
    start_rates: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    noise: float = 0.0
    adam: bool = False
    seed: int = 0
    gamma: float = 0.99
    gae_lambda: float = 0.95
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
        if not self.start_rates:
            raise UserError("no start rates: give at least one")
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise UserError("gamma must be above 0 and at most 1, gae_lambda at least 0 and at most 1")
        if not (self.learning_rate > 0 and self.noise >= 0):
            raise UserError("learning_rate must be above 0, noise at least 0")


def train(
    task: Task,
    training: Training,
    folder: Path,
    *,
    device: str = "cpu",
    backend: str = "auto",
    fresh: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
    checkpoint_seconds: float = 60.0,
) -> dict[str, Any]:
    """Train a controller, or go on with one that was stopped.

    Args:
        task: what children are trained on.
        training: how.
        folder: gets policy.safetensors (the best by validation loss), last.safetensors, training.json, SB3's logs as
            CSV, and a checkpoint while it goes on.
        device: of the children; the policy is left on the CPU.
        backend: of the children; see `lr_env.Children`.
        fresh: forget what the folder holds.
        tensorboard: write TensorBoard's logs into the folder, too.
        progress: told (what is going on, decisions done since the last call).
        checkpoint_seconds: wall time between checkpoints.

    Returns:
        What is written to training.json.

    Raises:
        UserError: bad settings; the folder holds a training with others; TensorBoard is asked for and not installed.
    """
    with _global_generators_kept():
        return _Trainer(task, training, folder, device, backend, tensorboard, progress, checkpoint_seconds).run(fresh)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """SB3 seeds and draws from the global generators of torch, numpy and Python: put them back at the end."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class LeanPolicy(ActorCriticPolicy):
    """SB3's policy of continuous actions, which answers in a third of the time: a decision waits for it."""

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions, values and log probabilities as SB3 has them, without objects for distributions in between."""
        latent_pi, latent_vf = self.mlp_extractor(obs)
        mean = self.action_net(latent_pi)
        noise = torch.zeros_like(mean) if deterministic else torch.randn_like(mean)
        logs = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return mean + self.log_std.exp() * noise, self.value_net(latent_vf), logs.sum(dim=1)


class _Trainer:
    def __init__(
        self,
        task: Task,
        training: Training,
        folder: Path,
        device: str,
        backend: str,
        tensorboard: bool,
        progress: Progress | None,
        checkpoint_seconds: float,
    ) -> None:
        if training.adam:
            task = replace(task, optimizer=Adam())
        low, high = task.lr_range
        wrong = [rate for rate in training.start_rates if not low <= rate <= high]
        if wrong:
            raise UserError(f"start rate {wrong[0]:g} is outside the task's range, {low:g} to {high:g}")
        self.task, self.training, self.folder = task, training, folder
        self.device = device
        self.progress = progress or (lambda what, decisions: None)
        self.checkpoint_seconds = checkpoint_seconds
        self.spec = {"task": task.settings(), "training": json.loads(json.dumps(asdict(training))), "device": device}
        self.venv: LRVecEnv = make_vec_env(
            task,
            training.children,
            action=training.action,
            max_change=training.max_change,
            reward=training.reward,
            start_rates=training.start_rates,
            noise=training.noise,
            device=device,
            backend=backend,
            seed=training.seed * 1_000_003,
        )
        self.backend = self._episodes.children.backend
        self.env = VecNormalize(self.venv, gamma=training.gamma)
        steps = task.num_segments
        whole = steps * training.children
        if whole % training.minibatches:
            raise UserError(
                f"{training.minibatches} minibatches do not divide the {whole} decisions between two updates: "
                "give another number"
            )
        self.algorithm = Algorithm(
            LeanPolicy if training.action == "scale" else "MlpPolicy",
            self.env,
            n_steps=steps,
            batch_size=whole // training.minibatches,
            n_epochs=training.epochs,
            gamma=training.gamma,
            gae_lambda=training.gae_lambda,
            learning_rate=training.learning_rate,
            ent_coef=training.entropy,
            policy_kwargs={"net_arch": {"pi": [32, 32], "vf": [32, 32]}},
            seed=training.seed,
            device="cpu",
        )
        self.history: list[dict[str, float]] = []
        self.seconds = {"children": 0.0, "whole": 0.0}
        self._tensorboard = tensorboard

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def run(self, fresh: bool) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in ("checkpoint", "policy.safetensors", "last.safetensors", "training.json"):
                (self.folder / name).unlink(missing_ok=True)
        else:
            self._resume()
        formats = ["csv", *(["tensorboard"] if self._tensorboard else [])]
        try:
            self._train(formats)
        finally:
            self.algorithm.logger.close()
        made = {
            **self.spec,
            "history": self.history,
            "child_steps": self.child_steps,
            "decisions": self.algorithm.num_timesteps,
            "backend": str(self.backend),
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }
        (self.folder / "training.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        self._policy().save(self.folder / "last.safetensors")
        self.checkpoint.unlink(missing_ok=True)
        return made

    def _train(self, formats: list[str]) -> None:
        try:
            self.algorithm.set_logger(configure(str(self.folder / "logs" / str(self.algorithm.num_timesteps)), formats))
        except (ImportError, AssertionError) as error:
            raise UserError("TensorBoard's logs need the package tensorboard: pip install tensorboard") from error
        if not self.history:
            self._judge()
        saved = time.monotonic()
        per_update = self.task.num_segments * self.training.children
        while self.algorithm.num_timesteps < self.training.decisions:
            began, before = time.perf_counter(), self._episodes.child_seconds
            self.algorithm.learn(per_update, reset_num_timesteps=False, log_interval=1)
            self.seconds["whole"] += time.perf_counter() - began
            self.seconds["children"] += self._episodes.child_seconds - before
            self.progress("training", per_update)
            if self.algorithm.num_timesteps - self.history[-1]["decisions"] >= self.training.evaluate_every:
                self._judge()
            if time.monotonic() - saved >= self.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        if self.history[-1]["decisions"] < self.algorithm.num_timesteps:
            self._judge()

    @property
    def child_steps(self) -> int:
        """Optimizer steps of children, those of the runs that judge included."""
        judged = len(self.history) * self.training.evaluation_runs * self.task.budget
        return self.algorithm.num_timesteps * self.task.segment + judged

    @property
    def _episodes(self) -> Episodes:
        return self.venv.vector_env.episodes

    def _policy(self) -> Policy:
        """What was learned so far."""
        net: Any = self.algorithm.policy
        linear = [part for part in net.mlp_extractor.policy_net if isinstance(part, torch.nn.Linear)]
        parts = (*linear, net.action_net)
        layers = tuple((p.weight.detach().numpy().copy(), p.bias.detach().numpy().copy()) for p in parts)
        about = {
            "task": self.task.name,
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

    def _judge(self) -> None:
        """Run the policy as a planner on fixed seeds from every starting rate, and keep it if it is the best so far."""
        self.progress("judging", 0)
        candidate = self.folder / "candidate.safetensors"
        policy = self._policy()
        policy.save(candidate)
        rates = self.training.start_rates
        losses = []
        for number, rate in enumerate(rates):
            count = len(range(number, self.training.evaluation_runs, len(rates)))
            if count:
                seeds = range(EVALUATION_SEED, EVALUATION_SEED + count)
                planner = PPO(rate, policy=str(candidate))
                how = {"device": self.device, "backend": self.backend}
                records = rollout(planner, self.task, seeds, score=("val",), **how)
                losses += [record.scores["final_val_loss"] for record in records]
        mean = float(np.mean(losses))
        better = all(mean < before["val_loss"] for before in self.history)
        self.history.append({"decisions": self.algorithm.num_timesteps, "val_loss": mean})
        if better:
            replace(policy, about={**policy.about, "child_steps": self.child_steps, "history": self.history}).save(
                self.folder / "policy.safetensors"
            )
        candidate.unlink()

    def _save(self) -> None:
        algorithm, env = self.algorithm, self.env
        rms: Any = env.obs_rms
        tree = {
            "spec": json.dumps(self.spec, sort_keys=True),
            "policy": dict(algorithm.policy.state_dict()),
            "optimizer": _optimizer_tree(algorithm.policy.optimizer),
            "timesteps": algorithm.num_timesteps,
            "updates": algorithm._n_updates,
            "last_obs": algorithm._last_obs,
            "original_obs": algorithm._last_original_obs,
            "starts": algorithm._last_episode_starts,
            "rms": [[r.mean, r.var, float(r.count)] for r in (rms, env.ret_rms)],
            "returns": env.returns,
            "old": [env.old_obs, env.old_reward],
            "env": self.venv.vector_env.snapshot(),
            "torch": torch.get_rng_state(),
            "numpy": list(np.random.get_state()[1:]),  # type: ignore[index]
            "history": [[entry["decisions"], entry["val_loss"]] for entry in self.history],
            "seconds": dict(self.seconds),
        }
        save_tree(self.checkpoint, tree)

    def _resume(self) -> None:
        try:
            saved = load_tree(self.checkpoint)
        except FileNotFoundError:
            if (self.folder / "training.json").exists():
                raise UserError(
                    f"{str(self.folder)!r} holds a finished training: give another --name, or --fresh to start over"
                ) from None
            return
        if saved["spec"] != json.dumps(self.spec, sort_keys=True):
            raise UserError(
                f"{str(self.folder)!r} holds a training with other settings: give the same, another --name, or --fresh"
            )
        algorithm, env = self.algorithm, self.env
        algorithm.policy.load_state_dict(saved["policy"])
        _load_optimizer(algorithm.policy.optimizer, saved["optimizer"])
        algorithm.num_timesteps, algorithm._n_updates = saved["timesteps"], saved["updates"]
        env.reset()  # allocates what is put back below
        for target, (mean, var, count) in zip((env.obs_rms, env.ret_rms), saved["rms"], strict=True):
            target.mean, target.var, target.count = mean, var, count  # type: ignore[union-attr]
        env.returns = saved["returns"]
        env.old_obs, env.old_reward = saved["old"]
        algorithm._last_obs, algorithm._last_original_obs = saved["last_obs"], saved["original_obs"]
        algorithm._last_episode_starts = saved["starts"]
        self.venv.vector_env.restore(saved["env"])
        torch.set_rng_state(saved["torch"])
        np.random.set_state(("MT19937", *saved["numpy"]))
        self.history = [{"decisions": decisions, "val_loss": loss} for decisions, loss in saved["history"]]
        self.seconds = dict(saved["seconds"])
        self.progress("training", algorithm.num_timesteps)


def _optimizer_tree(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {str(number): dict(state) for number, state in optimizer.state_dict()["state"].items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(n): state for n, state in saved.items()}, "param_groups": groups})

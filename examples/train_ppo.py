"""Train a PPO controller of the learning rate on children in lockstep, then test it on children with new seeds.

python examples/train_ppo.py --task DigitsMLP --steps 20000
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from lr_env.sb3 import make_vec_env


@dataclass
class Args:
    task: str = "DigitsMLP"
    """Name of the task; `lr-env tasks` lists them."""
    steps: int = 20_000
    """Actions to learn from: one for each segment of each child."""
    children: int = 16
    """Number of networks trained at the same time."""
    budget: int | None = None
    """Optimizer steps in a run. Default: the task's."""
    seed: int = 0
    """Seed of the policy and of the children."""


def main(args: Args) -> None:
    settings = {"action": "scale", "max_change": 1.2, "budget": args.budget}
    children = make_vec_env(args.task, args.children, reward="improvement", **settings)
    env = VecNormalize(VecMonitor(children))
    segments = children.vector_env.task.num_segments
    batch = segments * max(1, args.children // 4)
    policy = PPO("MlpPolicy", env, n_steps=segments, batch_size=batch, gamma=1.0, seed=args.seed, device="cpu")
    policy.learn(args.steps)

    # Fresh seeds, scored on test data once, at the end of each run.
    fresh = make_vec_env(args.task, args.children, score=("test",), seed=10_000, **settings)
    observation, losses = fresh.reset(), []
    for _ in range(segments):
        action, _ = policy.predict(env.normalize_obs(observation), deterministic=True)
        observation, _, dones, infos = fresh.step(action)
        losses += [info["test_loss"] for info, done in zip(infos, dones, strict=True) if done]
    print(f"test loss of {len(losses)} fresh runs: {np.mean(losses):.4f} +- {np.std(losses):.4f} (standard deviation)")


if __name__ == "__main__":
    main(tyro.cli(Args))

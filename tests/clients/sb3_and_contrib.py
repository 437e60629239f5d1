"""Stable-baselines3's contrib package on single environments and on children in lockstep; SB3's workers, forked.

Augmented random search steps without gradients, and tells its environment to reset in the middle of runs.
"""

from __future__ import annotations

import numpy as np
from sb3_contrib import ARS, QRDQN, TQC, TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

import lr_env.sb3

SCALE, DISCRETE = "lr_env/DigitsMLP-Scale-v0", "lr_env/DigitsMLP-Discrete-v0"
SMALL = {"budget": 8, "segment": 2, "backend": "loop"}
OFF_POLICY = {"learning_starts": 4, "batch_size": 4, "buffer_size": 100}


def single(task_id: str) -> VecEnv:
    return make_vec_env(task_id, n_envs=2, env_kwargs=SMALL)


def lockstep(action: str) -> VecEnv:
    return lr_env.sb3.make_vec_env("DigitsMLP", 2, action=action, **SMALL)


def workers(context: str) -> VecEnv:
    """Workers that start after this process has trained on all cores."""
    return VecNormalize(
        make_vec_env(
            SCALE, n_envs=2, env_kwargs=SMALL, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": context}
        )
    )


def train(model: BaseAlgorithm) -> None:
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(20)
    episodes = list(model.ep_info_buffer or [])
    assert all(np.isfinite(episode["r"]) for episode in episodes)
    assert any((new != old).any() for new, old in zip(model.policy.parameters(), before, strict=True))
    model.get_env().close()


if __name__ == "__main__":
    for env in (single("lr_env/DigitsMLP-v0"), lockstep("scale")):
        train(ARS("LinearPolicy", env, n_delta=2, n_eval_episodes=1, seed=0))
        print("ARS")
    train(TRPO("MlpPolicy", single(SCALE), n_steps=5, batch_size=5, seed=0))
    train(TQC("MlpPolicy", lockstep("scale"), **OFF_POLICY, seed=0))
    train(QRDQN("MlpPolicy", single(DISCRETE), **OFF_POLICY, seed=0))
    train(QRDQN("MlpPolicy", lockstep("discrete"), **OFF_POLICY, seed=0))
    print("TRPO, TQC, QRDQN")
    for context in ("fork", "forkserver"):
        train(PPO("MlpPolicy", workers(context), n_steps=5, batch_size=5, seed=0))
        print("PPO over workers:", context)

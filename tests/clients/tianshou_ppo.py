"""Tianshou: PPO over its own vector environments, in this process and in forked workers."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv, DummyVectorEnv, ShmemVectorEnv, SubprocVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch.distributions import Independent, Normal

import lr_env  # noqa: F401

ID = "lr_env/DigitsMLP-Scale-v0"


def make() -> gymnasium.Env:
    return gymnasium.make(ID, budget=8, segment=2)


def train(envs: BaseVectorEnv) -> None:
    env = make()
    features, actions = env.observation_space.shape, env.action_space.shape
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=features, hidden_sizes=[32]), action_shape=actions, unbounded=True
    )
    critic = ContinuousCritic(preprocess_net=Net(state_shape=features, hidden_sizes=[32]))
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda located: Independent(Normal(*located), 1),
        action_space=env.action_space,
        observation_space=env.observation_space,
    )
    algorithm = PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3))
    buffer = VectorReplayBuffer(40, len(envs))
    collector = Collector(algorithm, envs, buffer)
    before = [parameter.clone() for parameter in actor.parameters()]
    result = algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=16,
            collection_step_num_env_steps=8,
            batch_size=8,
            verbose=False,
            show_progress=False,
        )
    )
    assert result.train_episode >= 2
    assert np.isfinite(buffer.rew[: len(buffer)]).all()
    assert any((new != old).any() for new, old in zip(actor.parameters(), before, strict=True))
    envs.close()


if __name__ == "__main__":
    torch.manual_seed(0)
    for kind in (DummyVectorEnv, SubprocVectorEnv, ShmemVectorEnv):
        train(kind([make] * 2))
        print(kind.__name__)

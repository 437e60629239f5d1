"""Gymnasium's wrappers around the single and the vector environment, each stepped past the end of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces, wrappers
from gymnasium.wrappers import vector

import lr_env
from lr_env import LREnv, LRVectorEnv

ID = "lr_env/DigitsMLP-Scale-v0"
SMALL = {"budget": 6, "segment": 2, "score": ("val",), "backend": "loop"}
FEATURES = len(lr_env.FEATURES)
UNIT = spaces.Box(-1, 1, (FEATURES,), np.float32)
FLAT = spaces.Box(-np.inf, np.inf, (3, 3), np.float32)

SINGLE: dict[str, Callable[[LREnv], gymnasium.Env]] = {
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "OrderEnforcing": wrappers.OrderEnforcing,
    "Autoreset": wrappers.Autoreset,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 2),
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "ClipAction": wrappers.ClipAction,
    "RescaleAction": lambda env: wrappers.RescaleAction(env, np.float32(0), np.float32(3)),
    "TransformAction": lambda env: wrappers.TransformAction(env, lambda action: action / 2, env.action_space),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "RepeatAction": lambda env: wrappers.RepeatAction(env, 2),
    "DiscretizeAction": lambda env: wrappers.DiscretizeAction(env, 5),
    "ClipReward": lambda env: wrappers.ClipReward(env, -1, 1),
    "NormalizeReward": wrappers.NormalizeReward,
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 2 * reward),
    "NormalizeObservation": wrappers.NormalizeObservation,
    "TransformObservation": lambda env: wrappers.TransformObservation(env, np.tanh, UNIT),
    "FlattenObservation": wrappers.FlattenObservation,
    "ReshapeObservation": lambda env: wrappers.ReshapeObservation(env, (3, 3)),
    "RescaleObservation": lambda env: wrappers.RescaleObservation(env, np.float32(-1), np.float32(1)),
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.float64),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 1),
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 3)),
    "MaxAndSkipObservation": lambda env: wrappers.MaxAndSkipObservation(env, 2),
    "NumpyToTorch": wrappers.NumpyToTorch,
}
VECTOR: dict[str, Callable[[LRVectorEnv], gymnasium.vector.VectorEnv]] = {
    "RecordEpisodeStatistics": vector.RecordEpisodeStatistics,
    "DictInfoToList": vector.DictInfoToList,
    "ClipAction": vector.ClipAction,
    "RescaleAction": lambda envs: vector.RescaleAction(envs, np.float32(0), np.float32(3)),
    "TransformAction": lambda envs: vector.TransformAction(envs, lambda action: action / 2, envs.action_space),
    "VectorizeTransformAction": lambda envs: vector.VectorizeTransformAction(envs, wrappers.ClipAction),
    "ClipReward": lambda envs: vector.ClipReward(envs, -1, 1),
    "NormalizeReward": vector.NormalizeReward,
    "TransformReward": lambda envs: vector.TransformReward(envs, lambda reward: 2 * reward),
    "VectorizeTransformReward": lambda envs: vector.VectorizeTransformReward(
        envs, wrappers.TransformReward, func=lambda reward: 2 * reward
    ),
    "NormalizeObservation": vector.NormalizeObservation,
    "TransformObservation": lambda envs: vector.TransformObservation(envs, np.tanh, single_observation_space=UNIT),
    "VectorizeTransformObservation": lambda envs: vector.VectorizeTransformObservation(
        envs, wrappers.TransformObservation, func=np.tanh, observation_space=UNIT
    ),
    "FlattenObservation": vector.FlattenObservation,
    "ReshapeObservation": lambda envs: vector.ReshapeObservation(envs, (3, 3)),
    "RescaleObservation": lambda envs: vector.RescaleObservation(envs, np.float32(-1), np.float32(1)),
    "DtypeObservation": lambda envs: vector.DtypeObservation(envs, np.float64),
    "NumpyToTorch": vector.NumpyToTorch,
}
# Not tried: those for pictures, for dictionaries, and for arrays of other packages than numpy and torch.


def try_single(name: str, wrap: Callable[[LREnv], gymnasium.Env]) -> None:
    env = wrap(gymnasium.make(ID, **SMALL))
    env.action_space.seed(0)
    resets_itself = name == "Autoreset"
    ends = 0
    observation, _ = env.reset(seed=0)
    for _ in range(8):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        assert np.isfinite(reward), name
        assert name == "NumpyToTorch" or observation in env.observation_space, name
        if terminated or truncated:
            ends += 1
            assert name == "TimeLimit" or "final_val_loss" in info, name
            if not resets_itself:
                observation, _ = env.reset()
    assert ends >= 2, name
    env.close()


def try_vector(name: str, wrap: Callable[[LRVectorEnv], gymnasium.vector.VectorEnv]) -> None:
    envs = wrap(gymnasium.make_vec(ID, num_envs=2, **SMALL))
    envs.action_space.seed(0)
    observation, _ = envs.reset(seed=0)
    ends = 0
    for _ in range(8):
        action = envs.action_space.sample()
        action = torch.from_numpy(action) if name == "NumpyToTorch" else action
        observation, rewards, terminated, truncated, _ = envs.step(action)
        assert np.isfinite(np.asarray(rewards)).all(), name
        assert name == "NumpyToTorch" or observation in envs.observation_space, name
        ends += int(np.asarray(terminated | truncated).sum())
    assert ends >= 4, name
    envs.close()


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)  # of DtypeObservation itself
    for name, wrap in SINGLE.items():
        try_single(name, wrap)
        print(name)
    for name, wrap in VECTOR.items():
        try_vector(name, wrap)
        print("vector", name)

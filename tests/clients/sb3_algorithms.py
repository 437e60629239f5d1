"""Stable-baselines3 and its contrib package, over their own vector environments, in this process and in workers."""

from __future__ import annotations

import gymnasium
import numpy as np
from sb3_contrib import ARS, QRDQN, TQC, TRPO, MaskablePPO, RecurrentPPO  # noqa: F401
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

import lr_env  # noqa: F401
from lr_env.sb3 import make_vec_env as lockstep

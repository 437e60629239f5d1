"""Checkpoints of stable-baselines3's PPO and its environment, and a faster policy for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO as Algorithm  # noqa: N811
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from lr_env.records.checkpoint import check_fit


class LeanPolicy(ActorCriticPolicy):
    """SB3's policy for continuous actions, with a faster forward pass, which every segment waits for."""

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return actions, values and log probabilities as SB3 does, without gradients.

        It computes in numpy and without distribution objects. In networks this small, torch spends more time on calls,
        and on waking its threads for each tanh, than on arithmetic.
        """
        features = obs.numpy()
        mean = torch.from_numpy(_forward((*self.mlp_extractor.policy_net, self.action_net), features))
        values = torch.from_numpy(_forward((*self.mlp_extractor.value_net, self.value_net), features))
        with torch.no_grad():
            noise = torch.zeros_like(mean) if deterministic else torch.randn_like(mean)
            logs = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
            return mean + self.log_std.exp() * noise, values, logs.sum(dim=1)


def _forward(layers: Iterable[torch.nn.Module], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply linear layers and tanh to values, (batch, inputs)."""
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):  # the arrays share memory with the trained parameters
            values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            values = np.tanh(values)
    return values


def state_tree(algorithm: Algorithm, env: VecNormalize) -> dict[str, Any]:
    """Return everything that the rest of a training depends on between two updates, without the children in `env`."""
    optimizer = algorithm.policy.optimizer.state_dict()["state"]
    rms: Any = env.obs_rms
    return {
        "policy": dict(algorithm.policy.state_dict()),
        "optimizer": {str(number): dict(state) for number, state in optimizer.items()},
        "timesteps": algorithm.num_timesteps,
        "updates": algorithm._n_updates,
        "last_obs": algorithm._last_obs,
        "original_obs": algorithm._last_original_obs,
        "starts": algorithm._last_episode_starts,
        "rms": [[r.mean, r.var, float(r.count)] for r in (rms, env.ret_rms)],
        "returns": env.returns,
        "old": [env.old_obs, env.old_reward],
        "torch": torch.get_rng_state(),
        "numpy": list(np.random.get_state()[1:]),  # type: ignore[index]
    }


def restore_tree(algorithm: Algorithm, env: VecNormalize, saved: Mapping[str, Any]) -> None:
    """Restore the state that `state_tree` returned.

    Raises:
        ValueError: it is the state of another policy. A state that does not fit otherwise raises other errors.
    """
    moments = {
        str(number): {"step": None, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        for number, weight in enumerate(algorithm.policy.parameters())
    }
    check_fit(saved, {"policy": dict(algorithm.policy.state_dict()), "optimizer": moments})
    algorithm.policy.load_state_dict(saved["policy"])
    optimizer = algorithm.policy.optimizer
    groups = optimizer.state_dict()["param_groups"]
    state = {int(number): state for number, state in saved["optimizer"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    algorithm.num_timesteps, algorithm._n_updates = saved["timesteps"], saved["updates"]
    env.reset()  # allocates what is restored below
    for target, (mean, var, count) in zip((env.obs_rms, env.ret_rms), saved["rms"], strict=True):
        target.mean, target.var, target.count = mean, var, count  # type: ignore[union-attr]
    env.returns = saved["returns"]
    env.old_obs, env.old_reward = saved["old"]
    algorithm._last_obs, algorithm._last_original_obs = saved["last_obs"], saved["original_obs"]
    algorithm._last_episode_starts = saved["starts"]
    torch.set_rng_state(saved["torch"])
    np.random.set_state(("MT19937", *saved["numpy"]))

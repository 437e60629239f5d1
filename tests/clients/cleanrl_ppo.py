"""PPO for continuous actions as single-file implementations such as CleanRL's write it.

Their chain of wrappers around each environment, their vector environments in this process, and their loop: no-grad
rollouts, generalized advantages, clipped updates. On the raw rate, too: `np.prod` of its shape sizes the network.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import wrappers
from torch import nn
from torch.distributions.normal import Normal

import lr_env  # noqa: F401

NUM_ENVS, NUM_STEPS, UPDATES = 2, 6, 2
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


def make_env(task_id: str):
    """A function that makes one environment in its wrappers."""

    def thunk() -> gymnasium.Env:
        env = gymnasium.make(task_id, budget=8, segment=2)
        env = wrappers.FlattenObservation(env)
        env = wrappers.RecordEpisodeStatistics(env)
        env = wrappers.ClipAction(env)
        env = wrappers.NormalizeObservation(env)
        env = wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), env.observation_space)
        env = wrappers.NormalizeReward(env, gamma=GAMMA)
        return wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))

    return thunk


class Agent(nn.Module):
    """A critic, and a Gaussian actor with a spread of its own."""

    def __init__(self, envs: gymnasium.vector.SyncVectorEnv) -> None:
        super().__init__()
        features = np.array(envs.single_observation_space.shape).prod()
        actions = np.prod(envs.single_action_space.shape)
        self.critic = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor_mean = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, actions))
        self.actor_logstd = nn.Parameter(torch.zeros(1, actions))

    def forward(self, x: torch.Tensor, action: torch.Tensor | None = None):
        """Actions (drawn, if none is given), their log probabilities, and values."""
        mean = self.actor_mean(x)
        probs = Normal(mean, self.actor_logstd.expand_as(mean).exp())
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action).sum(1), self.critic(x).squeeze(1)


def train(task_id: str) -> list[float]:
    """Returns of the episodes that ended."""
    torch.manual_seed(0)
    envs = gymnasium.vector.SyncVectorEnv([make_env(task_id) for _ in range(NUM_ENVS)])
    assert isinstance(envs.single_action_space, gymnasium.spaces.Box), "only continuous actions are supported"
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    shape = (NUM_STEPS, NUM_ENVS)
    obs = torch.zeros(shape + envs.single_observation_space.shape)
    actions = torch.zeros(shape + envs.single_action_space.shape)
    logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))
    returns = []
    before = [parameter.clone() for parameter in agent.parameters()]

    next_obs = torch.Tensor(envs.reset(seed=1)[0])
    next_done = torch.zeros(NUM_ENVS)
    for _ in range(UPDATES):
        for step in range(NUM_STEPS):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                actions[step], logprobs[step], values[step] = agent(next_obs)
            next_array, reward, terminated, truncated, infos = envs.step(actions[step].cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            next_obs = torch.Tensor(next_array)
            next_done = torch.Tensor(np.logical_or(terminated, truncated))
            if "episode" in infos:
                returns += infos["episode"]["r"][infos["_episode"]].tolist()
        with torch.no_grad():
            following, alive, last = agent(next_obs)[2], 1 - next_done, torch.zeros(NUM_ENVS)
            advantages = torch.zeros(shape)
            for step in reversed(range(NUM_STEPS)):
                delta = rewards[step] + GAMMA * following * alive - values[step]
                advantages[step] = last = delta + GAMMA * LAMBDA * alive * last
                following, alive = values[step], 1 - dones[step]
        _, new_logprobs, new_values = agent(obs.flatten(0, 1), actions.flatten(0, 1))
        ratio = (new_logprobs - logprobs.flatten()).exp()
        gain = advantages.flatten()
        policy_loss = torch.max(-gain * ratio, -gain * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
        value_loss = 0.5 * (new_values - (advantages + values).flatten()).square().mean()
        optimizer.zero_grad()
        (policy_loss + value_loss).backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    envs.close()
    assert all((new != old).any() for new, old in zip(agent.parameters(), before, strict=True))
    return returns


if __name__ == "__main__":
    for task_id in ("lr_env/DigitsMLP-Scale-v0", "lr_env/DigitsMLP-v0"):
        returns = train(task_id)
        assert len(returns) >= NUM_ENVS
        assert np.isfinite(returns).all()
        print(task_id, "returns", returns)

"""TorchRL: its checks of an environment, its collector, and its PPO loss, on single and vector environments."""

from __future__ import annotations

import gymnasium
import torch
from tensordict.nn import TensorDictModule
from tensordict.nn.distributions import NormalParamExtractor
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, GymWrapper, RewardSum, StepCounter, TransformedEnv
from torchrl.envs.libs.gym import set_gym_backend
from torchrl.envs.utils import check_env_specs
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import lr_env

ID = "lr_env:lr_env/DigitsMLP-Scale-v0"  # TorchRL spawns its workers, which then import the package, too
SMALL = {"budget": 8, "segment": 2}
FRAMES = 12
PROGRESS = [feature.name for feature in lr_env.FEATURES].index("progress")


def train(env) -> None:
    """Two rounds of collecting and of one PPO update each."""
    env = TransformedEnv(env, RewardSum())
    env.append_transform(StepCounter())
    check_env_specs(env)
    features, actions = len(lr_env.FEATURES), env.action_spec.shape[-1]
    net = nn.Sequential(nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, 2 * actions), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, 1)), ["observation"])
    loss = ClipPPOLoss(actor, critic)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    before = [parameter.clone() for parameter in actor.parameters()]
    ends = 0
    for data in (
        collector := Collector(
            env, actor, frames_per_batch=FRAMES, total_frames=2 * FRAMES, auto_register_policy_transforms=True
        )
    ):
        assert data.numel() == FRAMES
        assert data["next", "reward"].isfinite().all()
        assert data["next", "reward"].abs().max() > 0  # children do train under the collector's no_grad
        done = data["next", "done"].squeeze(-1)
        ends += int(done.sum())
        # The last observation of a run, not the first of the next.
        assert ((data["next", "observation"][..., PROGRESS] == 1) == done).all()
        with torch.no_grad():
            advantage(data)
        losses = loss(data.reshape(-1))
        total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
        assert total.isfinite()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    collector.shutdown()
    assert ends >= 2
    assert all((new != old).any() for new, old in zip(actor.parameters(), before, strict=True))


if __name__ == "__main__":
    torch.manual_seed(0)
    with set_gym_backend("gymnasium"):
        train(GymEnv(ID, **SMALL))
        print("GymEnv")
        for mode in ("Disabled", "SameStep"):
            train(GymWrapper(gymnasium.make_vec(ID, num_envs=2, autoreset_mode=mode, **SMALL)))
            print("GymWrapper of the vector environment", mode)
        train(GymEnv(ID, num_workers=2, **SMALL))
        print("workers")

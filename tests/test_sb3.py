from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    is_vecenv_wrapped,
)

from lr_env import LREnv, LRVectorEnv, UserError
from lr_env.env import NOT_YET
from lr_env.env.episodes import DIVERGED_MULTIPLE
from lr_env.sb3 import LRVecEnv, make_vec_env

# One child after another, so that numbers equal those of LREnv to the last bit.
SMALL = {"budget": 40, "segment": 10, "backend": "loop"}
ALGORITHMS = {
    "PPO": (PPO, {"n_steps": 5, "batch_size": 15}),
    "A2C": (A2C, {}),
    "SAC": (SAC, {"learning_starts": 6, "batch_size": 6, "buffer_size": 100}),
    "DQN": (DQN, {"learning_starts": 6, "batch_size": 6, "buffer_size": 100, "target_update_interval": 5}),
}


def small(num_envs: int = 3, **settings) -> LRVecEnv:
    return make_vec_env("DigitsMLP", num_envs, **{**SMALL, **settings})


def reference(num_envs: int = 3, **settings) -> DummyVecEnv:
    """What SB3 itself makes of as many single environments."""
    settings = {"task": "DigitsMLP", "action": "scale", "score": (), **SMALL, **settings}
    return DummyVecEnv([lambda: LREnv(**settings)] * num_envs)


class Constant:
    """A policy of one action, for `evaluate_policy`."""

    def __init__(self, action: float) -> None:
        self.action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.action, np.float32), None


@pytest.mark.parametrize("action", ["lr", "log_lr", "scale", "discrete"])
def test_it_is_dummy_vec_env_of_single_environments(action):
    settings = {"action": action, "score": ("val", "test"), "max_change": 2.0}
    pair = small(**settings), reference(**settings)
    samples = np.random.default_rng(0)
    diverged = spent = 0
    for env in pair:
        assert list(env.seed(11)) == [11, 12, 13]
        env.set_options([{"lr": 0.01}, {}, {"lr": 9.0}])
    observations = [env.reset() for env in pair]
    for time in range(14):  # three runs and the start of a fourth, a reset, and a fifth
        if time == 10:  # seeds and options are spent: runs go on from their own generators, at the task's rate
            observations = [env.reset() for env in pair]
        assert (observations[0] == observations[1]).all()
        assert observations[0].dtype == observations[1].dtype
        assert pair[0].reset_infos == pair[1].reset_infos
        if action == "lr":
            actions = np.array([0.01, 0.1, 9.0])  # the last one diverges
        elif action != "discrete":
            actions = samples.uniform(0, 1, (3, 1)).astype(np.float32)
        else:
            actions = samples.integers(1, 3, 3)
        stepped = [env.step(actions) for env in pair]
        observations = [step[0] for step in stepped]
        for ours, theirs in zip(stepped[0][1:3], stepped[1][1:3], strict=True):
            assert (ours == theirs).all()
            assert ours.dtype == theirs.dtype
        done = stepped[0][2]
        for run, (ours, theirs) in enumerate(zip(stepped[0][3], stepped[1][3], strict=True)):
            scored = [ours[name] != NOT_YET for name in ("test_loss", "final_val_loss")]
            assert [("terminal_observation" in ours), *scored] == [done[run]] * 3
            if done[run]:
                assert (ours.pop("terminal_observation") == theirs.pop("terminal_observation")).all()
                assert ours["TimeLimit.truncated"] != ours["diverged"]
                assert ours["step"] == 40 or ours["diverged"]
                diverged += ours["diverged"]
                spent += not ours["diverged"]
            assert ours == theirs
            assert {type(value) for value in ours.values()} <= {float, int, bool}
    assert diverged
    assert spent >= 4


def test_a_seed_starts_run_i_from_seed_plus_i_once():
    env, alone = small(seed=5), LREnv("DigitsMLP", **SMALL, score=())
    observations = env.reset()
    for i in range(3):
        observation, info = alone.reset(seed=5 + i)
        assert (observations[i] == observation).all()
        assert env.reset_infos[i] == info
    assert not {5, 6, 7} & {info["seed"] for info in (env.reset(), env.reset_infos)[1]}
    position = np.random.get_state()[2]
    env.seed(None)  # SB3's own would draw from numpy's global generator
    assert np.random.get_state()[2] == position
    env.reset()
    assert len({info["seed"] for info in env.reset_infos}) == 3


@pytest.mark.usefixtures("global_generators_kept")
@pytest.mark.parametrize(
    ("name", "action"), [("PPO", "scale"), ("PPO", "discrete"), ("PPO", "lr"), ("A2C", "scale"), ("SAC", "scale")]
)
def test_algorithms_learn_and_the_same_seed_gives_the_same_policy(name, action):
    algorithm, settings = ALGORITHMS[name]
    policies = []
    for seed in (0, 0, 1):
        env = VecNormalize(VecMonitor(small(action=action)))
        assert is_vecenv_wrapped(env, VecMonitor)
        model = algorithm("MlpPolicy", env, device="cpu", seed=seed, **settings)
        start = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
        model.learn(30)
        policies.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
        assert torch.isfinite(policies[-1]).all()
        assert not torch.equal(start, policies[-1])
        assert len(model.ep_info_buffer) >= 3
        assert all(episode["l"] == 4 or action == "lr" for episode in model.ep_info_buffer)
        env.close()
    assert torch.equal(policies[0], policies[1])
    assert not torch.equal(policies[0], policies[2])


@pytest.mark.usefixtures("global_generators_kept")
def test_dqn_learns_from_discrete_actions():
    algorithm, settings = ALGORITHMS["DQN"]
    model = algorithm("MlpPolicy", VecMonitor(small(action="discrete")), device="cpu", seed=0, **settings)
    model.learn(30)
    assert len(model.ep_info_buffer) >= 3


def test_monitor_sums_rewards_of_every_run_and_the_wrappers_of_sb3_fit():
    env = VecFrameStack(VecCheckNan(VecNormalize(VecMonitor(small()), norm_reward=False), raise_exception=True), 2)
    env.seed(0)
    env.set_options([{}, {"lr": 10.0}, {"lr": 0.3}])  # run 1 diverges
    assert env.reset().shape == (3, 18)
    sums, lengths, episodes = np.zeros(3), np.zeros(3, int), []
    for _ in range(8):
        _, rewards, dones, infos = env.step(np.ones((3, 1), np.float32))
        sums += rewards
        lengths += 1
        for i in np.flatnonzero(dones):
            assert infos[i]["episode"]["r"] == pytest.approx(sums[i], rel=1e-5)
            assert infos[i]["episode"]["l"] == lengths[i]
            assert infos[i]["terminal_observation"].shape == (18,)
            episodes.append((int(i), infos[i]["TimeLimit.truncated"], int(lengths[i]), float(sums[i])))
            sums[i] = lengths[i] = 0
    first = next(episode for episode in episodes if episode[0] == 1)
    assert not first[1]
    assert first[2] < 4
    assert first[3] == pytest.approx(-np.log(DIVERGED_MULTIPLE), rel=1e-5)
    assert [episode[1:3] for episode in episodes if episode[0] != 1] == [(True, 4)] * 4


def test_evaluate_policy_counts_the_episodes_of_the_single_environments():
    counted = []
    for env in (small(), reference()):
        env.seed(3)
        env.set_options([{}, {"lr": 10.0}, {"lr": 0.3}])
        env = VecMonitor(env)
        counted.append(evaluate_policy(Constant(0.5), env, n_eval_episodes=5, return_episode_rewards=True))
    assert counted[0] == counted[1]
    returns, lengths = counted[0]
    assert len(returns) == 5
    assert [length < 4 for length in lengths] == [True, False, False, False, False]


def test_attributes_and_methods_answer_run_by_run():
    env = small()
    assert isinstance(env, VecEnv)
    assert env.get_attr("task") == [env.vector_env.task] * 3
    assert env.get_attr("task")[0].budget == 40
    assert env.get_attr("render_mode", indices=1) == [None]
    assert env.get_attr("action_space", indices=[0, -1]) == [env.action_space] * 2
    assert env.get_attr("run_spec", indices=np.array([2]))[0] == LREnv("DigitsMLP", **SMALL).run_spec
    assert env.get_attr("task", indices=np.int64(0)) == env.get_attr("task", indices=(i for i in [2]))
    assert env.get_attr("task", indices=[]) == []
    assert env.has_attr("task")
    assert not env.has_attr("action_masks")
    assert env.env_is_wrapped(Monitor, indices=[0, 1]) == [False, False]
    assert VecNormalize(env).vector_env is env.vector_env

    env.seed(0)
    env.reset()
    before, *_ = env.step(np.zeros((3, 1), np.float32))
    ((observation, info),) = env.env_method("reset", seed=50, options={"lr": 0.2}, indices=1)
    expected = LREnv("DigitsMLP", **SMALL, score=()).reset(seed=50, options={"lr": 0.2})
    assert (observation == expected[0]).all()
    assert info == expected[1]
    *_, infos = env.step(np.zeros((3, 1), np.float32))
    assert [info["step"] for info in infos] == [20, 10, 20]
    assert env.env_method("reset", indices=[]) == []
    env.close()
    assert env.vector_env.closed
    assert (before[1] != observation).any()


def test_any_lr_vector_env_can_be_wrapped():
    env = LRVecEnv(gymnasium.make_vec("lr_env/DigitsMLP-v0", num_envs=2, action="scale", **SMALL))
    assert env.num_envs == 2
    assert env.reset().shape == (2, 9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make_vec_env("DigitMLP", 2), "did you mean 'DigitsMLP'"),
        (lambda: small(0), "num_envs"),
        (lambda: small(action="rate"), "unknown action"),
        (lambda: small(seed=-1), "whole numbers"),
        (lambda: small().seed(0.5), "whole numbers"),
        (lambda: small().set_options([{}]), "give one for each"),
        (lambda: small().set_options({"rl": 0.1}), "did you mean 'lr'"),
        (lambda: small().set_options({"lr": "fast"}), "not a number"),
        (lambda: small().set_options({"lr": [0.1, 0.2]}), "not a number"),
        (lambda: small().set_options([0.1, 0.1, 0.1]), "give a dict"),
        (lambda: small().set_options(5), "give a dict"),
        (lambda: reset_at(11.0), "outside the range"),
        (lambda: small().step(np.zeros((3, 1))), "call reset"),
        (lambda: started().step_wait(), "step_async"),
        (lambda: started().step(np.zeros((2, 1))), "one for each of 3"),
        (lambda: started().step(np.full((3, 1), np.nan)), "not finite"),
        (lambda: small().get_attr("episodes"), "no attribute 'episodes'"),
        (lambda: small().get_attr("task", indices=3), "from 0 to 2"),
        (lambda: small().env_is_wrapped(Monitor, indices="all"), "from 0 to 2"),
        (lambda: small().set_attr("budget", 50), "cannot set 'budget'"),
        (lambda: small().env_method("step", 0), "cannot call 'step'"),
        (lambda: small().env_method("reset", seed=-1), "whole numbers"),
        (lambda: small().env_method("reset", options={"reset_mask": [True]}), "unknown option"),
        (lambda: LRVecEnv(LREnv("DigitsMLP")), "not an LRVectorEnv"),
        (lambda: LRVecEnv(RecordEpisodeStatistics(LRVectorEnv("DigitsMLP", 2))), "not an LRVectorEnv"),
        (lambda: LRVecEnv(LRVectorEnv("DigitsMLP", 2, autoreset_mode="Disabled")), "SameStep"),
    ],
)
def test_bad_input_is_one_clear_line(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def started() -> LRVecEnv:
    env = small()
    env.reset()
    return env


def reset_at(lr: float) -> None:
    env = small()
    env.set_options({"lr": lr})
    env.reset()


def test_nothing_is_scored_unless_asked_for():
    env = started()
    for _ in range(4):
        *_, infos = env.step(np.zeros((3, 1), np.float32))
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert not any(name.startswith(("test", "final")) for name in infos[0])


def test_the_environments_load_neither_sb3_nor_matplotlib_before_the_first_picture():
    code = """if True:
        import sys, lr_env
        lr_env.LRVectorEnv
        env = lr_env.LREnv(render_mode="rgb_array", budget=50, backend="loop")
        env.reset(seed=0)
        assert not {"stable_baselines3", "matplotlib"} & {*sys.modules}
        env.render()
        assert "matplotlib" in sys.modules
        assert not {"stable_baselines3", "matplotlib.pyplot"} & {*sys.modules}
    """
    subprocess.run([sys.executable, "-c", code], check=True)

from __future__ import annotations

import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import lr_env
from lr_env import FEATURES, TASKS, LREnv, LRVectorEnv, UserError
from lr_env.env import NOT_YET
from lr_env.env.episodes import DIVERGED_MULTIPLE
from lr_env.tasks import CNN, FAMILIES, GPT, ResNet, Task
from lr_env.tasks.data import load

IDS = [f"lr_env/{name}-v0" for name in TASKS]
SMALL = {"task": "DigitsMLP", "budget": 50, "segment": 10}
# What checkers say of a Box that is not [-1, 1]; the "lr" action is for people, "scale" and "log_lr" are for agents.
EXPECTED_WARNING = "a symmetric and normalized"


def small(name: str) -> Task:
    """A task of the catalogue, so short that a checker's many resets are bearable; skips where its data are not."""
    task = TASKS[name.removeprefix("lr_env/").removesuffix("-v0")]
    try:
        load(task.data)
    except UserError as error:
        pytest.skip(f"needs the data set {task.data}: {error}")
    if task.budget > 1000:  # made for a GPU: a narrow network in its place
        narrow = {"CNN": CNN(4, 16), "ResNet": ResNet((1, 1), 4), "GPT": GPT(16, 1, 2, dropout=0.2)}
        task = replace(task, network=narrow.get(type(task.network).__name__, task.network), batch_size=8)
    return replace(task, budget=3 * 2, segment=2, val_subset=20, train_fraction=0.02)


def test_every_task_is_registered():
    suffixes = {"": "lr", "-Scale": "scale", "-Discrete": "discrete", "-LogLR": "log_lr"}
    registered = {name: spec.kwargs for name, spec in gymnasium.registry.items() if name.startswith("lr_env/")}
    assert registered.keys() == {f"lr_env/{name}{suffix}-v0" for name in (*TASKS, *FAMILIES) for suffix in suffixes}
    for name, task in TASKS.items():
        for suffix, action in suffixes.items():
            kwargs = registered[f"lr_env/{name}{suffix}-v0"]
            assert kwargs["task"] == name
            assert kwargs.get("action", "lr") == action
        low, high = task.tuning_range
        assert registered[f"lr_env/{name}-LogLR-v0"]["lr_range"] == pytest.approx((low / 100, high))
    assert gymnasium.make("lr_env:lr_env/DigitsMLP-v0").unwrapped.task == TASKS["DigitsMLP"]


@pytest.mark.parametrize("action", ["lr", "log_lr", "scale", "discrete"])
@pytest.mark.parametrize("name", IDS)
def test_checkers_pass_without_warnings(name, action):
    env = gymnasium.make(name, task=small(name), action=action, score=()).unwrapped
    for check in (check_env, check_env_of_sb3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(env)
        unexpected = [w for w in caught if EXPECTED_WARNING not in str(w.message)]
        assert not unexpected, [str(w.message) for w in unexpected]


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
@pytest.mark.parametrize("action", ["lr", "log_lr", "scale", "discrete"])
def test_a_vector_environment_is_the_single_one_n_times(action, mode):
    settings = {**SMALL, "action": action, "reward": "improvement", "backend": "loop"}
    given = {} if mode == "NextStep" else {"autoreset_mode": mode}
    many = gymnasium.make_vec("lr_env/DigitsMLP-v0", num_envs=3, **settings, **given)
    alone = [LREnv(**settings) for _ in range(3)]
    obs, infos = many.reset(seed=11)
    many.action_space.seed(0)
    single = [env.reset(seed=11 + i) for i, env in enumerate(alone)]
    for i in range(3):
        assert (obs[i] == single[i][0]).all()
    over = [False] * 3
    for _ in range(12):  # two whole episodes and the start of a third
        actions = many.action_space.sample()
        if action == "lr":
            actions = np.array([0.01, 0.1, 9.0])  # the last one diverges
        obs, rewards, terminated, truncated, infos = many.step(actions)
        for i, env in enumerate(alone):
            expected = (*env.reset(), 0, False, False) if over[i] else env.step(actions[i])
            expected = (expected[0], *expected[2:], expected[1]) if over[i] else expected
            assert (rewards[i], terminated[i], truncated[i]) == expected[1:4]
            latest = infos
            over[i] = bool(mode == "NextStep" and (terminated[i] or truncated[i]))
            if mode == "SameStep" and (terminated[i] or truncated[i]):
                assert (infos["final_obs"][i] == expected[0]).all()
                assert_matches(infos["final_info"], i, expected[4])
                expected = (*env.reset(), *expected)
                expected = (expected[0], 0, 0, 0, expected[1])
            assert (obs[i] == expected[0]).all()
            assert_matches(latest, i, expected[4])
    assert many.autoreset_mode.value == many.metadata["autoreset_mode"].value == mode


def assert_matches(infos, row, alone):
    """See that infos say of a run what the single environment's info says, which has -1 where nothing was measured."""
    assert {name for name in infos if not name.startswith(("_", "final_obs", "final_info"))} == alone.keys()
    for name, value in alone.items():
        assert infos[f"_{name}"][row] == (value != NOT_YET), name
        assert infos[name][row] == (0 if value == NOT_YET else value), name


def test_the_whole_stack_of_wrappers_counts_episodes():
    envs = RecordEpisodeStatistics(gymnasium.make_vec("lr_env/DigitsMLP-v0", num_envs=2, budget=30, segment=10))
    envs.reset(seed=0)
    for _ in range(7):  # of which the fourth starts the second episodes
        *_, infos = envs.step(np.array([0.05, 0.05]))
    assert infos["episode"]["l"].tolist() == [3, 3]


def test_rewards_come_from_validation_and_telescope():
    env = LREnv(**SMALL, reward="improvement")
    _, first = env.reset(seed=1)
    total, truncated = 0.0, False
    while not truncated:
        _, reward, terminated, truncated, info = env.step(0.05)
        assert not terminated
        total += reward
    assert total == pytest.approx(np.log(first["val_loss"]) - np.log(info["val_loss"]), rel=1e-12)
    assert total > 0

    env = LREnv(**SMALL, reward="neg_val_loss")
    env.reset(seed=1)
    _, reward, *_, info = env.step(0.05)
    assert reward == -info["val_loss"]

    env = LREnv(**SMALL, reward="final", score=())
    env.reset(seed=1)
    rewards = []
    for _ in range(5):
        _, reward, *_, info = env.step(0.05)
        rewards.append(reward)
    assert rewards[:-1] == [0.0] * 4
    assert rewards[-1] == -info["final_val_loss"] < 0
    assert "test_loss" not in info


def test_test_data_is_scored_once_at_the_end_and_never_shown_before():
    env = LREnv(**SMALL)
    _, info = env.reset(seed=1)
    names = info.keys()
    for _ in range(5):
        assert all(value == NOT_YET for name, value in info.items() if name.startswith(("test", "final")))
        _, _, _, truncated, info = env.step(0.05)
        assert info.keys() == names
    assert truncated
    loss, accuracy = env.episodes.children.evaluate("test")
    assert (info["test_loss"], info["test_accuracy"]) == (loss[0], accuracy[0])


def test_a_diverged_child_ends_with_finite_numbers_while_its_neighbours_train_on():
    envs = LRVectorEnv(**SMALL, num_envs=3, autoreset_mode="Disabled", backend="stacked")
    _, start = envs.reset(seed=0)
    lr = np.array([0.05, 10.0, 0.05])
    everything = []
    for _ in range(5):
        obs, rewards, terminated, truncated, infos = envs.step(lr)
        everything.append((obs, rewards, infos))
        assert envs.observation_space.contains(obs)
        assert np.isfinite(rewards).all()
        assert all(np.isfinite(values).all() for values in infos.values())
    assert terminated.tolist() == [False, True, False]
    assert truncated.tolist() == [True, False, True]
    assert infos["diverged"].tolist() == [False, True, False]
    assert infos["val_loss"][1] == DIVERGED_MULTIPLE * start["val_loss"][1]
    assert infos["step"].tolist()[::2] == [50, 50]
    assert infos["step"][1] < 50
    assert sum(rewards[1] for _, rewards, _ in everything) == pytest.approx(-np.log(DIVERGED_MULTIPLE))
    alone = LRVectorEnv(**SMALL, num_envs=3, backend="stacked", autoreset_mode="SameStep")
    alone.reset(seed=0)
    for _ in range(5):
        *_, calm = alone.step(np.full(3, 0.05))
    for row in (0, 2):
        assert infos["test_loss"][row] == pytest.approx(calm["final_info"]["test_loss"][row], rel=1e-5)


def test_reset_mask_starts_only_the_runs_in_it():
    envs = LRVectorEnv(**SMALL, num_envs=3)
    envs.reset(seed=[4, 5, 6])
    before, *_, infos = envs.step([0.05, 0.05, 0.05])
    options = {"reset_mask": np.array([False, True, False]), "lr": 0.2}
    obs, infos = envs.reset(seed=[None, 50, None], options=options)
    assert "reset_mask" in options  # the caller's dict stays as it was
    assert (obs[[0, 2]] == before[[0, 2]]).all()
    assert infos["step"].tolist() == [10, 0, 10]
    assert infos["seed"].tolist() == [4, 50, 6]
    assert infos["lr"].tolist() == [0.05, 0.2, 0.05]
    obs, infos = envs.reset(options={"reset_mask": np.array([True, False, False])})
    # Unseeded, run 0 goes on with the generator that seed 4 began.
    single = LREnv(**SMALL)
    single.reset(seed=4)
    assert infos["seed"][0] == single.reset()[1]["seed"] != 4


def test_relative_actions_change_the_log_of_the_rate_within_bounds():
    env = LREnv(**SMALL, action="scale", max_change=2.0)
    env.reset(seed=0, options={"lr": 0.01})
    assert env.step(np.array([0.5], dtype=np.float32))[4]["lr"] == pytest.approx(0.01 * 2**0.5)
    assert env.step(np.array([-0.5], dtype=np.float32))[4]["lr"] == pytest.approx(0.01)
    env = LREnv(**SMALL, action="discrete", max_change=2.0)
    env.reset(seed=0, options={"lr": 0.1})
    assert [env.step(a)[4]["lr"] for a in (1, 2, 0)] == [0.1, 0.2, 0.1]
    low, high = env.task.lr_range
    for start, action, bound in ((low, 0, low), (high, 2, high)):
        env.reset(seed=0, options={"lr": start})
        assert env.step(action)[4]["lr"] == bound


def test_a_rate_for_every_step_of_a_segment():
    env, other = LREnv(**SMALL), LREnv(**SMALL)
    env.reset(seed=0)
    other.reset(seed=0)
    same = env.step(np.full(10, 0.05))[0], other.step(0.05)[0]
    assert (same[0] == same[1]).all()
    info = env.step(np.linspace(0.01, 0.1, 10))[4]
    assert info["lr"] == 0.1
    assert info["val_loss"] != other.step(0.05)[4]["val_loss"]


def test_snapshot_and_restore_replay_the_same_future():
    for env in (LREnv(**SMALL), LRVectorEnv(**SMALL, num_envs=2)):
        action = 0.05 if isinstance(env, LREnv) else np.array([0.05, 0.1])
        env.reset(seed=3)
        for _ in range(4):
            env.step(action)
        snapshot = env.snapshot()
        futures = []
        for _ in range(2):
            env.restore(snapshot)
            future = [env.step(action) for _ in range(1)]
            future.append(env.reset() if isinstance(env, LREnv) else env.step(action))
            futures.append(repr(future))
        assert futures[0] == futures[1]


def test_snapshot_and_restore_below_the_wrappers_of_make():
    env = gymnasium.make("lr_env/DigitsMLP-v0", budget=50, segment=10)
    env.reset(seed=3)
    snapshot = env.unwrapped.snapshot()
    first = repr([env.step(0.05) for _ in range(2)])
    other = gymnasium.make("lr_env/DigitsMLP-v0", budget=50, segment=10)
    other.reset(seed=4)
    other.unwrapped.restore(snapshot)
    assert repr([other.step(0.05) for _ in range(2)]) == first


def test_same_seed_same_run_whatever_came_before():
    env = LREnv(**SMALL)
    runs = []
    for _ in range(2):
        env.reset(seed=9)
        runs.append(repr([env.step(0.1) for _ in range(5)]))
    assert runs[0] == runs[1]
    with pytest.raises(UserError, match="over: call reset"):
        env.step(0.1)


def test_features_are_documented_and_bound_the_observation():
    space = LREnv(**SMALL).observation_space
    assert [f.low for f in FEATURES] == space.low.tolist()
    assert [f.high for f in FEATURES] == space.high.tolist()
    for feature in FEATURES:
        assert feature.description
        assert feature.unit
        assert f"| {feature.name}" in LREnv.__doc__


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LREnv("DigitMLP"), "did you mean 'DigitsMLP'"),
        (lambda: LREnv("DigitsMLP", action="rate"), "unknown action"),
        (lambda: LREnv("DigitsMLP", reward="loss"), "unknown reward"),
        (lambda: LREnv("DigitsMLP", budget=55, segment=10), "use a budget of 50 or 60"),
        (lambda: LREnv("DigitsMLP", score=("train",)), "cannot score"),
        (lambda: LREnv("DigitsMLP", action="scale", max_change=1.0), "max_change"),
        (lambda: LRVectorEnv("DigitsMLP", 0), "num_envs"),
        (lambda: LRVectorEnv("DigitsMLP", 2, autoreset_mode="NextSteps"), "did you mean 'NextStep'"),
        (
            lambda: LREnv(rewards="final"),
            r"LREnv.__init__\(\) got an unexpected keyword argument 'rewards'; did you mean 'reward'",
        ),
        (lambda: LREnv(num_envs=3), "unexpected keyword argument 'num_envs'"),
        (lambda: gymnasium.make("lr_env/DigitsMLP-v0", rewards="final"), "did you mean 'reward'"),
        (lambda: LRVectorEnv(num_envs=2, max_episode_steps=0), "max_episode_steps is 0"),
        (lambda: LREnv(7), "task is of type int"),
        (lambda: LREnv({"class": "lr_env.tasks:Tusk"}), "no dataclass 'lr_env.tasks:Tusk'"),
        (lambda: LREnv({"class": "lr_env.tasks:Task", "date": 1}), "do not fit"),
        (lambda: LREnv(start_rates=np.array([0.1, 11.0])), "starting rate 11 is outside"),
        (lambda: LREnv(**SMALL).reset(options={"reset_maks": [True]}), "unknown option 'reset_maks'"),
        (lambda: LREnv(**SMALL).reset(options=[0.1]), "give a dict"),
        (
            lambda: LRVectorEnv(**SMALL, num_envs=2).reset(options={"reset_maks": [True]}),
            "unknown option 'reset_maks'; did you mean 'reset_mask'",
        ),
        (lambda: LREnv(**SMALL).scores(), "call reset"),
        (lambda: LREnv(**SMALL).reset(seed=-1), "seed -1: seeds are whole numbers"),
        (lambda: LREnv(**SMALL).reset(seed=1.5), "seed 1.5: seeds are whole numbers"),
        (lambda: LRVectorEnv(**SMALL, num_envs=2).reset(seed=[1, 2.5]), "seed 2.5: seeds are whole numbers"),
        (lambda: LRVectorEnv(**SMALL, num_envs=2).reset(seed=2.5), "seed 2.5: seeds are whole numbers"),
        (lambda: LRVectorEnv(**SMALL, num_envs=2).reset(seed=True), "seed True: seeds are whole numbers"),
        (lambda: started(action="log_lr").step([1.5]), "outside the space"),
        (lambda: replace(TASKS["DigitsMLP"], budget=True), "budget is True"),
        (lambda: replace(TASKS["DigitsMLP"], lr_range=0.1), "must hold two rates"),
        (lambda: replace(TASKS["DigitsMLP"], lr_start="fast"), "lr_start is 'fast'"),
        (lambda: LREnv(**SMALL).step(0.1), "call reset"),
        (lambda: started().step(0.0), "outside the range"),
        (lambda: started().step(-1.0), "outside the range"),
        (lambda: started().step(11.0), "outside the range"),
        (lambda: started().step(float("nan")), "not finite"),
        (lambda: started().step(float("inf")), "not finite"),
        (lambda: started().step("fast"), "not a number"),
        (lambda: started(action="scale").step([1.5]), "outside the space"),
        (lambda: started(action="discrete").step(3), "outside the space"),
        (lambda: LREnv(**SMALL).reset(options={"lr": 0.0}), "outside the range"),
        (lambda: LRVectorEnv(**SMALL, num_envs=2).reset(seed=[1]), "give one for each"),
        (lambda: LRVectorEnv(**SMALL, num_envs=2).reset(options={"reset_mask": np.zeros(2, bool)}), "reset_mask"),
        (lambda: replace(TASKS["DigitsMLP"], val_subset=401), "val split has 400"),
        (lambda: replace(TASKS["DigitsMLP"], data="digit"), "did you mean 'digits'"),
        (lambda: replace(TASKS["DigitsMLP"], lr_range=(0.0, 1.0)), "lr_range"),
    ],
)
def test_bad_input_is_one_clear_line(wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        wrong()
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def started(**settings) -> LREnv:
    env = LREnv(**SMALL, **settings)
    env.reset(seed=0)
    return env


def test_public_names_are_there():
    for name in lr_env.__all__:
        assert getattr(lr_env, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lr_env.Nothing  # noqa: B018

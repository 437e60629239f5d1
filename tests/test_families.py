"""Task families: what is sampled, and the environments that draw tasks."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from dataclasses import replace
from importlib.metadata import EntryPoint
from itertools import combinations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

from lr_env import Children, UserError, registration
from lr_env.children import Backend, Execution
from lr_env.env import LRFamilyEnv, LRFamilyVectorEnv
from lr_env.jsonable import from_plain, to_plain
from lr_env.sb3 import LRVecEnv
from lr_env.tasks import FAMILIES, GPT, Family, LayeredCNN, LayeredMLP, ResNet, data, find_family, sources
from lr_env.tasks.families import family_names, split_of

SHORT = {"budget": 6, "segment": 2}
EXPECTED_WARNING = "a symmetric and normalized"  # which the rates of the action "lr" are not
KINDS = {
    "MLPFamily": {LayeredMLP},
    "PlainMLPFamily": {LayeredMLP},
    "CNNFamily": {LayeredCNN},
    "ResNetFamily": {ResNet},
    "GPTFamily": {GPT},
    "MixedFamily": {LayeredMLP, LayeredCNN},
}


@pytest.fixture
def no_data(monkeypatch):
    """Let nothing read data."""

    def read(*args, **kwargs):
        raise AssertionError("data were read")

    for module, name in ((data, "_whole"), (sources, "read"), (sources, "read_archive"), (sources, "_digits")):
        monkeypatch.setattr(module, name, read)


def samples(family: Family, split: str, count: int):
    return [family.sample(seed) for seed in family.splits[split][:count]]


def test_a_seed_has_the_same_task_everywhere(no_data):
    tasks = [f.sample(s).settings() for f in FAMILIES.values() for s in (0, 17, 1_234_567, 2_000_000, 3_999_999)]
    digest = hashlib.sha256(json.dumps(tasks, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "f932323f50140471"
    task = find_family("MLPFamily").sample(17)
    assert task == find_family("MLPFamily").sample(np.int64(17)) == pickle.loads(pickle.dumps(task))
    assert from_plain(json.loads(json.dumps(to_plain(task)))) == task
    assert find_family("MixedFamily").sample(17).optimizer != task.optimizer


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_splits_are_apart_and_shifted_tasks_are_others(family, no_data):
    assert list(family.splits) == ["train", "val", "test", "shifted"]
    for one, other in combinations(family.splits.values(), 2):
        assert one.stop <= other.start or other.stop <= one.start
    tasks = {split: samples(family, split, 150) for split in family.splits}
    for split, drawn in tasks.items():
        assert len({repr(replace(task, name="")) for task in drawn}) >= 145  # small tasks may agree
        assert [split_of(family, int(task.name.rpartition("-")[2])) for task in drawn] == [split] * 150
    usual = [task for split in ("train", "val", "test") for task in tasks[split]]
    assert {type(task.network) for task in usual} == KINDS[family.name]
    assert not {task.data for task in usual} & {task.data for task in tasks["shifted"]}
    if family.name == "MixedFamily":
        assert {type(task.network) for task in tasks["shifted"]} == {ResNet, GPT}
    else:  # of the same kind, but deeper than all others
        depths = [[depth(task.network) for task in drawn] for drawn in (usual, tasks["shifted"])]
        assert max(depths[0]) < min(depths[1])


def depth(network) -> int:
    fields = {LayeredMLP: "hidden", LayeredCNN: "channels", ResNet: "blocks"}
    return network.layers if isinstance(network, GPT) else len(getattr(network, fields[type(network)]))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_tasks_keep_to_the_bounds_and_use_them(family, no_data):
    tasks = samples(family, "train", 300)
    for task in tasks:
        assert task.num_segments == 50
        assert task.val_subset * task.source.positions >= 250
        assert task.batch_size <= task.train_size
        assert task.tuning_range[0] < task.lr_start < task.tuning_range[1]
        assert task.lr_range == (1e-10, 10.0)
        assert task.tuning_range[1] <= 3.0
    if family.name == "PlainMLPFamily":
        check_plain(tasks)
        return
    optimizers = [task.optimizer for task in tasks]
    kinds = {"Adam", "AdamW"} | (set() if family.name == "GPTFamily" else {"SGD"})
    assert {type(optimizer).__name__ for optimizer in optimizers} == kinds
    assert 0.4 < np.mean([optimizer.weight_decay == 0 for optimizer in optimizers]) < 0.6
    assert 0.35 < np.mean([task.train_fraction == 1 for task in tasks]) < 0.65
    assert 0.6 < np.mean([task.label_noise == 0 for task in tasks]) < 0.8
    networks = [task.network for task in tasks if isinstance(task.network, LayeredMLP)]
    if networks:
        widths = np.concatenate([network.hidden for network in networks])
        assert {len(network.hidden) for network in networks} == set(range(1, 8))
        assert (widths.min(), widths.max()) == (8, 128)
        assert 26 < np.median(widths) < 37  # log-uniform
        assert {name for network in networks for name in network.activations} == {"relu", "tanh", "gelu"}
        assert 0.2 < np.mean(np.concatenate([network.norms for network in networks])) < 0.4
        assert any(network.dropout for network in networks)
        assert {type(skip) for network in networks for skip in network.skips} == {int, type(None)}


def check_plain(tasks):
    """Nothing varies but what varies in LCBench, and the width of each layer."""
    assert {(task.budget, task.data, task.train_fraction, task.label_noise) for task in tasks} == {
        (500, "digits", 1, 0)
    }
    momenta = [task.optimizer.momentum for task in tasks]
    assert min(momenta) < 0.1 < 0.9 < max(momenta) <= 0.95
    assert {len(task.network.hidden) for task in tasks} == {1, 2, 3, 4, 5}
    for task in tasks:
        assert set(task.network.activations) == {"relu"}
        assert not any(task.network.norms)
        assert not any(skip is not None for skip in task.network.skips)
        assert 1e-5 <= task.optimizer.weight_decay <= 1e-2


def test_bad_networks_are_refused():
    for make, message in (
        (lambda: LayeredMLP((8, 8), activations=("relu",)), "activations has 1 values for 2 layers"),
        (lambda: LayeredMLP((8, 8), activations=("relu", "rely")), "did you mean 'relu'"),
        (lambda: LayeredMLP((8, 8), skips=(None, 1)), "layer 2 has a skip from layer 1"),
        (lambda: LayeredMLP((8,), dropout=1), "dropout is 1"),
        (lambda: LayeredCNN(()), "at least one convolution"),
        (lambda: LayeredCNN((4,), kernels=(4,)), "must be odd"),
        (lambda: LayeredCNN((4,), pooling="min"), "unknown pooling 'min'"),
        (lambda: LayeredCNN((4, 4), pools=(True, True)).build((1, 3, 8), 2), "cannot be pooled 2 times"),
        (lambda: LayeredCNN((4,)).build((64,), 2), "use images"),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_the_forward_pass_is_the_documented_one():
    torch_state = torch.random.get_rng_state()
    network = LayeredMLP((5, 4, 5), ("relu", "tanh", "gelu"), (False, True, False), (None, 0, 1))
    module = network.build((2, 3), 2)
    x = torch.linspace(-1, 1, 24).reshape(4, 2, 3)
    torch.random.set_rng_state(torch_state)
    first, second, third = module.layers
    one = torch.relu(first.linear(x.flatten(1)))
    two = torch.tanh(second.norm(second.linear(one)) + x.flatten(1) @ second.project.weight.T)
    three = torch.nn.functional.gelu(third.linear(two) + one)  # as wide as layer 1: no projection
    torch.testing.assert_close(module(x), module.head(three))
    assert [name for name, _ in module.named_parameters() if "project" in name] == ["layers.1.project.weight"]


# A sampled task of each family, with as much as possible in one network.
CHOSEN = {"MLPFamily": 371, "CNNFamily": 36, "ResNetFamily": 8, "GPTFamily": 18}


@pytest.mark.parametrize("name", CHOSEN)
def test_both_engines_train_a_sampled_task_alike(name):
    task = replace(FAMILIES[name].sample(CHOSEN[name]), budget=6, segment=3, val_subset=8, train_fraction=0.15)
    task = replace(task, batch_size=min(task.batch_size, 8))
    children = [
        Children(task, [3, 1, 4], Execution(backend=backend), torch.float64)
        for backend in (Backend("loop"), Backend("stacked", 3))
    ]
    for each in children:
        for _ in range(2):
            each.train(np.array([0.5, 1.0, 2.0]) * task.lr_start)
    loop, stack = children
    np.testing.assert_allclose(stack.step_losses, loop.step_losses, rtol=1e-7)
    for key, tensor in loop.state.tensors.items():
        if not key.endswith("noise_key"):
            torch.testing.assert_close(stack.state.tensors[key], tensor, rtol=1e-6, atol=1e-8, msg=key)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_sampled_tasks_train(family):
    for task in samples(family, "val", 6):
        children = Children(replace(task, budget=4, segment=4), [0])
        losses = children.train([task.tuning_range[0]])
        assert np.isfinite(losses).all()
        assert np.isfinite(children.measure()["val_loss"]).all()
    for task in samples(family, "shifted", 4):  # whose data may not be here
        source = task.source
        with torch.random.fork_rng():
            module = task.network.build(source.input_shape, source.num_classes)
        inputs = torch.zeros(2, *source.input_shape, dtype=torch.int64 if source.tokens else torch.float32)
        assert module.eval()(inputs).shape == (2, *source.output_shape)


OWN_FAMILY = replace(FAMILIES["MLPFamily"], name="OwnFamily")


def test_families_are_found_by_their_names(monkeypatch):
    assert tuple(FAMILIES) == registration.FAMILIES
    entries = [EntryPoint(name, "tests.test_families:OWN_FAMILY", "lr_env.families") for name in ("OwnFamily", "Other")]
    monkeypatch.setattr("lr_env.entry_points.entry_points", lambda group: entries if group == "lr_env.families" else [])
    assert find_family("OwnFamily") == OWN_FAMILY
    assert family_names() == [*FAMILIES, "Other", "OwnFamily"]
    with pytest.raises(UserError, match="task family 'Other' is no"):
        find_family("Other")
    with pytest.raises(UserError, match="unknown task family 'MLPFamly'; did you mean 'MLPFamily'"):
        find_family("MLPFamly")
    for seed in (-1, 4_000_000, 1.0, True, "1"):
        with pytest.raises(UserError, match=r"no seed of a task of MLPFamily: give one of train 0 to 999999, val"):
            FAMILIES["MLPFamily"].sample(seed)


@pytest.mark.parametrize(
    "name", ["MLPFamily", "CNNFamily-Scale", "ResNetFamily-Discrete", "GPTFamily-LogLR", "MixedFamily"]
)
def test_checkers_pass(name):
    env = gymnasium.make(f"lr_env/{name}-v0", **SHORT).unwrapped
    for check in (check_env, check_env_of_sb3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(env)
        assert not [str(w.message) for w in caught if EXPECTED_WARNING not in str(w.message)]


@pytest.mark.parametrize("action", ["lr", "log_lr"])
def test_a_reset_draws_a_task(action):
    env, again = (LRFamilyEnv("MLPFamily", action=action, split="val", **SHORT) for _ in range(2))
    space = env.action_space
    first, info = env.reset(seed=5)
    assert info["task"] == env.task
    assert info["task"].name == f"MLPFamily-{info['task_seed']}"
    assert info["task_seed"] in FAMILIES["MLPFamily"].splits["val"]
    assert info["seed"] == 5
    assert env.action_space == space == env.episodes.action_space
    if action == "log_lr":
        low, high = env.task.tuning_range
        assert env.step(np.ones(1))[4]["lr"] == pytest.approx(high)
        assert env.task.lr_range == pytest.approx((low / 100, high))
    drawn = [env.reset()[1] for _ in range(3)]
    assert len({one["task_seed"] for one in drawn}) == 3
    assert (again.reset(seed=5)[0] == first).all()
    assert [again.reset()[1] for _ in range(3)] == drawn
    fixed = env.reset(seed=1, options={"task_seed": 17})[1]
    assert fixed["task"].name == "MLPFamily-17"
    episodes = env.episodes
    assert env.reset(seed=1, options={"task_seed": 17})[1] == fixed
    assert env.episodes is episodes  # the same task keeps its children
    kept = env.snapshot()
    ahead = [env.step(np.full(1, 0.01))[:2] for _ in range(2)]
    env.reset(seed=9)
    env.restore(kept)
    for (seen, reward), (before, then) in zip([env.step(np.full(1, 0.01))[:2] for _ in range(2)], ahead, strict=True):
        assert (seen == before).all()
        assert reward == then
    copied = pickle.loads(pickle.dumps(env))
    assert copied.reset()[1] == env.reset()[1]


def test_bad_arguments_change_nothing():
    env = LRFamilyEnv(**SHORT)
    env.reset(seed=0)
    before = env.reset(seed=0)[1]
    for options, message in (({"task_seed": -3}, "no seed"), ({"lr": 99.0}, "starting rate"), ({"x": 1}, "option 'x'")):
        with pytest.raises(UserError, match=message):
            env.reset(seed=1, options=options)
        assert env.task == before["task"]
    other = LRFamilyEnv("CNNFamily", **SHORT)
    other.reset(seed=0)
    with pytest.raises(UserError, match="of CNNFamily, not of MLPFamily"):
        env.restore(other.snapshot())
    assert env.step([0.01])[4]["task"] == before["task"]
    for settings, message in (
        ({"split": "tests"}, "unknown split of MLPFamily 'tests'; did you mean 'test'"),
        ({"budget": 10}, "give both or none"),
        ({"task": "DigitsMLP"}, "give a family"),
        ({"famly": 1}, "did you mean 'family'"),
        ({"family": 3}, "give a name"),
    ):
        for kind in (LRFamilyEnv, LRFamilyVectorEnv):
            with pytest.raises(UserError, match=message):
                kind(**settings)


def test_runs_in_lockstep_share_the_task():
    envs = gymnasium.make_vec("lr_env/MixedFamily-v0", num_envs=3, autoreset_mode="Disabled", **SHORT)
    alone = LRFamilyEnv("MixedFamily", **SHORT)
    observed, infos = envs.reset(seed=11)
    first, info = alone.reset(seed=11)
    assert infos["task_seed"].tolist() == [info["task_seed"]] * 3
    assert set(infos["task"]) == {info["task"]}
    np.testing.assert_allclose(observed[0], first, rtol=1e-6)
    mask = np.array([False, True, False])
    task = envs.unwrapped.task
    infos = envs.reset(options={"reset_mask": mask})[1]
    assert envs.unwrapped.task == task
    with pytest.raises(UserError, match="reset all of them"):
        envs.reset(options={"reset_mask": mask, "task_seed": 3})
    for _ in range(4):  # runs that have ended wait, and the task stays
        truncated = envs.step(np.full(3, 0.01))[3]
    assert truncated.all()
    assert envs.unwrapped.task == task
    assert set(envs.reset()[1]["task_seed"]) != {info["task_seed"]}
    assert envs.reset(options={"task_seed": 17})[1]["task"][2].name == "MixedFamily-17"
    spec = EnvSpec.from_json(envs.unwrapped.spec.to_json())
    assert gymnasium.make_vec(spec).reset(seed=11)[1]["task_seed"][0] == info["task_seed"]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("diverged", [0, 1, 2])
def test_a_round_ends_for_all_runs_together(mode, diverged):
    """One run diverges in segment `diverged` of three, and starts again on the same task."""
    envs = LRFamilyVectorEnv("MLPFamily", 2, autoreset_mode=mode, **SHORT)
    seeds = {int(envs.reset(seed=4)[1]["task_seed"][0])}
    for start in range(3):
        calls = 3 if mode == "SameStep" or start == 0 else 4  # after the first round, the first call resets
        for call in range(calls):
            segment = call - (calls - 3)
            if segment == diverged:
                envs.episodes.loss_bound[0] = 1e-9
            _, _, terminated, truncated, infos = envs.step(np.full(2, 0.01))
            assert terminated[0] == (segment == diverged)
            assert len(set(infos["task_seed"])) == 1
            last = call == calls - 1
            assert (terminated | truncated).tolist() == [segment == diverged or last, last]
        if mode == "NextStep":
            seeds.add(int(infos["task_seed"][0]))
        else:
            assert infos["final_info"]["task_seed"][0] in seeds
            seeds.add(int(infos["task_seed"][0]))
    assert len(seeds) == (3 if mode == "NextStep" else 4)


def test_a_round_can_be_kept_and_sb3_uses_it():
    envs = LRFamilyVectorEnv("MLPFamily", 2, autoreset_mode=AutoresetMode.SAME_STEP, **SHORT)
    envs.reset(seed=2)
    envs.episodes.loss_bound[0] = 1e-9
    envs.step(np.full(2, 0.01))
    kept = pickle.loads(pickle.dumps(envs.snapshot()))
    ahead = [envs.step(np.full(2, 0.01)) for _ in range(4)]
    envs.restore(kept)
    for then in ahead:
        now = envs.step(np.full(2, 0.01))
        assert (now[0] == then[0]).all()
        assert (now[3] == then[3]).all()
        assert (now[4]["task_seed"] == then[4]["task_seed"]).all()
    vec_env = LRVecEnv(gymnasium.make_vec("lr_env/MLPFamily-Scale-v0", num_envs=2, **SHORT))
    vec_env.seed(5)
    vec_env.reset()
    task = vec_env.get_attr("task")[0]
    for _ in range(3):
        *_, dones, infos = vec_env.step(np.zeros((2, 1)))
    assert dones.all()
    assert {info["task"] for info in infos} == {task}
    assert {info["task"] for info in vec_env.reset_infos} == {vec_env.get_attr("task")[1]} != {task}

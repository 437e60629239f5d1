"""The environments as Gymnasium's wrappers, specs and vector environments use them."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import ClipAction, RescaleAction, TimeLimit
from gymnasium.wrappers.vector import ClipAction as ClipActions
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward, RecordEpisodeStatistics
from gymnasium.wrappers.vector import RescaleAction as RescaleActions

from lr_env import TASKS, Children, LREnv, LRVectorEnv, Numerics, UserError
from lr_env.children import Backend, Execution
from lr_env.jsonable import from_plain
from lr_env.optimizers import SGD, AdamW
from lr_env.rollout import PlannedRun, Rollout
from lr_env.sb3 import make_vec_env
from lr_env.tasks import MLP, CropFlip, Task
from planners.schedules import Constant, Cosine
from tests.test_children import _Conv

SMALL = {"task": "DigitsMLP", "budget": 50, "segment": 10, "backend": "loop"}
LOW, HIGH = TASKS["DigitsMLP"].lr_range


def started(**settings) -> LREnv:
    env = LREnv(**{**SMALL, **settings})
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("action", ["lr", "log_lr", "scale"])
def test_a_number_is_an_action_in_every_form(action):
    assert started(action=action).action_space.shape == (1,)
    infos = []
    for form in (0.5, np.float64(0.5), np.float32(0.5), np.array(0.5), np.array([0.5], np.float32), [0.5], (0.5,)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            infos.append(started(action=action).step(form)[4])
    assert infos == infos[:1] * len(infos)


def test_log_rates_are_absolute():
    for action, rate in ((-1, LOW), (0, np.sqrt(LOW * HIGH)), (0.5, LOW**0.25 * HIGH**0.75), (1, HIGH)):
        assert started(action="log_lr").step(action)[4]["lr"] == pytest.approx(rate, rel=1e-12)
    env = started(action="log_lr", lr_range=(0.001, 0.1))
    assert env.run_spec.lr_range == (0.001, 0.1)
    assert [env.step(action)[4]["lr"] for action in (-1, 0, 1)] == pytest.approx([0.001, 0.01, 0.1], rel=1e-12)
    with pytest.raises(UserError, match=r"lr_start is 0\.01"):
        LREnv(**SMALL, lr_range=[0.1, 1.0])


@pytest.mark.parametrize("action", ["lr", "log_lr", "scale"])
@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0), (-0.3, 0.7)])
def test_what_float32_rounds_at_a_bound_is_put_there(action, span):
    env = RescaleAction(started(action=action), *map(np.float32, span))
    rates = [env.step(np.array([end], np.float32))[4]["lr"] for end in span]
    low, high = (LOW, HIGH) if action != "scale" else (0.01 / 1.05, 0.01)
    assert rates == pytest.approx([low, high], rel=1e-5)


def test_rounding_is_clipped_and_what_is_further_out_is_refused():
    assert started(action="scale").step(1.0000001)[4]["lr"] == 0.01 * 1.05
    assert started(action="scale").step(-1.0000001)[4]["lr"] == 0.01 / 1.05
    assert started().step(HIGH * 1.0000001)[4]["lr"] == HIGH
    assert started().reset(options={"lr": np.float32(HIGH) * np.float32(1.0000001)})[1]["lr"] == HIGH
    for action, value in (("scale", 1.00001), ("log_lr", -1.00001), ("lr", HIGH * 1.0001), ("lr", -1e-12)):
        with pytest.raises(UserError, match="outside the"):
            started(action=action).step(value)
    for rates in (HIGH * 1.0000001, [HIGH * 1.0000001]):  # what planners answer is read alike
        run = Rollout(replace(TASKS["DigitsMLP"], budget=20), [PlannedRun(Constant(peak=HIGH), 0)], score=())
        assert run._sessions[0]._checked(np.array(rates).reshape(1), np.zeros(1, bool)).tolist() == [HIGH]


@pytest.mark.parametrize("kind", ["Scale", "Discrete", "LogLR"])
def test_random_actions_of_the_ids_for_learning_seldom_diverge(kind):
    envs = gymnasium.make_vec(f"lr_env/DigitsMLP-{kind}-v0", num_envs=10, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(100):
        _, _, terminated, truncated, infos = envs.step(envs.action_space.sample())
    assert (terminated | truncated).all()
    assert terminated.sum() <= 1
    assert "test_loss" not in infos


def test_vector_wrappers_take_what_make_vec_gives():
    envs = gymnasium.make_vec("lr_env/DigitsMLP-LogLR-v0", num_envs=2, budget=20, backend="loop")
    envs = RecordEpisodeStatistics(ClipActions(RescaleActions(envs, np.float32(0), np.float32(1))))
    envs = NormalizeReward(NormalizeObservation(envs))
    envs.reset(seed=0)
    lengths = []
    for _ in range(6):
        *_, infos = envs.step(np.full((2, 1), 0.7, np.float32))
        lengths += infos["episode"]["l"][infos["_episode"]].tolist() if "episode" in infos else []
    assert lengths == [2] * 4


def test_a_masked_reset_tells_of_its_rows():
    envs = LRVectorEnv(**SMALL, num_envs=3)
    envs.reset(seed=0)
    _, infos = envs.reset(options={"reset_mask": np.array([False, True, False])})
    masks = {name: mask.tolist() for name, mask in infos.items() if name.startswith("_")}
    assert {name for name, mask in masks.items() if mask == [False, True, False]} >= {"_step", "_val_loss", "_seed"}
    assert not any(any(masks[f"_{name}"]) for name in ("test_loss", "final_val_loss"))


def test_a_spec_holds_what_was_given_as_objects():
    given = {
        "task": replace(
            TASKS["DigitsMLP"],
            network=MLP((np.int64(8),)),
            optimizer=AdamW(betas=(0.8, 0.9)),
            budget=np.int64(20),
            train_fraction=np.float32(0.5),
        ),
        "numerics": Numerics("bf16"),
        "backend": Backend("loop"),
        "start_rates": np.array([0.01, 0.02]),
        "action": "scale",
    }
    for make in (gymnasium.make, lambda *args, **kwargs: gymnasium.make_vec(*args, num_envs=2, **kwargs)):
        env = make("lr_env/DigitsMLP-v0", **given)
        text = env.unwrapped.spec.to_json()
        again = make(EnvSpec.from_json(text))
        assert again.unwrapped.task == env.unwrapped.task
        assert again.unwrapped.episodes.children.numerics == Numerics("bf16")
        assert again.unwrapped.spec.to_json() == text
        actions = np.ones((1,) if make is gymnasium.make else (2, 1), np.float32)
        for one in (env, again):
            one.reset(seed=4)
        assert (env.step(actions)[0] == again.step(actions)[0]).all()
    tasks = [*TASKS.values(), replace(TASKS["DigitsMLP"], augment=CropFlip(), clip_norm=2)]
    for task in tasks:
        env = LREnv()
        env.spec = EnvSpec("x/y-v0", kwargs={"task": task})
        assert from_plain(json.loads(json.dumps(env.spec.kwargs["task"]))) == task


def test_numbers_of_numpy_are_numbers():
    task = replace(
        TASKS["DigitsMLP"],
        budget=np.int64(20),
        segment=np.int32(10),
        batch_size=np.uint8(16),
        val_subset=np.int16(50),
        lr_start=np.float32(0.25),
        lr_range=np.array([1e-4, 1.0]),
        tuning_range=[0.01, 0.1],
        clip_norm=np.float64(1.0),
    )
    env = LREnv(budget=np.int64(20), segment=np.int32(10), max_episode_steps=np.int64(5))
    assert env.task.budget == 20
    assert env.reset(seed=np.int64(3))[1] == env.reset(seed=3)[1]
    assert json.loads(json.dumps(task.settings()))["lr_range"] == [1e-4, 1.0]
    assert task == replace(task, budget=20, segment=10, batch_size=16, val_subset=50, lr_start=0.25)
    assert hash(task)
    json.dumps(replace(task, network=MLP((np.int64(8),)), optimizer=SGD(np.float32(0.5))).settings())


def test_starting_rates_may_be_arrays_and_for_some_runs_only():
    rates = np.array([0.02, 0.2])
    envs = LRVectorEnv(**SMALL, num_envs=4, action="scale", start_rates=rates)
    drawn = envs.reset(seed=0)[1]["lr"]
    assert set(drawn) == {0.02, 0.2}
    some = envs.reset(seed=0, options={"lr": [None, 0.5, None, 0.001]})[1]["lr"]
    assert some.tolist() == [drawn[0], 0.5, drawn[2], 0.001]
    assert envs.reset(seed=0, options={"lr": np.float32(0.5)})[1]["lr"].tolist() == [0.5] * 4
    vec_env = make_vec_env("DigitsMLP", 2, start_rates=rates, backend="loop", budget=20)
    vec_env.seed(0)
    vec_env.set_options([{}, {"lr": 0.5}])
    vec_env.reset()
    assert [info["lr"] for info in vec_env.reset_infos] == [drawn[0], 0.5]
    for options in ({"lr": 0.0}, [{}, {"lr": 0.0}]):
        vec_env.set_options(options)
        with pytest.raises(UserError, match="starting rate 0 is outside the range"):
            vec_env.reset()
    with pytest.raises(UserError, match="3 starting rates for 4 runs"):
        envs.reset(options={"lr": [0.1, 0.1, 0.1]})


def test_a_run_that_is_cut_short_has_its_scores():
    envs = gymnasium.make_vec("lr_env/DigitsMLP-v0", num_envs=2, max_episode_steps=2, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step([0.1, 0.1])
    _, _, terminated, truncated, infos = envs.step([0.1, 0.1])
    assert truncated.all()
    assert not terminated.any()
    assert (infos["test_loss"] == envs.unwrapped.episodes.children.evaluate("test")[0]).all()
    env = TimeLimit(LREnv(**SMALL), 1)
    env.reset(seed=0)
    *_, truncated, info = env.step(0.1)
    assert truncated
    assert info["test_loss"] == -1
    loss, accuracy = env.unwrapped.episodes.children.evaluate("test")
    assert env.unwrapped.scores().items() >= {"test_loss": loss[0], "test_accuracy": accuracy[0]}.items()
    assert env.unwrapped.scores().keys() < info.keys()
    ClipAction(env).step(np.array([99.0]))


def varied(**changes) -> Task:
    return replace(TASKS["DigitsMLP"], **{"budget": 50, **changes})


OTHERS = {
    "network": varied(network=MLP((8,))),
    "optimizer": varied(optimizer=AdamW()),
    "batch_size": varied(batch_size=8),
    "budget": varied(budget=100),
    "segment": varied(segment=25),
    "val_subset": varied(val_subset=50),
    "train_fraction": varied(train_fraction=0.5),
    "label_noise": varied(label_noise=0.2),
    "clip_norm": varied(clip_norm=1.0),
}


@pytest.mark.parametrize("field", OTHERS)
def test_a_snapshot_of_another_task_is_refused_and_changes_nothing(field):
    env, other = LREnv(varied(), backend="loop"), LREnv(OTHERS[field], backend="loop")
    for one in (env, other):
        one.reset(seed=0)
        one.step(0.01)
    before = env.snapshot()
    with pytest.raises(UserError, match=f"of children with {field} ") as caught:
        env.restore(other.snapshot())
    assert "\n" not in str(caught.value)
    env.restore(before)
    many = [LRVectorEnv(task, 2, backend="loop") for task in (varied(), OTHERS[field])]
    for one in many:
        one.reset(seed=0)
    with pytest.raises(UserError, match=field):
        many[0].restore(many[1].snapshot())
    runs = [Rollout(task, [PlannedRun(Constant(peak=0.1), 0)]) for task in (varied(), OTHERS[field])]
    with pytest.raises(UserError, match=field):
        runs[0].restore(runs[1].snapshot())


def test_a_snapshot_of_something_else_is_refused():
    single, many = LREnv(**SMALL), LRVectorEnv(**SMALL, num_envs=2)
    single.reset(seed=0)
    many.reset(seed=0)
    three = LRVectorEnv(**SMALL, num_envs=3)
    three.reset(seed=0)
    for env, snapshot, message in (
        (single, many.snapshot(), "no snapshot of an LREnv"),
        (many, single.snapshot(), "no snapshot of an LRVectorEnv"),
        (many, three.snapshot(), "holds 3 children, not 2"),
        (many, {}, "no snapshot"),
        (many, None, "no snapshot"),
        (single.episodes.children, single.snapshot(), "no snapshot of children"),
        (single.episodes, single.snapshot(), "no snapshot of an environment"),
    ):
        with pytest.raises(UserError, match=message):
            env.restore(snapshot)
    runs = [Rollout(varied(), [PlannedRun(planner(peak=0.1), 0)]) for planner in (Constant, Cosine)]
    with pytest.raises(UserError, match="of other runs"):
        runs[0].restore(runs[1].snapshot())
    double = Children(varied(), [0], dtype=torch.float64)
    with pytest.raises(UserError, match="dtype"):
        Children(varied(), [0]).restore(double.snapshot())
    with pytest.raises(UserError, match="'direction' is no"):
        Children(varied(), [0], extra_signals=["update_product"]).restore(Children(varied(), [0]).snapshot())


def test_a_snapshot_goes_on_where_weights_lie_otherwise():
    task = replace(TASKS["DigitsMLP"], network=_Conv(), budget=20)
    first = Children(task, [0, 1], execution=Execution(backend="loop", numerics=Numerics(channels_last=True)))
    first.train([0.05, 0.05])
    second = Children(task, [5, 6], execution=Execution(backend="loop", numerics=Numerics(channels_last=False)))
    second.restore(first.snapshot())
    assert second.evaluate("val")[0] == pytest.approx(first.evaluate("val")[0], rel=1e-5)
    assert second.train([0.05, 0.05]) == pytest.approx(first.train([0.05, 0.05]), rel=1e-4)

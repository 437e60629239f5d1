"""Copies and pickles of everything go on exactly as the originals do, whatever trains them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cloudpickle
import gymnasium
import joblib
import numpy as np
import pytest

from lr_env import TASKS, Children, LREnv, LRVectorEnv
from lr_env.children import Backend, Execution
from lr_env.children.autotune import compiler
from lr_env.children.external_optimizers import ExternalOptimizer
from lr_env.optimizers import AdamW
from lr_env.registry import find_planner, planner_names
from lr_env.rollout import PlannedRun, Rollout
from lr_env.sb3 import make_vec_env
from lr_env.tasks import MLP
from lr_env.tasks.data import load
from planners.forking.lookahead import Lookahead
from planners.schedules import Cosine
from planners.stochastic import PLRS

BACKENDS = {
    "loop": Backend("loop"),
    "workers": Backend("loop", workers=2),
    "stacked": Backend("stacked", 2),
    "compiled": Backend("compiled", 2),
}
TASK = replace(TASKS["DigitsMLP"], network=MLP((8,)), budget=40, segment=10, val_subset=20)


def through_joblib(thing: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(thing, file)
    file.seek(0)
    return joblib.load(file)


def read_only(thing: Any) -> Any:
    """As objects come out of a store that processes share: numpy's arrays lie in memory that cannot be written."""
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "joblib": through_joblib,
    "read_only": read_only,
}


@pytest.fixture(params=BACKENDS)
def backend(request) -> Backend:
    if request.param == "compiled" and compiler() is None:
        pytest.skip("needs a C++ compiler")
    return BACKENDS[request.param]


def same(first: Any, second: Any) -> bool:
    """Whether two trees of numbers are equal, bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return np.array_equal(first, second)


def go_on(thing: Any) -> list[Any]:
    """What becomes of an object that can train, from here on."""
    if isinstance(thing, Children):
        losses = [thing.train(np.full(len(thing), rate)) for rate in (0.1, 0.02)]
        return [*losses, thing.step_losses, thing.measure(), *thing.evaluate("val")]
    if isinstance(thing, Rollout):
        outcomes = []
        while not thing.done:
            outcomes.append(thing.advance())
        records = [thing.record(row, "final") for row in range(len(thing.runs))]
        return [*outcomes, *([record.steps, record.extra_steps, dict(record.scores)] for record in records)]
    outcomes = []
    for rate in (0.1, 0.3, 0.02, 0.05, 0.05):  # over the end of a run
        if isinstance(thing, LREnv | gymnasium.Wrapper):
            outcomes.append(thing.step(np.array([rate], np.float32)))
            if outcomes[-1][2] or outcomes[-1][3]:
                outcomes.append(thing.reset())
        else:
            outcomes.append(thing.step(np.full((thing.num_envs, 1), rate, np.float32)))
    return outcomes


def children(backend: Backend) -> Children:
    """Some that have trained, the second a segment longer."""
    original = Children(
        replace(TASK, optimizer=AdamW()),
        [3, 4, 5],
        extra_signals=["update_cosine"],
        execution=Execution(backend=backend),
    )
    original.train(np.full(3, 0.01))
    original.measure()
    original.train(np.full(3, 0.01), [1])
    return original


def single(backend: Backend) -> gymnasium.Env[Any, Any]:
    original = gymnasium.make("lr_env/DigitsMLP-v0", task=TASK, backend=backend)
    original.reset(seed=1)
    original.step(0.1)
    return original


def vector(backend: Backend) -> LRVectorEnv:
    original = LRVectorEnv(TASK, 3, backend=backend, autoreset_mode="NextStep", action="scale")
    original.reset(seed=1)
    original.step(np.zeros((3, 1)))
    return original


def for_sb3(backend: Backend) -> Any:
    original = make_vec_env(TASK, 3, backend=backend, start_rates=[0.01, 0.1])
    original.seed(2)
    original.reset()
    original.step(np.zeros((3, 1), np.float32))
    return original


def rollout(backend: Backend) -> Rollout:
    planners = [PLRS(peak=0.1), Cosine(peak=0.1), Lookahead(peak=0.05, count=3, horizon=1, cooldown=0)]
    original = Rollout(TASK, [PlannedRun(planner, 7) for planner in planners], execution=Execution(backend=backend))
    original.advance()
    return original


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("make", [children, single, vector, for_sb3, rollout])
def test_copies_go_on_exactly_and_leave_the_original_alone(make, backend):
    if backend.name == "compiled" and make is not children:
        pytest.skip("environments hold children, and compiling takes long")
    original = make(backend)
    copies = {name: way(original) for name, way in WAYS.items()}
    expected = go_on(make(backend))
    for name, copied in copies.items():
        assert same(go_on(copied), expected), name
    assert same(go_on(original), expected)


@pytest.mark.parametrize("kind", ["schedule-free-sgd", "prodigy"])
def test_optimizers_of_other_packages_come_along(kind):
    pytest.importorskip({"schedule-free-sgd": "schedulefree", "prodigy": "prodigyopt"}[kind])
    original = Children(replace(TASK, optimizer=ExternalOptimizer(kind)), [0, 1])
    original.train([0.1, 0.1])
    copied = read_only(original)
    assert same(go_on(copied), go_on(original))


def test_an_environment_that_was_not_reset_and_its_generator():
    env = read_only(LREnv(TASK, backend="loop"))
    assert same(env.reset(seed=3), LREnv(TASK, backend="loop").reset(seed=3))
    twin = copy.deepcopy(env)
    assert twin.reset()[1]["seed"] == env.reset()[1]["seed"]


@pytest.mark.parametrize("name", planner_names())
def test_every_planner_and_every_task_comes_back_equal(name):
    planner = find_planner(name)
    settings = {} if (suits := getattr(planner, "for_task", None)) is None else suits(TASKS["DigitsMLP"])
    if settings is None:
        pytest.skip("nothing of it suits the task")
    (planner_, *_) = planner.candidates([0.05, 0.1])
    planner_ = replace(planner_, **settings)
    for way in WAYS.values():
        assert way(planner_) == planner_
        assert hash(way(planner_)) == hash(planner_)


def test_data_come_back_equal():
    data = load("digits")
    for way in WAYS.values():
        assert same(
            *({name: [x.inputs.numpy(), x.labels.numpy()] for name, x in of.splits.items()} for of in (way(data), data))
        )


def test_tasks_come_back_equal():
    for task in TASKS.values():
        for way in WAYS.values():
            assert way(task) == task

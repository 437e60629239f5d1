"""Rates by groups of parameters: the children, the environment, rollouts, and planners that set them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lr_env import LREnv
from lr_env.children import Backend, Children, Execution
from lr_env.children.groups import parameter_groups
from lr_env.children.initial import build_seeded
from lr_env.env import LRVectorEnv
from lr_env.errors import UserError
from lr_env.optimizers import SGD, AdamW
from lr_env.planner import RunSpec
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.runs.engine import EngineOptions
from lr_env.runs.processes import ProcessEngine
from lr_env.runs.split_children import SplitChildren
from lr_env.sb3 import make_vec_env
from lr_env.session import PlannerSession
from lr_env.tasks import GPT, MLP, TASKS, ResNet
from planners.parameter_groups import Discriminative, LayerwiseDecay, LeRaC
from planners.schedules import WSD, Cosine
from planners.torch_scheduler import PlannerLR

TASK = replace(TASKS["DigitsMLP"], budget=100, segment=10)
LOOP, STACKED, APART = Execution(backend="loop"), Execution(backend=Backend("stacked", 3)), Backend("stacked", 2)
RUN = RunSpec("a task", 100, 10, (1e-7, 10.0), "SGD", 1000, ("0", "3", "5", "head"))


def rates(*shape: int) -> np.ndarray:
    return 0.01 * np.exp(0.5 * np.random.default_rng(3).standard_normal(shape))


@pytest.mark.parametrize(
    ("network", "groups"),
    [
        (MLP((8, 8)), ["1", "3", "5"]),
        (ResNet((1, 1), 8), ["0", "3", "4", "6"]),  # norms belong to the convolution before them
        (GPT(8, 2, 2), ["tokens", "blocks.0", "blocks.1"]),  # both embeddings, with the tied head; the last norm
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_groups_are_layers_and_blocks(network, groups):
    shape, classes = ((8,), 11) if isinstance(network, GPT) else ((1, 8, 8), 10)
    module = build_seeded(lambda: network.build(shape, classes), 0, torch.float32)
    found = parameter_groups(module)
    assert list(found) == groups
    assert [name for names in found.values() for name in names] == [name for name, _ in module.named_parameters()]


@pytest.mark.parametrize("optimizer", [SGD(0.9, nesterov=True, weight_decay=0.01), AdamW()], ids=str)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_all_engines_equal_groups_of_torch(optimizer, clip_norm):
    task = replace(TASK, optimizer=optimizer, clip_norm=clip_norm)
    lr = rates(3, 3, task.budget)
    runs = [
        Children(task, [3, 1, 4], dtype=torch.float64, execution=execution)
        for execution in (LOOP, STACKED, Execution(backend=APART))
    ]
    for children in runs:
        for start in range(0, task.budget, task.segment):
            children.train(lr[:, :, start : start + task.segment])
    for children in runs[1:]:
        torch.testing.assert_close(children.state.parameters, runs[0].state.parameters, rtol=1e-9, atol=1e-9)

    source = task.source
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 3, torch.float64)
    split = runs[0].data.splits["train"]
    optimizer_of_torch = optimizer.build([{"params": list(module[layer].parameters())} for layer in (1, 3, 5)])
    for step, batch in enumerate(runs[0].order.batches(np.zeros(3, dtype=np.int64), task.budget)[0]):
        for group, rate in zip(optimizer_of_torch.param_groups, lr[0, :, step].tolist(), strict=True):
            group["lr"] = rate
        optimizer_of_torch.zero_grad()
        F.cross_entropy(module(split.inputs[batch]), split.labels[batch]).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimizer_of_torch.step()
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    torch.testing.assert_close(runs[0].state.parameters[0], flat, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["FashionLeNet5", "ShakespeareGPT"])  # convolutions; tied weights and random numbers
def test_other_networks_in_both_engines(name):
    task = replace(TASKS[name], budget=4, segment=2)
    try:
        runs = [Children(task, [0, 1], dtype=torch.float64, execution=e) for e in (LOOP, Execution(backend=APART))]
    except UserError as error:
        pytest.skip(f"the data are not here: {error}")
    lr = rates(2, len(runs[0].groups), 2)
    for children in runs:
        children.train(lr)
        children.train(lr)
    torch.testing.assert_close(runs[0].state.parameters, runs[1].state.parameters, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("execution", [LOOP, STACKED], ids=str)
def test_equal_rates_are_one_rate(execution):
    signals = ("update_product", "gradient_norm")
    one, each = (Children(TASK, [0, 1, 2], execution, torch.float64, extra_signals=signals) for _ in range(2))
    lr = rates(3)
    for _ in range(3):
        one.train(lr)
        each.train(np.repeat(lr[:, None, None], 3, axis=1))
    torch.testing.assert_close(one.state.parameters, each.state.parameters, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.step_signals, each.step_signals, rtol=1e-9, atol=1e-12)


def test_meters_see_the_rate_of_each_parameter():
    runs = [
        Children(TASK, [0, 1, 2], execution, torch.float64, extra_signals=("update_product",))
        for execution in (LOOP, STACKED)
    ]
    for children in runs:
        children.train(rates(3, 3, 10))
        children.train(rates(3, 3, 1))
    np.testing.assert_allclose(runs[0].step_signals, runs[1].step_signals, rtol=1e-9)
    assert np.abs(runs[0].step_signals).min() > 0


def test_both_kinds_of_rates_take_turns_across_a_snapshot():
    for execution in (LOOP, STACKED):
        children = Children(replace(TASK, optimizer=AdamW()), [0, 1, 2], execution)
        children.train(rates(3, 3, 1))
        snapshot = children.snapshot()
        first = [children.train(rates(3)), children.train(rates(3, 3, 10))]
        children.restore(snapshot)
        again = [children.train(rates(3)), children.train(rates(3, 3, 10))]
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("shape", [(3, 2, 1), (3, 3, 7), (2, 3, 10), (3, 3)])
def test_children_refuse_other_shapes(shape):
    with pytest.raises(UserError, match=r"\(3, 3, 1 or 10\) for the groups 1, 3, 5"):
        Children(TASK, [0, 1, 2], LOOP).train(np.full(shape, 0.01))


def test_an_optimizer_with_one_rate_says_so():
    from planners.external_optimizers import Prodigy

    children = Children(replace(TASK, optimizer=Prodigy(peak=1.0).optimizer), [0], LOOP)
    with pytest.raises(UserError, match="one learning rate for all parameters"):
        children.train(rates(1, 3, 1))


def test_children_of_several_processes():
    here = Children(TASK, [0, 1, 2, 3], Execution(backend=APART))
    with closing(ProcessEngine(EngineOptions(workers=2))) as engine:
        apart = SplitChildren(engine, TASK, [0, 1, 2, 3], Execution(backend=APART))
        try:
            assert apart.groups == here.groups
            np.testing.assert_array_equal(apart.train(rates(4, 3, 1)), here.train(rates(4, 3, 1)))
        finally:
            apart.close()


def test_the_environment_has_an_action_for_each_group():
    env = gymnasium.make("lr_env/DigitsMLP-v0", task=TASK, groups=True, backend="loop")
    assert env.action_space == gymnasium.spaces.Box(np.float32(1e-10), np.float32(10), (3,), np.float32)
    assert env.unwrapped.run_spec.groups == ("1", "3", "5")
    env.reset(seed=0)
    *_, info = env.step(np.array([0.01, 0.03, 0.02], dtype=np.float32))
    assert info["lr"] == pytest.approx(0.03, rel=1e-6)  # the largest
    children = Children(TASK, [0], LOOP)
    children.train(np.float32([0.01, 0.03, 0.02]).astype(np.float64)[None, :, None])
    torch.testing.assert_close(env.unwrapped.episodes.children.state.parameters, children.state.parameters)
    env.step(rates(3, 10))  # one for each group and step
    env.step(0.01)  # one for all
    with pytest.raises(UserError, match=r"one for each of 3 groups, \(1, 3\)"):
        env.step(rates(10))


def test_runs_in_lockstep_have_actions_by_group():
    env = LRVectorEnv(TASK, 2, groups=True, backend="loop")
    assert env.action_space.shape == (2, 3)
    env.reset(seed=5)
    *_, infos = env.step(rates(2, 3))
    np.testing.assert_allclose(infos["lr"], rates(2, 3).max(1))
    assert make_vec_env(TASK, 2, action="lr", groups=True, backend="loop").action_space.shape == (3,)


def test_what_has_one_rate_refuses_groups():
    with pytest.raises(UserError, match="groups=True needs action='lr'"):
        LREnv(TASK, action="scale", groups=True)
    with pytest.raises(UserError, match="give one rate for all"):
        gymnasium.make("lr_env/MLPFamily-v0", groups=True)


def test_a_planner_with_groups_beside_others_in_one_rollout():
    lerac, cosine = LeRaC(peak=0.05), Cosine(peak=0.05)
    execution = Execution(backend="loop")
    together = Rollout(TASK, [PlannedRun(lerac, 1), PlannedRun(cosine, 1), PlannedRun(lerac, 2)], execution=execution)
    curves: list[dict[str, list[float]]] = [{}, {}, {}]
    while not together.done:
        for row, signals in together.advance():
            for name, value in signals.items():
                curves[row].setdefault(name, []).append(value)
    alone = rollout(lerac, TASK, [1], execution=execution)[0]
    np.testing.assert_array_equal(curves[0]["val_loss"], alone.curves["val_loss"])
    np.testing.assert_allclose(
        curves[1]["val_loss"], rollout(cosine, TASK, [1], execution=execution)[0].curves["val_loss"], rtol=1e-5
    )
    recorded = np.array([alone.curves[f"lr/{name}"] for name in ("1", "3", "5")])
    np.testing.assert_allclose(recorded, WSD(peak=0.05).preview(10) * lerac.group_factors(3, 10), rtol=1e-12)
    np.testing.assert_array_equal(alone.curves["lr"], recorded[0])
    assert not [name for name in curves[1] if name.startswith("lr/")]


def test_the_curriculum_ends_as_equation_6_has_it():
    lerac = LeRaC(peak=0.1, base="cosine", curriculum=0.3, factor=0.01, floor=1e-3)
    factors = lerac.group_factors(4, 10)
    first, c = np.array([1.0, 0.01, 0.001, 0.001]), 10.0
    for t in range(3):  # eta_j(t) = eta_j(0) c^(t/k log_c(eta/eta_j(0))), with c = 10
        np.testing.assert_allclose(factors[:, t], first * c ** (t / 3 * np.log(1 / first) / np.log(c)))
    np.testing.assert_array_equal(factors[:, 3:], 1.0)
    np.testing.assert_array_equal(lerac.rates(RUN)[:, 5], Cosine(peak=0.1).preview(10)[5])


@pytest.mark.parametrize("kind", [LeRaC, LayerwiseDecay, Discriminative])
def test_every_group_schedule_follows_its_base(kind):
    for base in ("constant", "one-cycle", "power-cool"):
        planner = kind(peak=0.1, base=base)
        table = planner.rates(RUN)
        np.testing.assert_array_equal(table.max(0), planner.preview(10))
        assert (np.diff(table, axis=0) <= 0).all() if kind is LeRaC else (np.diff(table, axis=0) >= 0).all()
    with pytest.raises(UserError, match="base 'plateau' is no schedule"):
        kind(peak=0.1, base="plateau")


def test_groups_that_are_not_there():
    with pytest.raises(UserError, match="this run has one rate for all"):
        PlannerSession(LeRaC(peak=0.1), replace(RUN, groups=()), [0])
    with pytest.raises(UserError, match="this run has one rate for all"):
        PlannerLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), LeRaC(peak=0.1), budget=10)


def test_a_curriculum_in_a_loop_of_ones_own():
    named = [{"params": [nn.Parameter(torch.ones(2))], "name": name} for name in RUN.groups]
    optimizer = torch.optim.SGD(named, lr=0.1)
    planner = LeRaC(peak=0.1, curriculum=0.4)
    scheduler = PlannerLR(optimizer, planner, budget=10, segment=1)
    used = []
    for _ in range(10):
        used.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(np.transpose(used), planner.rates(RUN), rtol=1e-12)

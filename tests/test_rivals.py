"""Optimizers of other packages: trained as a plain loop trains them, judged where they say, kept and resumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lr_env.children import Backend, Children, Execution
from lr_env.children.external_optimizers import _KINDS, ExternalOptimizer
from lr_env.children.initial import build_seeded
from lr_env.env import LRVectorEnv
from lr_env.errors import UserError
from lr_env.optimizers import SGD
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.registry import in_default_set, planner_names
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.tasks import TASKS
from planners import Constant, MechanicSGD, Prodigy, ScheduleFreeSGD

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)


@pytest.mark.parametrize("kind", _KINDS)
def test_trained_and_judged_as_in_a_plain_loop(kind):
    optimizer = ExternalOptimizer(kind)
    task = replace(TASK, optimizer=optimizer)
    children = Children(task, [5, 3], dtype=torch.float64)
    assert children.backend.name == "loop"
    for _ in range(6):
        children.train([0.02, 0.05])
    source, train, test = task.source, children.data.splits["train"], children.data.splits["test"]
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 3, torch.float64)
    flat = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in module.parameters()]))

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        parts = flat.split([p.numel() for p in module.parameters()])
        named = zip(module.named_parameters(), parts, strict=True)
        return torch.func.functional_call(module, {name: part.view(p.shape) for (name, p), part in named}, (inputs,))

    plain = optimizer.build([flat])
    plain.param_groups[0]["lr"] = 0.05
    for batch in children.order.batches(np.zeros(2, dtype=np.int64), 60)[1]:
        plain.zero_grad()
        F.cross_entropy(logits(train.inputs[batch]), train.labels[batch]).backward()
        plain.step()
    if hasattr(plain, "eval"):
        plain.eval()
    expected = F.cross_entropy(logits(test.inputs), test.labels).item()
    assert children.evaluate("test")[0][1] == pytest.approx(expected, rel=1e-6)
    before = children.state.parameters.clone()
    children.measure()
    assert torch.equal(children.state.parameters, before)


@pytest.mark.parametrize("kind", _KINDS)
def test_snapshots_forks_and_resets(kind, tmp_path):
    task = replace(TASK, optimizer=ExternalOptimizer(kind))
    children = Children(task, [5, 3, 8])
    children.train([0.02, 0.05, 0.02])
    save_tree(tmp_path / "kept", children.snapshot())
    children.fork([1], [2], same_batches=True)
    first = children.train([0.05, 0.05, 0.05])
    assert first[2] == first[1]
    end = children.evaluate("val")[0]
    assert end[2] == end[1]
    other = Children(task, [1, 2, 4])
    other.train([0.1, 0.1, 0.1])
    other.restore(load_tree(tmp_path / "kept"))
    np.testing.assert_array_equal(other.train([0.05, 0.05, 0.05])[:2], first[:2])
    np.testing.assert_array_equal(other.evaluate("val")[0][:2], end[:2])
    other.reset([0], [9])
    fresh = Children(task, [9])
    assert other.train([0.03, 0.03, 0.03])[0] == fresh.train([0.03])[0]


def test_planners_bring_their_own_optimizer():
    records = rollout(Prodigy(1.0), TASK, [0, 1])
    assert all(np.isfinite(record.scores["test_loss"]) for record in records)
    optimizer = Rollout(TASK, [PlannedRun(MechanicSGD(0.1), 0)]).env.episodes.task.optimizer
    assert optimizer == ExternalOptimizer("mechanic-sgd", 0.0)
    with pytest.raises(UserError, match="'constant' and 'schedule-free-sgd' bring optimizers of their own"):
        Rollout(TASK, [PlannedRun(Constant(0.1), 0), PlannedRun(ScheduleFreeSGD(0.1), 0)])
    plain = {name for name in planner_names() if in_default_set(name)}
    assert plain.isdisjoint({*_KINDS, "lookahead", "autolrs", "lrtuner"})
    assert {"constant", "plrs", "hypergradient"} <= plain


def test_children_decay_as_those_of_the_task():
    decayed = replace(TASK, optimizer=SGD(momentum=0.9, weight_decay=0.1))
    trained = Rollout(decayed, [PlannedRun(MechanicSGD(0.1), 0)]).env.episodes.task.optimizer
    assert trained == ExternalOptimizer("mechanic-sgd", 0.1)
    (group,) = trained.build([torch.nn.Parameter(torch.ones(2))]).param_groups
    assert group["weight_decay"] == 0.1
    assert ExternalOptimizer("prodigy", 0.0).decaying_as(decayed.optimizer).weight_decay == 0.0


@pytest.mark.parametrize("kind", ["schedule-free-adamw", "prodigy", "d-adapt-adam"])
def test_adams_decay_as_adamw_does(kind, capsys):
    """By a share of each weight; in the gradient, decay would move a large and a small weight equally far."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, 0.01, 0.0]))
    optimizer = ExternalOptimizer(kind, 0.1).build([parameter])
    for group in optimizer.param_groups:
        group |= {name: 1.0 for name in ("d", "d0") if name in group}  # as if they had found their rate
    for _ in range(3):
        parameter.grad = torch.tensor([0.0, 0.0, 1.0])
        optimizer.step()
    assert capsys.readouterr().out == ""
    large, small, _ = parameter.tolist()
    assert large < 1
    assert small / 0.01 == pytest.approx(large, rel=1e-4)


def test_candidates_cover_decades_of_their_own():
    rates = [planner.peak for planner in Prodigy.candidates([0.1, 0.2, 0.4])]
    assert rates == pytest.approx([0.01, 0.1, 1.0])
    assert [planner.peak for planner in Prodigy.candidates([0.3])] == [0.1]


def test_bad_input(monkeypatch):
    with pytest.raises(UserError, match="unknown optimizer 'adamax'"):
        ExternalOptimizer("adamax")
    with pytest.raises(UserError, match="is trained by the loop: use backend 'loop' or 'auto'"):
        LRVectorEnv(replace(TASK, optimizer=ExternalOptimizer("prodigy")), 2, backend="stacked")
    with pytest.raises(UserError, match="trained by the loop"):
        Children(
            replace(TASK, optimizer=ExternalOptimizer("prodigy")),
            [0, 1],
            execution=Execution(backend=Backend("stacked", 2)),
        )
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(UserError, match=r"^optimizer 'prodigy' needs the package prodigyopt: pip install prodigyopt$"):
        rollout(Prodigy(1.0), TASK, [0])

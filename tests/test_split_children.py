"""Children in several processes are those of one."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from lr_env.children import LOOP, Backend, Children, Execution
from lr_env.errors import UserError
from lr_env.runs.engine import EngineOptions, LocalEngine
from lr_env.runs.processes import ProcessEngine
from lr_env.runs.split_children import SplitChildren, _edges
from lr_env.tasks import TASKS
from planners.ppo.policy import Policy
from planners.ppo.training import PPOSettings, train

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10, val_subset=50)
BLOCKS = Execution(backend=Backend("stacked", 2))


class TwoHere(LocalEngine):
    """Two slots in this process."""

    slots = 2


@pytest.fixture(scope="module")
def engine():
    with closing(ProcessEngine(EngineOptions(workers=2))) as engine:
        yield engine


def same(one, other, exact=True):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name], exact)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}))
    elif np.asarray(one).dtype.kind == "f" and not exact:
        np.testing.assert_allclose(one, other, rtol=1e-5)  # blocks of other sizes: last bits, on some processors
    else:
        np.testing.assert_array_equal(one, other)


def used(children):
    """What happens to children, with some of them at rest, started again and scored, and a snapshot gone on from."""
    rates = np.geomspace(0.01, 0.1, len(children))
    seen = [children.first_batch_loss(range(len(children))), children.train(rates), children.measure()]
    seen += [children.train(np.tile(rates[:, None], (1, TASK.segment)), [0, 3, 4]), children.measure([0, 3, 4])]
    snapshot = children.snapshot()
    children.reset([1, 4], [77, 78])
    seen += [children.train(rates), children.evaluate("test", [1, 5]), children.step_signals.copy()]
    seen += [children.seeds.copy(), children.steps.copy(), children.flatness([0, 2]), snapshot]
    children.restore(snapshot)
    return [*seen, children.train(rates), children.snapshot()]


@pytest.mark.parametrize("execution", [LOOP, BLOCKS], ids=["loop", "blocks"])
def test_they_are_those_of_one_process(engine, execution):
    signals = ("gradient_norm",)
    whole = used(Children(TASK, range(6), execution, extra_signals=signals))
    for where in (engine, TwoHere()):
        split = SplitChildren(where, TASK, range(6), execution, signals)
        assert split.edges == ([0, 3, 6] if execution is LOOP else [0, 2, 6])
        for one, other in zip(whole, used(split), strict=True):
            same(one, other, exact=execution is LOOP)
        split.close()


def test_slots_have_whole_blocks():
    assert _edges(32, Backend("stacked", 8), 2) == [0, 16, 32]
    assert _edges(32, Backend("stacked", 32), 4) == [0, 32]
    assert _edges(30, Backend("stacked", 8), 2) == [0, 15, 30]
    assert _edges(5, Backend("loop"), 2) == [0, 2, 5]
    assert _edges(5, Backend("loop"), 8) == [0, 1, 2, 3, 4, 5]


def test_what_is_wrong_is_told_as_by_children(engine):
    split = SplitChildren(engine, TASK, range(4), LOOP)
    with pytest.raises(UserError, match="learning rates must be finite and above 0"):
        split.train([0.1, 0.1, -1.0, 0.1])
    other = Children(replace(TASK, batch_size=8), range(4), LOOP).snapshot()
    with pytest.raises(UserError, match="snapshot is of"):
        split.restore(other)
    split._hosts[1]._process.kill()
    split._hosts[1]._process.join()
    with pytest.raises(UserError, match="a worker process ended, with exit code -9: see that there is enough memory"):
        split.train([0.1] * 4)
    split.close()


def test_a_controller_learns_the_same(engine, tmp_path):
    settings = PPOSettings(decisions=72, children=6, evaluate_every=72, evaluation_runs=2, seed=3)
    results = []
    for name, where in (("here", LocalEngine()), ("processes", engine)):
        train(TASK, settings, tmp_path / name, execution=LOOP, engine=where)
        told = json.loads((tmp_path / name / "training.json").read_text())
        results.append((told["history"], Policy.load(tmp_path / name / "last.safetensors").layers))
    assert results[0][0] == results[1][0]
    for one, other in zip(*(layers for _, layers in results), strict=True):
        np.testing.assert_array_equal(one[0], other[0])

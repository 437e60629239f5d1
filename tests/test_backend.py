from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lr_env.children import Backend, Children, Execution, autotune
from lr_env.errors import UserError
from lr_env.tasks import TASKS

TASK = TASKS["DigitsMLP"]
LOOP, POOL = Backend("loop"), Backend("loop", workers=2)
COMPILED = Backend("compiled", 8)


def test_auto_loops_one_child_and_measures_for_many():
    assert autotune.choose_backend(Execution(), TASK, 1) == LOOP
    assert autotune.fastest(Execution(), TASK, 32).resolved_backend.name == "stacked"
    assert Children(TASK, [0]).backend == LOOP
    with pytest.raises(UserError, match="backend 'auto' leaves open how children are trained: give a Backend, or"):
        Children(TASK, [0], Execution())


def test_each_worker_computes_on_one_core_and_the_caller_on_as_many_as_before():
    class Watched(nn.Linear):
        threads: ClassVar[list[int]] = []

        def forward(self, inputs):
            self.threads.append(torch.get_num_threads())
            return super().forward(inputs)

    @dataclass(frozen=True)
    class Network:
        def build(self, input_shape, num_classes):
            return nn.Sequential(nn.Flatten(), Watched(64, num_classes))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        children = Children(replace(TASK, network=Network()), range(4), execution=Execution(backend=POOL))
        Watched.threads.clear()
        children.train(np.full(4, 0.01))
        assert set(Watched.threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def timed(monkeypatch):
    """Tells the choice how long a step takes on each backend, in place of timing it; returns what was asked for."""
    asked = []

    def with_times(times, threads=2):
        def seconds(choice, *rest):
            asked.append(choice)
            time_or_error = times[choice]
            if isinstance(time_or_error, Exception):
                raise time_or_error
            return time_or_error

        for cached in (autotune._fastest, autotune._compiled_seconds):
            cached.cache_clear()
        monkeypatch.setattr(autotune, "_seconds_per_step", seconds)
        monkeypatch.setattr(autotune, "compiler", lambda: "g++")
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return asked

    yield with_times
    for cached in (autotune._fastest, autotune._compiled_seconds):
        cached.cache_clear()


def chosen(child_steps=0.0, backend="auto"):
    return autotune.choose_backend(Execution(backend=backend), TASK, 64, child_steps=child_steps)


ALONE, POOLED = Backend("loop", threads=1), Backend("loop", workers=2, threads=1)
BLOCKS = {block: Backend("stacked", block, threads=1) for block in (8, 32, 64)}
HALVES, SHARED = Backend("stacked", 32, workers=2, threads=1), Backend("stacked", 64, threads=2)


def test_the_fastest_is_chosen_and_larger_blocks_are_timed_while_they_gain(timed):
    times = {ALONE: 0.010, POOLED: 0.006, BLOCKS[8]: 0.005, BLOCKS[32]: 0.0035, BLOCKS[64]: 0.0034}
    asked = timed({**times, HALVES: 0.0033, SHARED: 0.0028})
    assert chosen() == BLOCKS[64]
    assert chosen(backend="loop") == POOLED
    asked.clear()
    timed({ALONE: 0.010, POOLED: 0.006, BLOCKS[8]: 0.0070, BLOCKS[32]: 0.0069, BLOCKS[64]: 0.0001})
    assert chosen() == POOLED
    assert asked == [ALONE, POOLED, BLOCKS[8], BLOCKS[32]]
    asked.clear()
    timed({ALONE: 0.010, POOLED: 0.006, BLOCKS[8]: 0.009, BLOCKS[32]: 0.0001, BLOCKS[64]: 0.0001})
    assert chosen() == POOLED
    assert asked == [ALONE, POOLED, BLOCKS[8]]


def test_cores_that_share_an_operation_must_be_clearly_faster_than_one(timed):
    times = {ALONE: 0.010, POOLED: 0.006, BLOCKS[8]: 0.005, BLOCKS[32]: 0.0040, BLOCKS[64]: 0.0034}
    for halves, shared, fastest in (
        (0.0032, 0.0027, BLOCKS[64]),
        (0.0030, 0.0027, HALVES),
        (0.0032, 0.0025, SHARED),
        (0.0020, 0.0018, HALVES),
    ):
        timed({**times, HALVES: halves, SHARED: shared})
        assert chosen() == fastest
    shared = Backend("loop", threads=2)
    timed({ALONE: 0.0050, POOLED: 0.0060, BLOCKS[8]: 1.0, shared: 0.0040})
    assert chosen() == ALONE
    timed({ALONE: 0.0050, POOLED: 0.0060, BLOCKS[8]: 1.0, shared: 0.0035})
    assert chosen() == shared


def test_compiling_is_tried_for_long_work_only_and_its_failure_is_no_reason_not_to_train(timed):
    times = {ALONE: 0.010, POOLED: 0.006, BLOCKS[8]: 0.009}
    asked = timed({**times, COMPILED: 0.004})
    assert chosen(child_steps=190_000) == POOLED
    assert COMPILED not in asked
    assert chosen(child_steps=210_000) == COMPILED
    timed({**times, COMPILED: 0.0059})
    assert chosen(child_steps=210_000) == POOLED
    timed({**times, COMPILED: RuntimeError("no header")})
    with pytest.warns(RuntimeWarning, match="'compiled' was tried and failed, and is not used: no header"):
        assert chosen(child_steps=210_000) == POOLED
    assert chosen(child_steps=210_000, backend="loop") == POOLED

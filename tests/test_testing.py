"""The conformance tests that other packages call pass on what keeps a contract, and fail on what breaks it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from torch import nn

from lr_env.registry import find_tuner
from lr_env.tasks import TASKS
from lr_env.testing import check_planner, check_task, check_tuner
from planners.schedules import Constant, Cosine

TASK = replace(TASKS["DigitsMLP"], budget=100, segment=10)


@dataclass(frozen=True)
class Forgetful(Constant):
    """Breaks the contract: its answer depends on how often it was asked."""

    def plan(self, state, signals):
        state["asked"] = state.get("asked", 0) + 1
        return np.full(len(signals["step"]), self.peak / state["asked"]), state


@dataclass(frozen=True)
class Crowded(Cosine):
    """Breaks the contract: a run depends on its neighbours."""

    def plan(self, state, signals):
        lr, state = super().plan(state, signals)
        return lr / len(lr), state


@pytest.mark.parametrize("planner", [Forgetful(0.1), Crowded(0.1)], ids=lambda planner: type(planner).__name__)
def test_planners_that_break_the_contract_fail(planner, tmp_path):
    with pytest.raises(AssertionError):
        check_planner(planner, tmp_path)


@pytest.mark.parametrize("name", ["wsd", "random", "tpe", "direct"])
def test_tuners_of_ours_pass(name, tmp_path):
    check_tuner(find_tuner(name), TASK, tmp_path, runs=40)


def test_tuners_that_break_the_contract_fail(tmp_path):
    class Greedy:
        name = "greedy"

        def batch_size(self, done):
            return 5

        def seed_index(self, run):
            return 0

        def propose(self, task, seed, records, count):
            return [Constant(0.1)] * (count + 1)

        def select(self, task, seed, records, folder):
            return Constant(0.1)

    with pytest.raises(AssertionError, match="asked for 5 planners, it proposed 6"):
        check_tuner(Greedy(), TASK, tmp_path)


@dataclass(frozen=True)
class Wide:
    """A network of one's own."""

    width: int = 8

    def build(self, input_shape, num_classes):
        return nn.Sequential(nn.Linear(*input_shape, self.width), nn.ReLU(), nn.Linear(self.width, num_classes))


@dataclass(frozen=True)
class Exploding(Wide):
    """Breaks the contract: its losses are not finite."""

    def build(self, input_shape, num_classes):
        network = super().build(input_shape, num_classes)
        nn.init.constant_(network[0].bias, float("inf"))
        return network


def test_tasks():
    check_task(replace(TASK, name="Wide", network=Wide()))
    check_task(TASKS["DigitsMLP"])
    with pytest.raises(AssertionError, match="losses are not finite"):
        check_task(replace(TASK, name="Exploding", network=Exploding()))

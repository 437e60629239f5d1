"""Controls take over the setting of the planner whose controls they are; what a planner rests on is part of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.studies.comparison.comparison import ComparisonPlan, manifest, tuning_steps
from lr_env.tasks import TASKS
from planners import LEAP, PLRS, PLRSMidpoint
from tests.helpers import compared

TASK = replace(TASKS["DigitsMLP"], budget=40, segment=10)
JOB = ComparisonPlan(
    TASK, ("plrs-midpoint", "plrs", "shuffled-cosine"), (0.01, 0.03, 0.1), tune_seeds=(100, 101), seeds=(0, 1)
)


def test_a_control_is_that_of_the_planner_as_it_was_tuned(tmp_path):
    store = Store(tmp_path / "records.sqlite")
    steps_reported: list[int] = []
    result = compared(JOB, store, "toy", progress=lambda what, steps: steps_reported.append(steps))
    assert sum(steps_reported) == JOB.child_steps == 40 * (2 * 3 * 2 + 3 * 2)
    assert {record.planner for record in result.tuning} == {"plrs", "shuffled-cosine"}  # no cosine: tuned by itself
    plrs = result.chosen["plrs"]
    assert result.chosen["plrs-midpoint"] == PLRSMidpoint(plrs.peak, low=plrs.low)
    steps = tuning_steps(result.tuning, result.chosen)
    assert steps["plrs-midpoint"] == steps["plrs"] == 3 * 2 * 40
    assert manifest(JOB, result, "x")["child_steps"]["tuning"] == steps["plrs"] + steps["shuffled-cosine"]
    for record in result.final:
        if record.planner == "plrs-midpoint":
            assert record.curves["lr"] == pytest.approx(plrs.peak * (1 + plrs.low) / 2)
    more = replace(JOB, planners=(*JOB.planners, "cosine", "linear"))
    with pytest.raises(
        UserError, match="shuffled-cosine already has a setting of its own in this experiment: to add cosine and run it"
    ):
        compared(more, store, "toy")
    again = compared(replace(JOB, planners=(*JOB.planners, "linear")), store, "toy")
    assert again.chosen["shuffled-cosine"] == result.chosen["shuffled-cosine"]


def test_midpoints_have_the_mean_of_plrs():
    plrs = PLRS(0.3, low=0.6)
    drawn = np.mean([plrs.preview(500, seed).mean() for seed in range(20)])
    assert PLRSMidpoint.matched(plrs).preview(5) == pytest.approx(np.full(5, drawn), rel=0.01)


def test_leap_costs_what_its_base_has_cost_and_takes_no_base_that_it_cannot_stand_for():
    leap = LEAP(0.03, "ppo")
    assert leap.pretraining_steps == leap.inner.pretraining_steps > 0
    assert leap.fingerprint == leap.inner.fingerprint
    assert (LEAP(0.03).pretraining_steps, LEAP(0.03).fingerprint) == (0, None)
    for base in ("lookahead", "prodigy"):
        with pytest.raises(UserError, match="base must need neither forks nor an optimizer of its own"):
            LEAP(0.03, base)


@pytest.mark.parametrize(
    ("planner", "settings", "message"),
    [
        ("ppo", {"policy": "nowhere.safetensors"}, "there is no policy 'nowhere.safetensors'"),
        ("prodigy", {}, "'prodigy' needs the package prodigyopt: pip install prodigyopt"),
    ],
)
def test_what_is_missing_is_found_before_anything_is_trained(tmp_path, monkeypatch, planner, settings, message):
    def none(name):
        from importlib.metadata import PackageNotFoundError

        raise PackageNotFoundError(name)

    monkeypatch.setattr("lr_env.children.external_optimizers.version", none)
    store = Store(tmp_path / "records.sqlite")
    monkeypatch.setattr(store, "begin_runs", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(UserError, match=message):
        compared(replace(JOB, planners=("constant", planner), settings={planner: settings}), store, "toy")

"""Planners added to a comparison: only their runs are made, and all is as if each start had been alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.rollout import Rollout
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.studies.comparison.generations import merge_planners
from lr_env.tasks import TASKS
from tests.helpers import begun, compared

TASK = replace(TASKS["DigitsMLP"], budget=40, segment=10)
JOB = ComparisonPlan(TASK, ("constant", "cosine"), (0.01, 0.1), tune_seeds=(100, 101), seeds=(0, 1))


def texts(records, planners) -> list[str]:
    """Runs of some planners as text, in an order of their own."""
    return sorted(repr(replace(record, planning_seconds=0.0)) for record in records if record.planner in planners)


def test_only_what_is_new_is_run_and_the_rest_stays(tmp_path, monkeypatch):
    store = Store(tmp_path / "records.sqlite")
    first = compared(JOB, store, "toy")
    begun_keys = []
    begin = store.begin_runs
    monkeypatch.setattr(store, "begin_runs", lambda name, keys: begun_keys.extend(keys) or begin(name, keys))
    more = replace(JOB, planners=("plateau", "constant", "wsd", "cosine"), settings={"wsd": {"warmup": 0.25}})
    second = compared(more, store, "toy")
    assert {key[1] for key in begun_keys} == {"plateau", "wsd"}
    alone = compared(
        replace(more, planners=("plateau", "wsd")),
        Store(tmp_path / "other.sqlite"),
        "toy",
        Execution(backend="stacked"),
    )
    for one, two, other in ((first.tuning, second.tuning, alone.tuning), (first.final, second.final, alone.final)):
        assert texts(two, JOB.planners) == texts(one, JOB.planners)
        assert texts(two, ("plateau", "wsd")) == texts(other, ("plateau", "wsd"))
    begun_keys.clear()
    compared(more, store, "toy")
    assert not begun_keys
    compared(replace(more, planners=(*more.planners, "linear")), store, "toy")
    assert {key[1] for key in begun_keys} == {"linear"}


def test_stopped_while_a_planner_is_added_it_goes_on(tmp_path, monkeypatch):
    """Killed in the tuning of what is added, and gone on with by a start that adds one more."""
    whole = Store(tmp_path / "whole.sqlite")
    expected = [compared(replace(JOB, planners=(*JOB.planners, *more)), whole, "toy") for more in ((), ("linear",))]
    store = Store(tmp_path / "records.sqlite")
    compared(JOB, store, "toy")
    advance, left = Rollout.advance, [2]

    def killed(self):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Rollout, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        compared(replace(JOB, planners=(*JOB.planners, "linear")), store, "toy")
    monkeypatch.setattr(Rollout, "advance", advance)
    restored = []
    restore = Rollout.restore
    monkeypatch.setattr(Rollout, "restore", lambda self, saved: restored.append(restore(self, saved)))
    result = compared(replace(JOB, planners=(*JOB.planners, "linear", "step")), store, "toy")
    assert len(restored) == 1  # the checkpoint of the start that was killed holds
    everyone = (*JOB.planners, "linear")
    assert texts(result.final, everyone) == texts(expected[1].final, everyone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planners": ("cosine", "linear")}, "planner constant is in the experiment, but not among --planners"),
        ({"planners": ("constant", "cosine", "linear"), "rates": (0.02, 0.1)}, "was begun with rates"),
        (
            {"planners": ("constant", "cosine", "linear"), "settings": {"cosine": {"floor": 0.1}}},
            "has no setting 'floor'",
        ),
        ({"planners": ("constant", "cosine", "wsd"), "seeds": (0, 1, 2)}, "was begun with seeds"),
    ],
)
def test_anything_else_is_refused(tmp_path, change, message):
    store = Store(tmp_path / "records.sqlite")
    begun(JOB, store, "toy")
    with pytest.raises(UserError, match=message):
        compared(replace(JOB, **change), store, "toy")


def test_settings_of_a_planner_that_is_there_cannot_change(tmp_path):
    job = replace(JOB, planners=("constant", "wsd"))
    store = Store(tmp_path / "records.sqlite")
    begun(job, store, "toy")
    more = replace(job, planners=("constant", "wsd", "linear"), settings={"wsd": {"warmup": 0.25}})
    with pytest.raises(UserError, match="was begun without settings"):
        compared(more, store, "toy")


def test_what_a_spec_says():
    assert merge_planners(None, ("a", "b")) == {"planners": ["a", "b"]}
    begun_with = {"planners": ["a", "b"]}
    assert merge_planners(begun_with, ("b", "a")) == begun_with
    assert merge_planners(begun_with, ("c", "a", "b", "d")) == {**begun_with, "added": [["c", "d"]]}
    assert merge_planners({**begun_with, "added": [["c"]]}, ("d", "c", "b", "a")) == {
        **begun_with,
        "added": [["c"], ["d"]],
    }

"""What a planner makes of the rate that it starts from, beside that rate kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lr_env.compare.starts import starts
from lr_env.errors import UserError
from lr_env.rollout import rollout
from lr_env.tasks import TASKS
from planners import Constant, Plateau

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)


def test_differences_are_those_of_runs_on_the_same_seeds(tmp_path):
    told = []
    found = starts(
        TASK, "plateau", (0.3, 0.03), (1, 2, 5), settings={"patience": 0}, progress=lambda what, n: told.append(n)
    )
    assert sum(told) == 2 * 2 * 3 * TASK.budget
    assert [start.rate for start in found.starts] == [0.03, 0.3]
    losses = {
        rate: [
            [r.scores["test_loss"] for r in rollout(planner, TASK, (1, 2, 5), score=("test",))]
            for planner in (Plateau(rate, patience=0), Constant(rate))
        ]
        for rate in (0.03, 0.3)
    }
    for name, ours, kept, difference in found.rows[:-1]:
        mean = np.mean(losses[float(name)], axis=1)
        assert (ours.value, kept.value) == pytest.approx(tuple(mean))
        assert difference.value == pytest.approx(mean[0] - mean[1])
    whole = np.mean(list(losses.values()), axis=(0, 2))
    assert found.rows[-1][0] == "mean"
    assert found.rows[-1][3].value == pytest.approx(whole[0] - whole[1])
    found.write(tmp_path, {"command": "x"})
    assert json.loads((tmp_path / "starts.json").read_text())["starts"][0]["verdict"] in ("better", "worse", "tie")
    assert (tmp_path / "starts.png").stat().st_size > 10_000


def test_a_rate_that_is_kept_is_as_good_as_itself_and_one_that_diverges_is_infinitely_bad():
    found = starts(TASK, "constant", (0.05, 9.0), (1, 2))
    assert found.rows[0][3].value == 0
    assert found.rows[1][1].value == np.inf
    assert found.to_json()["starts"][1]["test_loss"] == [None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner": "plato"}, "did you mean 'plateau'"),
        ({"settings": {"patient": 1}}, "has no setting 'patient'"),
        ({"settings": {"peak": 1}}, "has no setting 'peak' besides the rate"),
        ({"rates": (0.1, 1e9)}, "outside the task's range"),
        ({"rates": ()}, "at least one rate"),
        ({"planner": "ppo", "settings": {"policy": "Digits"}}, "there is no policy 'Digits'"),
    ],
)
def test_starts_that_cannot_be(change, message):
    given = {"planner": "plateau", "rates": (0.1,), "seeds": (1, 2), **change}
    with pytest.raises(UserError, match=message):
        starts(TASK, **given)

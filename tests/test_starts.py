"""What a planner makes of the rate that it starts from, beside that rate kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.rollout import rollout
from lr_env.runs.lab import Lab
from lr_env.studies.start_rates.result import StartRate, StartRatesResult, start_rates
from lr_env.tasks import TASKS
from planners import Constant, Plateau

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)


def test_differences_are_those_of_runs_on_the_same_seeds(tmp_path):
    contentrted_steps = []
    lab = Lab(TASK, Store(tmp_path / "records.sqlite"), "x", progress=lambda what, n: contentrted_steps.append(n))
    result = start_rates(lab, "plateau", (0.3, 0.03), (1, 2, 5), {"patience": 0})
    assert sum(contentrted_steps) == 2 * 2 * 3 * TASK.budget
    assert [start.rate for start in result.starts] == [0.03, 0.3]
    losses = {
        rate: [
            [r.scores["test_loss"] for r in rollout(planner, TASK, (1, 2, 5), score=("test",))]
            for planner in (Plateau(rate, patience=0), Constant(rate))
        ]
        for rate in (0.03, 0.3)
    }
    for name, ours, constant, difference in result.rows[:-1]:
        mean = np.mean(losses[float(name)], axis=1)
        assert (ours.value, constant.value) == pytest.approx(tuple(mean))
        assert difference.value == pytest.approx(mean[0] - mean[1])
    whole = np.mean(list(losses.values()), axis=(0, 2))
    assert result.rows[-1][0] == "mean"
    assert result.rows[-1][3].value == pytest.approx(whole[0] - whole[1])
    again = start_rates(Lab(TASK, lab.store, "x"), "plateau", (0.3, 0.03), (1, 2, 5), {"patience": 0})
    assert again.to_json() == result.to_json()
    with pytest.raises(UserError, match="'x' was begun with start_rates seeds"):
        start_rates(Lab(TASK, lab.store, "x"), "plateau", (0.3, 0.03), (1, 2), {"patience": 0})
    result.write(tmp_path, {"command": "x"})
    contentrted_steps = json.loads((tmp_path / "starts.json").read_text())
    assert contentrted_steps["starts"][0]["verdict"] in ("better", "worse", "not told apart")
    assert contentrted_steps["backend"].startswith(("loop", "stacked"))
    assert (tmp_path / "starts.png").stat().st_size > 10_000


def test_a_rate_that_is_kept_is_as_good_as_itself_and_one_that_diverges_is_infinitely_bad(tmp_path):
    result = start_rates(Lab(TASK, Store(tmp_path / "records.sqlite"), "x"), "constant", (0.05, 9.0), (1, 2))
    assert result.rows[0][3].value == 0
    assert result.rows[1][1].value == np.inf
    assert result.to_json()["starts"][1]["test_loss"] == [None, None, None]


def test_runs_that_diverge_are_in_the_figure(tmp_path, monkeypatch):
    """Two of three: the median of the losses leaves the picture with them, not following the one that is left."""
    drawn = {}
    monkeypatch.setattr(
        "lr_env.studies.start_rates.result.draw_loss",
        lambda axes, curve, style, band: drawn.update({curve.label: (curve, style)}),
    )
    whole = rollout(Constant(0.05), TASK, (1, 2, 3))
    short = [replace(run, diverged=True, curves={n: c[:2] for n, c in run.curves.items()}) for run in whole[:2]]
    rates = tuple(StartRate(0.01 * number, [*short, whole[2]], whole) for number in range(1, 9))
    StartRatesResult("toy", "constant", {}, (1, 2, 3), rates).draw(tmp_path / "starts.png")
    curve, style = drawn["from 0.01 (2/3 diverged)"]
    assert np.isfinite(curve.loss[1, :2]).all()
    assert np.isinf(curve.loss[1, 2:]).all()
    np.testing.assert_array_equal(curve.lr[1], 0.05)
    assert len({str(drawn[f"from {0.01 * number:g} (2/3 diverged)"][1]) for number in range(1, 9)}) == 8
    np.testing.assert_array_equal(style["color"], drawn["0.01 kept"][1]["color"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner": "plato"}, "did you mean 'plateau'"),
        ({"settings": {"patient": 1}}, "has no setting 'patient'"),
        ({"settings": {"peak": 1}}, "peak is the rate that is varied"),
        ({"rates": (0.1, 1e9)}, "outside the task's range"),
        ({"rates": ()}, "at least one rate"),
        ({"seeds": (3, 3)}, "seed 3 is given twice: each seed may be given once"),
        ({"seeds": (-1,)}, "seed -1: seeds are whole numbers from 0"),
        ({"seeds": ()}, "no seeds"),
        ({"planner": "prodigy"}, "'prodigy' brings an optimizer of its own"),
        ({"planner": "ppo", "settings": {"policy": "Digits"}}, "there is no policy 'Digits'"),
    ],
)
def test_starts_that_cannot_be(tmp_path, change, message):
    given = {"planner": "plateau", "rates": (0.1,), "seeds": (1, 2), **change}
    with pytest.raises(UserError, match=message):
        start_rates(Lab(TASK, Store(tmp_path / "records.sqlite"), "x"), **given)

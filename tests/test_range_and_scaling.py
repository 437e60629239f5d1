"""The range test and the scaling of the best rate with data: on functions with known answers, and on children."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lr_env.children import LOOP
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.runs.lab import Lab
from lr_env.stats import intervals as st
from lr_env.stats.intervals import bootstrap
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.studies.data_scaling.result import ScalingResult, Subset, part_of, scaling
from lr_env.studies.range_test import RangeTestResult, range_test
from lr_env.studies.rate_sweep import RateSweep, parabola_minimum
from lr_env.tasks import MLP, TASKS

TASK = replace(TASKS["DigitsMLP"], network=MLP((8,)), budget=40, segment=10, val_subset=50)


def test_a_range_test_finds_what_was_put_in():
    lr = np.geomspace(1e-4, 1, 201)
    log = np.log10(lr)
    # Falls from 2 to 1 between 10^-3 and 10^-1, steepest at 10^-2, and rises after 10^-1.
    smooth = 2 - 1 / (1 + np.exp(-5 * (log + 2))) + 4 * np.maximum(0, log + 1) ** 2
    result = RangeTestResult("toy", (0,), lr, smooth[None], smooth)
    assert result.lr_steepest == pytest.approx(0.01, rel=0.1)
    assert result.lr_max == pytest.approx(0.1, rel=0.25)
    assert 1e-3 < result.lr_min < 10**-2.4
    always = RangeTestResult("toy", (0,), lr, (1 + lr)[None], 1 + lr)  # rises from the first step on
    assert always.lr_max == always.lr_steepest == always.lr_min == lr[0]


def test_a_range_test_on_children_leaves_nothing_changed(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    result = range_test(TASK, [0, 1, 2], 1e-4, 10.0, 200)
    assert result.losses.shape == (3, 200)
    assert 0.01 < result.lr_max < 3
    assert result.lr_min < result.lr_steepest <= result.lr_max
    assert result.smooth[-1] > 2 * result.smooth.min()  # a rate of 10 is far too large
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    result.write(tmp_path, {"command": "none"})
    content = json.loads((tmp_path / "range-test.json").read_text())
    assert content["lr_max"] == result.lr_max
    assert (tmp_path / "range-test.png").stat().st_size > 10_000
    again = range_test(TASK, [0, 1, 2], 1e-4, 10.0, 200, execution=LOOP)
    np.testing.assert_allclose(again.losses[:, :100], result.losses[:, :100], rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 0.01, 100), "give LOW below HIGH"),
        ((0.1, 100.0, 100), "within the task's range"),
        ((0.001, 1.0, 10), "needs at least 20"),
    ],
)
def test_range_tests_that_cannot_be(arguments, message):
    low, high, steps = arguments
    with pytest.raises(UserError, match=message):
        range_test(TASK, [0], low, high, steps, execution=LOOP)


def test_minima_of_parabolas():
    rates = np.geomspace(0.01, 1, 9)
    assert parabola_minimum(rates, (np.log(rates) - np.log(0.07)) ** 2) == pytest.approx(0.07)
    assert parabola_minimum(rates, -rates) == 1.0
    losses = (np.log(rates) - np.log(0.07)) ** 2
    losses[4:] = np.inf
    assert parabola_minimum(rates, losses) == pytest.approx(rates[3])


@pytest.mark.parametrize("p", [-1.0, 0.0, 1.0])
def test_a_known_exponent_is_found(p):
    random = np.random.RandomState(0)
    rates = np.geomspace(1e-3, 10, 25)
    subsets = []
    for size in (100, 200, 400, 1000):
        best = 0.1 * (size / 400) ** p
        noise = 0.03 * random.randn(8)
        losses = 1 + 0.1 * (np.log(rates)[:, None] - np.log(best) - noise) ** 2
        subsets.append(Subset(size, 100, RateSweep(rates, losses)))
    result = ScalingResult(
        "toy", "constant", "epochs" if p <= 0 else "steps", tuple(subsets), np.full(8, 1.2), 0.1 * 2.5**p
    )
    low, high = result.interval
    assert low <= p <= high
    assert high - low < 0.3
    assert result.exponent == pytest.approx(p, abs=0.05)
    assert result.predicted == pytest.approx(0.1 * 2.5**p, rel=0.1)
    assert [law.split(":")[0] for law in result.compatible] == [f"p = {p:+g}"]
    assert "compatible with: p =" in result.verdict
    lowest = subsets[-1].sweep.losses[int(np.argmin(subsets[-1].sweep.mean()))]
    assert result.regret == st.paired_difference(np.full(8, 1.2), lowest)
    narrow = [Subset(x.size, 100, RateSweep(rates[:12], x.sweep.losses[:12])) for x in subsets]
    cut = replace(result, subsets=tuple(narrow))
    assert cut.compatible is None
    assert "may lie beyond the grid, give wider --rates" in cut.verdict


def test_seeds_that_all_agree_tell_no_exponent():
    """Each best rate is a rate of the grid, whatever the seeds: the interval has no width."""
    rates = np.geomspace(0.01, 1, 5)
    losses = np.abs(np.arange(5) - 2.0)[:, None] + np.zeros((5, 6))
    subsets = tuple(Subset(size, 100, RateSweep(rates, losses)) for size in (100, 200, 400, 800))
    result = ScalingResult("toy", "constant", "steps", subsets, np.zeros(6), 0.1)
    assert result.exponent == pytest.approx(0, abs=1e-9)
    assert result.compatible is None
    assert "give a finer one" in result.verdict


def test_losses_between_rates():
    rates = np.geomspace(0.01, 1, 13)
    sweep = RateSweep(rates, np.tile((np.log(rates / 0.07) ** 2)[:, None], 2))
    np.testing.assert_allclose(sweep.interpolate(rates), sweep.mean())
    between = np.array([0.02, 0.05, 0.3])
    np.testing.assert_allclose(sweep.interpolate(between), np.log(between / 0.07) ** 2)
    assert sweep.interpolate(sweep.best()) == pytest.approx(0, abs=1e-12)
    assert sweep.interpolate([1e-9, 1e9]) == pytest.approx(sweep.mean()[[0, -1]])
    sweep.losses[-2:] = np.inf
    assert np.isinf(sweep.interpolate([0.6, rates[-2], 1.0])).all()
    assert sweep.interpolate(rates[-3]) == pytest.approx(np.log(rates[-3] / 0.07) ** 2)


def test_an_interval_holds_the_truth_where_seeds_are_few():
    """Of a mean over 5 normal seeds, whose plain percentile interval holds it 83 times of 100."""
    random, held = np.random.RandomState(0), 0
    for _ in range(200):
        values = random.randn(5)
        ((low, high),) = bootstrap(lambda seeds, values=values: [float(values[seeds].mean())], 5)
        held += low <= 0 <= high
    assert held / 200 >= 0.87


def test_scaling_on_children_and_again_from_the_store(tmp_path):
    job = ComparisonPlan(TASK, ("wsd",), (0.01, 0.03, 0.1, 0.3), (1, 2, 3, 4, 5))
    store = Store(tmp_path / "records.sqlite")
    result = scaling(job, Lab(TASK, store, "toy"), [0.2, 0.1, 0.4], "epochs")
    assert [part.size for part in result.subsets] == sorted(part.size for part in result.subsets)
    assert [part.budget for part in result.subsets] == [10, 10, 20, 40]
    assert result.subsets[-1].size == TASK.train_size
    assert all(part.sweep.losses.shape == (4, 5) for part in result.subsets)
    assert len({r.settings["cooldown"] for r in store.runs("toy-0.1", "tune")}) == 1  # one shape, not a cycle
    assert np.isfinite(result.predicted_losses).all()
    again = scaling(job, Lab(TASK, store, "toy"), [0.1, 0.2, 0.4], "epochs")
    assert again.to_json() == result.to_json()
    result.write(tmp_path, {})
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_subsets_are_nested():
    from lr_env.tasks.data import load

    small, large = (load("digits", "cpu", train_fraction=share).splits["train"].inputs for share in (0.1, 0.4))
    assert torch.equal(large[: len(small)], small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": [0.1, 0.2]}, "at least three different fractions"),
        ({"fractions": [0.1, 0.2, 1.5]}, "above 0 and below 1"),
        ({"fractions": [0.001, 0.2, 0.4]}, "batch_size is 16, but the train split has"),
        ({"fixed": "passes"}, "fixed 'passes'"),
        ({"planners": ("constant", "cosine")}, "one planner"),
        ({"tune_seeds": (1, 2)}, "2 seeds are too few for an interval: give at least 5"),
        ({"rates": (0.01, 0.1)}, "2 rates cannot show where the loss is lowest"),
        ({"planners": ("prodigy",)}, "'prodigy' brings an optimizer of its own"),
        ({"rates": (8.0, 9.0, 9.9)}, "at every rate a run of 'constant' diverged: give lower --rates"),
    ],
)
def test_scaling_that_cannot_be(tmp_path, change, message):
    settings = {
        "planners": ("constant",),
        "tune_seeds": (1, 2, 3, 4, 5),
        "rates": (0.01, 0.03, 0.1),
        "fractions": [0.1, 0.2, 0.4],
        "fixed": "steps",
        **change,
    }
    job = ComparisonPlan(TASK, settings["planners"], settings["rates"], settings["tune_seeds"])
    with pytest.raises(UserError, match=message):
        scaling(job, Lab(TASK, Store(tmp_path / "records.sqlite"), "toy"), settings["fractions"], settings["fixed"])


def test_parts_of_a_task():
    assert part_of(TASK, 0.25, "steps").budget == 40
    assert part_of(TASK, 0.25, "epochs").budget == 10
    assert part_of(replace(TASK, train_fraction=0.5), 0.5, "steps").train_fraction == 0.25

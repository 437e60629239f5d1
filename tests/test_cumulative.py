"""Schedules at equal cumulative rate: known optima are found, and the runs are those that the report speaks of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.rollout import rollout
from lr_env.runs.lab import Lab
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.studies.cumulative_rate.result import CumulativeRateResult, SweptSchedule, cumulative, mean_factor
from lr_env.studies.rate_sweep import RateSweep
from lr_env.tasks import TASKS
from planners import Cosine

TASK = replace(TASKS["DigitsMLP"], budget=40, segment=10)


def toy(best_mean_rate) -> CumulativeRateResult:
    """Shapes of which the loss is a parabola in the log of the mean rate, with its minimum at a given rate."""
    random = np.random.RandomState(0)
    rates = np.geomspace(1e-3, 1, 41)
    shapes: list[SweptSchedule] = []
    for name, factor in (("constant", 1.0), ("cosine", 0.5), ("exponential", 0.2)):
        middle = np.log(best_mean_rate(factor)) + 0.05 * random.randn(8)

        def loss(rate, middle=middle):
            return 1 + 0.1 * (np.log(rate) - middle) ** 2

        sweep = RateSweep(rates, loss(rates[:, None]))
        first = shapes[0].sweep if shapes else sweep
        peak = first.rates[int(np.argmin(first.mean()))]
        shapes.append(SweptSchedule(name, factor, sweep, loss(peak * factor)))
    return CumulativeRateResult("toy", 100, tuple(shapes))


def test_one_best_cumulative_rate_is_told_from_one_best_peak():
    by_sum, by_peak = toy(lambda factor: 0.05), toy(lambda factor: 0.05 * factor)
    expected = np.log([1.0, 0.5, 0.2]).std(ddof=1)
    assert by_sum.spreads() == pytest.approx((0, expected), abs=0.03)
    assert by_peak.spreads() == pytest.approx((expected, 0), abs=0.03)
    assert "the best cumulative rate is more nearly the same" in by_sum.verdict
    assert "the best peak is more nearly the same" in by_peak.verdict
    for result, right in ((by_sum, 0), (by_peak, 1)):
        regrets = result.regrets()
        assert regrets[right] == pytest.approx(0, abs=1e-3)
        # Off by the factor: a tenth of the square of its log, on average over the two other shapes.
        assert regrets[1 - right] == pytest.approx(0.1 * np.mean(np.log([0.5, 0.2]) ** 2), rel=0.1)
        differences = result.disagreements()
        assert differences[right] < 0.02 < 0.1 < differences[1 - right]
        for low, high in result.differences:
            assert (high < 0) if right == 0 else (low > 0)


def test_optima_beyond_the_grid_decide_nothing():
    """Grids of mean rates end for all shapes at the same sum: they would seem to share it."""
    whole = toy(lambda factor: 0.3 * factor)
    assert "the best peak is" in whole.verdict
    short = [replace(x, sweep=RateSweep(x.sweep.rates[:25], x.sweep.losses[:25])) for x in whole.shapes]  # up to 0.06
    result = replace(whole, shapes=tuple(short))
    assert result.at_grid_edge == ["constant", "cosine", "exponential"]
    assert "cannot be told: the best rate of constant, cosine, exponential may lie beyond the grid" in result.verdict


def test_neither_is_said_where_seeds_disagree():
    between = toy(lambda factor: 0.05 * factor**0.5)
    assert "cannot be told" in between.verdict


def test_on_children(tmp_path):
    job = ComparisonPlan(TASK, ("constant", "cosine", "wsd"), (0.01, 0.03, 0.1), (1, 2, 3, 4, 5))
    store = Store(tmp_path / "records.sqlite")
    result = cumulative(job, Lab(TASK, store, "toy"))
    for shape, mean in zip(result.shapes, (1.0, (1 + np.cos(np.pi * np.arange(4) / 4)).mean() / 2, None), strict=True):
        if mean is not None:
            assert shape.mean_factor == pytest.approx(mean)
        np.testing.assert_allclose(shape.sweep.rates, job.rates)
        for record in store.runs(f"toy-{shape.planner}", "tune", curves=True):
            assert record.curves["lr"].mean() == pytest.approx(
                min(job.rates, key=lambda r: abs(r - record.curves["lr"].mean()))
            )
    assert len({str(r.settings["cooldown"]) for r in store.runs("toy-wsd", "tune")}) == 1  # one shape, not a cycle
    assert cumulative(job, Lab(TASK, store, "toy")).to_json() == result.to_json()
    peak = job.rates[result.reference_index]
    (cosine,) = [shape for shape in result.shapes if shape.planner == "cosine"]
    alone = [r.scores["final_val_loss"] for r in rollout(Cosine(peak), TASK, job.tune_seeds, score=("val",))]
    np.testing.assert_allclose(cosine.at_peak, alone, rtol=1e-5)
    np.testing.assert_allclose(
        result.shapes[0].at_peak, result.shapes[0].sweep.losses[result.reference_index], rtol=1e-5
    )
    result.write(tmp_path, {"command": "x"})
    assert (tmp_path / "cumulative.png").stat().st_size > 10_000


def test_a_setting_changes_the_shape():
    job = ComparisonPlan(TASK, ("wsd",), (0.1,), (1, 2), settings={"wsd": {"cooldown": 0.5, "warmup": 0.1}})
    assert mean_factor("wsd", job) < mean_factor("wsd", replace(job, settings={"wsd": {"cooldown": 0.1}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planners": ("constant",)}, "at least two schedules"),
        ({"planners": ("constant", "plrs")}, "'plrs' is no fixed schedule"),
        ({"planners": ("constant", "plateau")}, "'plateau' is no fixed schedule"),
        ({"tune_seeds": (1, 2)}, "2 seeds are too few"),
        ({"planners": ("constant", "prodigy")}, "'prodigy' brings an optimizer of its own"),
        (
            {"rates": (0.01, 0.1, TASK.lr_range[1])},
            "planner 'cosine' at equal cumulative rate: rate .* give other --rates",
        ),
    ],
)
def test_matching_that_cannot_be(tmp_path, change, message):
    settings = {"planners": ("constant", "cosine"), "rates": (0.01, 0.03, 0.1), "tune_seeds": (1, 2, 3, 4, 5), **change}
    with pytest.raises(UserError, match=message):
        cumulative(ComparisonPlan(TASK, **settings), Lab(TASK, Store(tmp_path / "records.sqlite"), "toy"))

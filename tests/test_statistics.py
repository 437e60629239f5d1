import numpy as np
import pytest
from scipy import stats

from lr_env.errors import UserError
from lr_env.stats.intervals import (
    Estimate,
    iqm,
    iqm_interval,
    mean_interval,
    median_steps,
    paired_difference,
    probability_of_improvement,
    steps_to_target,
    verdict,
)

RNG = np.random.default_rng(7)
A = RNG.normal(0.5, 0.1, 20)
B = A + RNG.normal(0.05, 0.02, 20)


def test_iqm_is_the_mean_of_the_middle_half():
    assert iqm([100, 1, 2, 3, 4, 5, 6, -50]) == (2 + 3 + 4 + 5) / 4
    assert iqm(range(10)) == 4.5  # 2 of 10 values fall away at either end
    values = RNG.normal(size=(3, 11))
    np.testing.assert_allclose(iqm(values), np.sort(values)[:, 2:9].mean(1))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=1))


def test_mean_and_paired_difference_have_the_student_t_interval():
    estimate = paired_difference([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])  # differences 1 to 5
    half = 2.7764451052 * np.sqrt(2.5 / 5)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], [3, 3 - half, 3 + half])
    scipys = stats.ttest_rel(A, B).confidence_interval(0.95)
    estimate = paired_difference(A, B)
    np.testing.assert_allclose([estimate.low, estimate.high], [scipys.low, scipys.high])
    assert estimate.high - estimate.low < mean_interval(A).high - mean_interval(A).low  # what pairing is for


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    samples = np.random.default_rng(3).normal(size=(2000, 10))
    hits = [e.low <= 0 <= e.high for e in map(mean_interval, samples)]
    assert 0.935 < np.mean(hits) < 0.965


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    a, b = np.round(A, 1), np.round(B, 1)  # with ties
    estimate = probability_of_improvement(a, b)
    assert estimate.value == pytest.approx(stats.mannwhitneyu(b, a).statistic / 400)
    assert estimate.low < estimate.value < estimate.high
    mirrored = probability_of_improvement(b, a)
    assert mirrored.value == pytest.approx(1 - estimate.value)
    # Against pairs that are gathered one by one, for seeds drawn by hand.
    draws = np.random.default_rng(0).integers(20, size=(4000, 20))
    by_hand = [np.mean((a[s][:, None] < b[s]) + 0.5 * (a[s][:, None] == b[s])) for s in draws]
    np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(by_hand, [0.025, 0.975]), atol=0.015)


def test_iqm_interval_is_the_percentile_bootstrap():
    estimate = iqm_interval(A)
    draws = A[np.random.default_rng(1).integers(20, size=(9999, 20))]
    low, high = np.quantile(stats.trim_mean(draws, 0.25, axis=1), [0.025, 0.975])
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], [iqm(A), low, high], atol=0.003)


def test_same_values_same_interval_whatever_the_global_generator():
    before = np.random.get_state()
    first = (iqm_interval(A), probability_of_improvement(A, B))
    np.random.seed(1)
    assert (iqm_interval(A), probability_of_improvement(A, B)) == first
    np.random.set_state(before)


@pytest.mark.parametrize("estimate", [mean_interval, iqm_interval])
def test_degenerate_values(estimate):
    assert estimate([0.1] * 7) == Estimate(0.1, 0.1, 0.1)
    one = estimate([0.3])
    assert one.value == 0.3
    assert np.isnan(one.low)
    assert np.isnan(one.high)
    with pytest.raises(UserError, match="NaN"):
        estimate([0.1, np.nan])
    with pytest.raises(UserError, match="no values"):
        estimate([])


def test_an_infinite_loss_makes_the_mean_infinite_but_not_the_interquartile_mean():
    diverged = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, np.inf]
    assert mean_interval(diverged) == Estimate(np.inf, np.inf, np.inf)
    assert iqm_interval(diverged).value == 4.5
    assert verdict(paired_difference(diverged, range(8))) == "worse"
    assert verdict(paired_difference(range(8), diverged)) == "better"
    assert verdict(paired_difference(diverged, diverged)) == "not told apart"
    assert probability_of_improvement(diverged, diverged).value == 0.5


def test_verdict():
    assert verdict(Estimate(-2, -3, -1)) == "better"
    assert verdict(Estimate(2, 1, 3)) == "worse"
    assert verdict(Estimate(2, -1, 5)) == "not told apart"
    assert verdict(Estimate(0, 0, 0)) == "not told apart"
    assert verdict(paired_difference([1.0], [2.0])) == "not told apart"  # one seed tells nothing
    with pytest.raises(UserError, match="seed by seed"):
        paired_difference([1, 2], [1, 2, 3])


def test_steps_to_target():
    steps = [10, 20, 30, 40]
    assert steps_to_target(steps, [2, np.nan, 1, 0.5], 1.0) == 30
    assert steps_to_target(steps, [2, np.inf, 0.9, 1.5], 1.0) == 30  # the first time counts
    assert steps_to_target(steps, [2, 2, 2, 2], 1.0) == np.inf
    assert median_steps([10, 20, np.inf]) == 20
    assert median_steps([10, np.inf, np.inf]) == np.inf
    assert median_steps([10, np.inf]) == np.inf
    with pytest.raises(UserError, match="shape"):
        steps_to_target(steps, [1, 2], 1.0)

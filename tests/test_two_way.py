"""Intervals over the luck of procedures and of seeds, and what is said of differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lr_env.errors import UserError
from lr_env.stats.two_way import Mean, exchange_rate, holm, two_way_difference, two_way_mean


@pytest.mark.parametrize(
    ("repeats", "deviations", "lowest", "highest"),
    [(3, (1.0, 0.3, 1.0), 93.5, 97), (5, (0.3, 1.0, 1.0), 94, 99), (3, (0.0, 0.0, 1.0), 95, 100)],
)
def test_intervals_hold_the_true_mean_as_often_as_they_say(repeats, deviations, lowest, highest):
    random, seeds, held = np.random.default_rng(0), 20, 0
    for _ in range(1500):
        of_repeat, of_seed, rest = (deviation * random.standard_normal(shape) for deviation, shape in zip(
            deviations, [(repeats, 1), (1, seeds), (repeats, seeds)], strict=True))  # fmt: skip
        interval = two_way_mean(0.7 + of_repeat + of_seed + rest).interval()
        held += interval.low <= 0.7 <= interval.high
    assert lowest < held / 15 < highest


def test_one_repeat_or_one_seed_is_students_t():
    values = np.array([0.1, 0.4, -0.2, 0.3])
    for table in (values[None, :], values[:, None]):
        mean = two_way_mean(table)
        test = stats.ttest_1samp(values, 0.0)
        assert mean.p_value == pytest.approx(test.pvalue)
        low, high = test.confidence_interval(0.95)
        assert (mean.interval().low, mean.interval().high) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(two_way_mean([[0.1]]).interval().low)


def test_the_error_is_that_of_the_components_of_variance():
    """Against the textbook's sums of squares, on a table whose parts are known."""
    repeats, seeds = np.array([-1.0, 0.0, 1.0]), np.array([-2.0, 2.0])
    rest = np.array([[0.5, -0.5], [-1.0, 1.0], [0.5, -0.5]])
    mean = two_way_mean(3 + repeats[:, None] + seeds + rest)
    of_repeats, of_seeds, of_rest = 2 * 2 / 2, 3 * 8 / 1, (4 * 0.25 + 2) / 2
    assert mean.value == pytest.approx(3)
    assert mean.error == pytest.approx(((of_repeats + of_seeds - of_rest) / 6) ** 0.5)


@pytest.mark.parametrize(
    ("mean", "told"),
    [
        (Mean(-0.1, 0.01, 10), "better"),
        (Mean(0.1, 0.01, 10), "worse"),
        (Mean(0.001, 0.001, 10), "equivalent"),
        (Mean(0.004, 0.001, 10), "worse"),  # told apart, and the margin is not shown
        (Mean(-0.003, 0.0005, 10), "equivalent"),  # told apart, but less than matters
        (Mean(0.01, 0.01, 10), "not told apart"),
        (Mean(np.inf, np.inf, 1), "worse"),
        (Mean(np.nan, np.inf, 1), "not told apart"),
        (Mean(0.0, np.nan, np.nan), "not told apart"),
    ],
)
def test_what_is_said(mean, told):
    assert mean.told(margin=0.005) == told


def test_two_one_sided_tests_find_equivalence_as_rarely_as_they_say_where_there_is_none():
    """At the margin itself: 5 % of the time."""
    random = np.random.default_rng(1)
    values = 0.5 + random.standard_normal((3000, 1, 20)) / 2
    share = np.mean([two_way_mean(one).told(0.5) == "equivalent" for one in values])
    assert 0.035 < share < 0.065


def test_runs_that_diverged_make_a_difference_infinite_unless_both_did():
    assert two_way_difference([[1.0, np.inf]], [[1.5, 2.0]]).value == np.inf
    assert np.isnan(two_way_difference([[1.0, np.inf]], [[np.inf, 2.0]]).value)
    assert two_way_difference([[1.0, np.inf]], [[1.5, np.inf]]).value == -0.25
    with pytest.raises(UserError, match="compared pair by pair"):
        two_way_difference([[1.0]], [[1.0, 2.0]])
    with pytest.raises(UserError, match="finite"):
        two_way_mean([[np.nan, 1.0]])


def test_holm_is_that_of_the_textbook():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": np.nan})
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    assert {name: adjusted[name] for name in expected} == pytest.approx(expected)
    assert np.isnan(adjusted["none"])


def test_a_loss_told_as_steps():
    losses, shares = [0.5, 0.4, 0.3], [0.25, 0.5, 1.0]
    assert exchange_rate(losses, shares, 0.4) == pytest.approx(0.5)
    assert exchange_rate(losses, shares, 0.35) == pytest.approx(np.sqrt(0.5))
    assert exchange_rate(losses, shares, 0.29) == np.inf
    assert exchange_rate(losses, shares, 0.6) == 0.0

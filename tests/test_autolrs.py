"""The two halves of AutoLRS: does the forecast find a known curve, and the search a known minimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planners.forking.extrapolation import fit_exponential, forecast
from planners.forking.gaussian_process import GaussianProcessSearch

CURVES = [(2.0, -0.02, 0.3), (0.5, -0.2, 0.0), (10.0, -0.005, 1.0), (0.01, -0.05, 2.0), (1.0, -3.0, 0.1)]


@pytest.mark.parametrize(("a", "b", "c"), CURVES)
@pytest.mark.parametrize("first", [0.0, 7.0])
def test_the_fit_recovers_a_clean_exponential(a, b, c, first):
    t = first + np.arange(100.0)
    fit = fit_exponential(t, a * np.exp(b * (t - first)) + c)
    assert fit is not None
    assert fit[0] * math.exp(fit[1] * first) == pytest.approx(a, rel=1e-5)
    assert fit[1] == pytest.approx(b, rel=1e-5)
    assert fit[2] == pytest.approx(c, abs=1e-5)


def test_the_unit_of_time_does_not_matter():
    t = np.arange(50.0)
    y = np.exp(-0.1 * t) + 0.2 + 0.05 * np.random.default_rng(0).normal(size=50)
    assert forecast(1000 * t, y, 500_000.0) == pytest.approx(forecast(t, y, 500.0), rel=1e-6)


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, -0.02, 0.3), (1.0, -0.1, 0.5)])
def test_the_forecast_is_close_in_noise_and_is_not_drawn_by_outliers(a, b, c):
    t, end = np.arange(100.0), 300.0
    true = a * math.exp(b * end) + c
    off = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        y = a * np.exp(b * t) + c + 0.05 * generator.normal(size=100)
        clean = forecast(t, y, end)
        y[generator.integers(5, 100, size=4)] += 5.0
        off.append([abs(clean - true), abs(forecast(t, y, end) - true)])
    # A line through noise of 0.05 has at its end an error of 2 * 0.05 / sqrt(100) = 0.01; extrapolation costs more.
    assert np.median(off, axis=0).max() < 0.06
    assert np.max(off) < 0.35


def test_what_cannot_be_fitted_stays_as_it_is_last():
    t = np.arange(20.0)
    assert forecast(t, 1.0 + 0.1 * t, 200.0) == pytest.approx(1.0 + 0.1 * 18)  # rising: the mean of the last three
    assert forecast(t, np.full(20, 0.7), 200.0) == pytest.approx(0.7)
    assert forecast(t[:4], np.array([3.0, 2.0, 1.0, 0.5]), 200.0) == 0.5  # too short
    assert forecast(t[:1], np.array([3.0]), 200.0) == 3.0
    assert forecast(t, np.exp(-0.05 * t) - 0.2 + 0.3, 2000.0) == pytest.approx(0.1, abs=1e-4)
    for bad in (math.inf, math.nan):
        assert forecast(t, np.array([*np.ones(19), bad]), 200.0) == math.inf


def test_a_forecast_is_a_loss_whatever_the_series():
    generator = np.random.default_rng(1)
    for _ in range(300):
        n = int(generator.integers(1, 60))
        y = 10.0 ** generator.uniform(-6, 4) * np.abs(generator.normal(size=n)) ** generator.uniform(0.1, 4)
        value = forecast(np.arange(float(n)), y, float(n * generator.uniform(1, 20)))
        assert 0 <= value <= y.max() * 1.5


def searched(loss, kappa: float = 2.0, seed: int = 0, trials: int = 10) -> tuple[float, list[float]]:
    """The best rate that a search finds from 0.001 to 1, and all that it tried."""
    search = GaussianProcessSearch(0.001, 1.0, kappa, np.random.default_rng(seed))
    tried = []
    for _ in range(trials):
        tried.append(search.ask())
        search.tell(loss(tried[-1]))
    return search.best, tried


@pytest.mark.parametrize("best", [0.001, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_a_known_minimum(best, seed):
    # Flat below, diverging at 30 times the best: as learning rates are.
    def loss(lr: float) -> float:
        distance = math.log10(lr / best)
        return 0.2 + (0.3 * distance**2 if distance < 0 else 0.8 * distance**2) if distance < 1.5 else math.inf

    lr, tried = searched(loss, seed=seed)
    assert abs(math.log10(lr / best)) < 0.06  # a fiftieth of the range
    assert len(set(tried)) == 10
    assert searched(loss, seed=seed) == (lr, tried)


def test_a_large_kappa_fills_gaps_and_a_small_one_looks_around_the_best():
    def loss(lr: float) -> float:
        return 0.2 + 0.3 * math.log10(lr / 0.03) ** 2

    gaps = [np.diff(np.sort(np.log10(searched(loss, kappa)[1]))).max() for kappa in (1e6, 0.5)]
    assert gaps[0] < 0.6 < gaps[1]  # of 3 decades in nine gaps


def test_the_search_goes_down_while_everything_diverges():
    lr, tried = searched(lambda lr: math.inf)
    assert lr == pytest.approx(0.001)
    assert tried[1] == pytest.approx(0.001)


def test_where_all_rates_are_the_same_the_search_spreads_out():
    lr, tried = searched(lambda lr: 1.0, 1e6)
    assert lr in tried
    assert np.diff(np.sort(np.log10(tried))).max() < 0.8  # of 3 decades

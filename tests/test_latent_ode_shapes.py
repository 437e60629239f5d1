"""The family of schedules that searches go through holds those that people use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from planners.latent_ode.planning.schedule_family import _HIGH, _LOW, MIN_COOLDOWN, SETTINGS, ScheduleFamily
from planners.schedules import WSD, Constant, Cosine, Exponential, Linear, OneCycle, Polynomial, WSDSqrt
from planners.tuning.search_space import sobol

FAMILY = ScheduleFamily(np.log(0.01), np.log(1.0))
AT = (np.arange(100) + 0.5) / 100


@pytest.mark.parametrize(
    ("schedule", "wrong"),
    [
        (Linear(0.1), 0.02),
        (Polynomial(0.1, power=2.0), 0.01),
        (WSD(0.1, cooldown=0.5, warmup=0.05), 0.03),
        (WSDSqrt(0.1, cooldown=0.5, warmup=0.05), 0.05),
        (Constant(0.1), 0.1),  # the last tenth always falls
        (Cosine(0.1), 0.04),
        (OneCycle(0.1, pct_start=0.2), 0.05),
        (Exponential(0.1, final=0.3), 0.1),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_it_holds_what_people_use(schedule, wrong):
    """To a share of the peak, in the mean over the run."""
    expected = schedule.preview(100)

    def off(settings):
        return np.abs(np.exp(FAMILY.log_rates(np.clip(settings, 0, 1), AT)) - expected).mean() / expected.max()

    begun = sobol(256, SETTINGS, 0)
    begin = sorted(begun, key=off)[:3]
    best = min(minimize(off, start, method="Nelder-Mead", options={"maxfev": 2000}).fun for start in begin)
    assert best < wrong


def test_it_is_what_it_says():
    """Warm-up from a tenth or less, one slope, a power of what is left; the peak is the highest rate."""
    settings = np.array([[0.5, 0.5, 0.2, 0.75, 0.5], [1.0, 1.0, 1.0, 0.25, 0.0], [0.0, 0.3, 0.4, 1.0, 0.2]])
    peak, down, power, slope, up = (_LOW + settings * (_HIGH - _LOW)).T
    at = np.linspace(0, 1, 2001)
    logs = FAMILY.log_rates(settings, at)
    for row in range(3):
        middle = (at > up[row]) & (at < 1 - down[row])
        if middle.sum() > 2:
            np.testing.assert_allclose(np.diff(logs[row, middle]) * 2000, slope[row], atol=1e-9)
        late = (at > max(1 - down[row], up[row])) & (at < 1 - 0.2 * down[row])
        falling = logs[row] - slope[row] * at
        fitted = np.polyfit(np.log((1 - at[late]) / down[row]), falling[late], 1)[0]
        assert fitted == pytest.approx(power[row], abs=1e-3)
        ends = logs[row, -1] - min(slope[row], 0) * (1 - up[row])
        assert ends == pytest.approx(
            FAMILY.low + peak[row] * (FAMILY.high - FAMILY.low) + np.log(MIN_COOLDOWN), abs=1e-6
        )
    assert logs[1].max() == pytest.approx(FAMILY.high, abs=0.1)
    assert (logs.max(1) <= FAMILY.low + peak * (FAMILY.high - FAMILY.low) + 1e-9).all()

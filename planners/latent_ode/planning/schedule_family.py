"""A family of schedules wide enough to hold, nearly, all that people use: what searches go through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planners.latent_ode.data.dataset import Floats

LEAST = 0.005
"""Smallest rate at the end of a cool-down, as a share of its height."""

_LOW = np.array([0.0, 0.1, 0.5, -3.0, 0.01])
_HIGH = np.array([1.0, 1.0, 3.0, 0.5, 0.25])
"""Of the peak's place in its range, the cool-down's share and power, the slope of the log before it, and the warm-up's
share."""

SETTINGS = len(_LOW)


@dataclass(frozen=True)
class Shapes:
    """Warm-up, a phase of constant slope, cool-down.

    The rate rises linearly over the warm-up; the log of the rate then goes straight, up or down; and in the cool-down
    the rate is besides multiplied by (1 - x)^power, x being the share of it that is over. Constant, linear, polynomial,
    exponential, warm-up-stable-decay schedules are among these, cosine and one-cycle are nearly so.

    Attributes:
        low: smallest log of the peak.
        high: largest.
    """

    low: float
    high: float

    def log_rates(self, settings: Floats, at: Floats) -> Floats:
        """Logs of rates, (..., times).

        Args:
            settings: each from 0 to 1, (..., SETTINGS).
            at: shares of the run, (times,).
        """
        peak, down, power, slope, up = np.moveaxis(_LOW + settings * (_HIGH - _LOW), -1, 0)[..., None]
        peak = self.low + peak * (self.high - self.low)
        rising = np.clip((at + 0.01) / (up + 0.01), 0.0, 1.0)
        going = slope * (np.clip(at, up, 1.0) - np.where(slope > 0, 1.0, up))  # its top is the peak
        left = np.clip((1.0 - at) / down, 0.0, 1.0)
        return peak + np.log(rising) + going + np.maximum(power * np.log(np.maximum(left, 1e-9)), np.log(LEAST))

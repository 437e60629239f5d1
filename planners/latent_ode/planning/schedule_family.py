"""A parametric family of schedules that contains, nearly, all those in common use: what searches go through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planners.latent_ode.channels import Floats

MIN_COOLDOWN = 0.005
"""Smallest factor of the cool-down: the rate at the end of a run, as a share of that before the cool-down."""

_LOW = np.array([0.0, 0.1, 0.5, -3.0, 0.01])
_HIGH = np.array([1.0, 1.0, 3.0, 0.5, 0.25])
"""Bounds of: the peak within its range, the share and the power of the cool-down, the slope of the log rate before it,
and the share of the warm-up."""

SETTINGS = len(_LOW)
"""Number of parameters of a schedule."""


@dataclass(frozen=True)
class ScheduleFamily:
    """Schedules with a linear warm-up, a phase of constant slope of the log rate, and a cool-down.

    In the cool-down the rate is multiplied by (1 - x)^power, with x the share of the cool-down that is over. Constant,
    linear, polynomial, exponential, and warm-up-stable-decay schedules are members; cosine and one-cycle nearly are.

    Attributes:
        low: smallest log of the peak rate.
        high: largest log of the peak rate.
    """

    low: float
    high: float

    def log_rates(self, settings: Floats, at: Floats) -> Floats:
        """Compute log rates (..., times) of parameters from 0 to 1, (..., SETTINGS), at shares of the run, (times,)."""
        peak, down, power, slope, up = np.moveaxis(_LOW + settings * (_HIGH - _LOW), -1, 0)[..., None]
        peak = self.low + peak * (self.high - self.low)
        rising = np.clip((at + 0.01) / (up + 0.01), 0.0, 1.0)
        sloped = slope * (np.clip(at, up, 1.0) - np.where(slope > 0, 1.0, up))  # its maximum is at the peak
        left = np.clip((1.0 - at) / down, 0.0, 1.0)
        cooldown = np.maximum(power * np.log(np.maximum(left, 1e-9)), np.log(MIN_COOLDOWN))
        return peak + np.log(rising) + sloped + cooldown

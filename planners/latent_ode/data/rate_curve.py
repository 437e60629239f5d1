"""Schedules of the learning rate as curves: the one form in which parts of the planner exchange them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.channels import Floats


@dataclass(frozen=True, eq=False)
class RateCurve:
    """One or several schedules: straight lines of the log rate between evenly spaced times.

    >>> curve = RateCurve(np.log([0.1, 0.1, 0.001]))
    >>> curve.segments(4, (0.0, 1.0)).round(4).tolist()
    [0.1, 0.1, 0.0316, 0.0032]
    >>> np.exp(curve.rest(0.5, 3).log_rates).round(4).tolist()
    [0.1, 0.01, 0.001]

    Attributes:
        log_rates: natural logs of the rates, (..., points): the first at the start of the run, or of what remains of
            it, the last at its end.
    """

    log_rates: Floats

    @classmethod
    def of_segments(cls, rates: Floats, first: int, points: int) -> Self:
        """Read the curve of what remains of a run off the rates of its segments.

        Args:
            rates: rates of all segments, (..., segments); each is taken to hold at the middle of its segment.
            first: segment at whose start the curve begins.
            points: points of the curve.
        """
        segments = rates.shape[-1]
        times = first + np.linspace(0, 1, points) * (segments - first)
        return cls(_interpolated(times, np.arange(segments) + 0.5, np.log(rates)))

    def rest(self, elapsed: float, points: int) -> Self:
        """Cut off the share of the run that is over, and return the rest as a curve of so many points."""
        times = elapsed + np.linspace(0, 1, points) * (1 - elapsed)
        return type(self)(_interpolated(times, self._times, self.log_rates))

    def segments(self, count: int, lr_range: tuple[float, float]) -> Floats:
        """Return the rates at the middles of equal segments, clipped to a range, (..., count)."""
        times = (np.arange(count) + 0.5) / count
        return np.clip(np.exp(_interpolated(times, self._times, self.log_rates)), *lr_range)

    def minus(self, log_rate: float) -> Tensor:
        """Return the log rates less a constant, in float32: the form in which plans are searched, (..., points)."""
        return torch.tensor(self.log_rates - log_rate, dtype=torch.float32)

    @property
    def _times(self) -> Floats:
        return np.linspace(0, 1, self.log_rates.shape[-1])


def _interpolated(at: Floats, times: Floats, values: Floats) -> Floats:
    """Interpolate each row of values (..., times) linearly, (..., at)."""
    rows = [np.interp(at, times, row) for row in values.reshape(-1, len(times))]
    return np.reshape(rows, (*values.shape[:-1], len(at)))

"""Observations of running runs, scaled as models read them, and the solver steps that cover them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.channels import CHANNELS, Floats, channel
from planners.latent_ode.data.scaling import Scales, scaled

OBSERVATION_STD = 0.14
"""Standard deviation by which forecasts of a run's curve are wrong, in scaled units, for each channel."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Measurements of some runs so far, one point at the end of each segment.

    Attributes:
        rates: u (log rate less a constant) of each segment, (runs, points).
        times: time of each point, in the model's unit, (runs, points).
        values: scaled channels at each point, (runs, points, channels); NaN where missing.
        span: time from the start of the run to the last point.
    """

    rates: Tensor
    times: Tensor
    values: Tensor
    span: float

    def solver_steps(self, coarse: int, fine: int) -> tuple[Tensor, Tensor, Tensor]:
        """Divide the time so far into few steps of the solver.

        The first steps are short, for curves are steep at the start. The last points have a step each.

        Args:
            coarse: steps up to the last points; fewer where there are fewer points.
            fine: number of last points that have a step each.

        Returns:
            u in each step, (runs, steps); the length of each step times the number of steps, (steps,); and the matrix
            that interpolates values at the start and at the ends of steps to the points, (steps + 1, points).
        """
        mean, lengths, interpolation = _solver_grid(self.rates.shape[1], coarse, fine)
        return (self.rates.exp() @ mean).log(), lengths * self.span, interpolation


def observe(
    points: Sequence[Floats], scales: Scales, lr_range: Sequence[float], segment: int, unit: int
) -> Observations:
    """Scale measurements.

    Args:
        points: for each segment so far: rate, step and channels as measured, (2 + channels, runs).
        scales: scales of the model.
        lr_range: smallest and largest rate of the task.
        segment: optimizer steps between two points.
        unit: optimizer steps that are one unit of the model's time.
    """
    lr, step, *measured = np.stack(points, axis=-1)
    values = np.stack([channel(name, curve) for name, curve in zip(CHANNELS, measured, strict=True)], axis=-1)
    lr = np.nan_to_num(lr, nan=lr_range[0])  # runs that have ended have none

    def tensor(array: Floats) -> Tensor:
        return torch.tensor(array, dtype=torch.float32)

    rates = tensor(np.log(np.clip(lr, min(lr_range), max(lr_range))) - scales.log_rate)
    return Observations(rates, tensor(step / unit), tensor(scaled(values, scales)), len(points) * segment / unit)


@lru_cache
def _solver_grid(points: int, coarse: int, fine: int) -> tuple[Tensor, Tensor, Tensor]:
    """Divide a number of points into steps, see `Observations.solver_steps`.

    Returns:
        The matrix that averages the rates of points over each step, (points, steps); the lengths of steps times their
        number, for a span of 1, (steps,); and the interpolation matrix, (steps + 1, points).
    """
    before = points - fine
    nodes = np.ceil(before * np.linspace(0, 1, coarse + 1) ** 1.5).astype(np.int64)
    nodes = np.unique([*nodes, *range(before, points + 1)])
    lengths = np.diff(nodes)
    steps = np.repeat(np.arange(len(lengths)), lengths)
    mean = (steps[:, None] == np.arange(len(lengths))) / lengths
    interpolation = np.array([np.interp(np.arange(1, points + 1), nodes, node) for node in np.eye(len(nodes))])
    mean, spans, interpolation = (
        torch.tensor(array, dtype=torch.float32) for array in (mean, lengths / points * len(lengths), interpolation)
    )
    return mean, spans, interpolation

"""Scaling of what models see: rates and channels of a sweep in comparable units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.data.dataset import RunDataset


@dataclass(frozen=True)
class Scales:
    """Constants of the scaling. They are saved with a model's weights.

    Attributes:
        log_rate: mean log rate of the sweep. Models see u, the log rate less this.
        means, deviations: mean and standard deviation of each channel over the sweep.
        budget: optimizer steps that are one unit of time.

    Raises:
        ValueError: a number is not finite, or a deviation or the budget is not positive.
    """

    log_rate: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    budget: int

    def __post_init__(self) -> None:
        numbers = (self.log_rate, *self.means, *self.deviations)
        whole = isinstance(self.budget, int) and self.budget >= 1
        if not (all(map(math.isfinite, numbers)) and min(self.deviations) > 0 and whole):
            raise ValueError(f"scales are no finite numbers: {self}")

    def log_loss(self, scaled_loss: Floats) -> Floats:
        """Return the log validation loss of a scaled one."""
        return scaled_loss * self.deviations[LOSS] + self.means[LOSS]


def scales_of(dataset: RunDataset) -> Scales:
    """Compute the scales of the runs that a model is fitted to, with runs weighted by `RunDataset.weights`."""
    logs = [np.log(dataset.lr[row, :count]) for row, count in enumerate(dataset.lengths)]
    finite = np.isfinite(dataset.values)
    weights = np.where(finite, dataset.weights[:, None, None], 0.0)
    values = np.where(finite, dataset.values, 0.0)
    total = np.where(weights.sum((0, 1)) > 0, weights.sum((0, 1)), np.nan)
    means = (weights * values).sum((0, 1)) / total
    deviations = np.sqrt((weights * (values - means) ** 2).sum((0, 1)) / total)
    usable = np.isfinite(deviations) & (deviations > 0)  # not so for a channel that was never logged, or never changed
    return Scales(
        float(np.mean(np.concatenate(logs))),
        tuple(np.where(np.isfinite(means), means, 0.0).tolist()),
        tuple(np.where(usable, deviations, 1.0).tolist()),
        dataset.budget,
    )


def scaled(values: Floats, scales: Scales) -> Floats:
    """Scale channels, (..., channels)."""
    return (values - np.array(scales.means)) / np.array(scales.deviations)

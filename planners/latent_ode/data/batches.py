"""Runs as tensors, and the parts of them that a model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.data.dataset import RunDataset
from planners.latent_ode.data.scaling import Scales, scaled

MIN_RUNS_PER_SEED = 2
"""Runs that a seed must have for an effect of that seed to be fitted."""


@dataclass(frozen=True)
class Batch:
    """Continuations of runs, from some time to their ends, (members, batch, ...).

    Attributes:
        rates: u (log rate less a constant) in each step of the solver, (members, batch, steps).
        span: time from the start to the end of the continuation, (members, batch).
        values: the scaled channels at the nodes of the solver, (members, batch, steps + 1, channels); NaN where they
            are missing.
        final: the scaled log loss on the whole validation split at the end, (members, batch); NaN where not measured.
        censored: whether that is right-censored: the true value is larger, by an unknown amount, (members, batch).
        weights: weight of each run's curves, (members, batch).
    """

    rates: Tensor
    span: Tensor
    values: Tensor
    final: Tensor
    censored: Tensor
    weights: Tensor


class TensorDataset:
    """The runs of a dataset as scaled tensors."""

    def __init__(self, dataset: RunDataset, scales: Scales) -> None:
        self.scales = scales
        self.lengths = torch.tensor(dataset.lengths)
        self.values = _padded_with_nan(scaled(dataset.values, scales), dataset)
        self.targets = self.values
        if dataset.targets is not None:
            self.targets = _padded_with_nan(scaled(dataset.targets, scales), dataset)
        self.censored = torch.tensor(dataset.diverged | (dataset.final > dataset.censoring_threshold))
        final = np.where(self.censored, dataset.censoring_threshold, dataset.final)
        self.final = torch.tensor((final - scales.means[LOSS]) / scales.deviations[LOSS], dtype=torch.float32)
        self.weights = torch.tensor(dataset.weights, dtype=torch.float32)
        self.groups = torch.tensor(seed_groups(dataset))
        # float64, because differences of sums over whole runs are taken.
        self.steps = torch.tensor(np.concatenate([np.zeros((len(dataset), 1)), dataset.steps], axis=1))
        self.cumulative = torch.tensor(dataset.cumulative)
        self.rates = torch.tensor(np.log(dataset.lr) - scales.log_rate, dtype=torch.float32)

    def batch(self, rows: Tensor, now: Tensor, nodes: int) -> Batch:
        """Cut out the continuations of some runs.

        Args:
            rows: indices of runs, (members, batch).
            now: number of points before the continuation, (members, batch), fewer than the run has.
            nodes: steps of the solver up to the end of the run.
        """
        steps = self.steps[rows]
        start = steps.gather(-1, now[..., None])
        end = steps.gather(-1, self.lengths[rows][..., None])
        at = start + (end - start) * torch.linspace(0, 1, nodes + 1, dtype=steps.dtype)
        before, share = _locate(steps, at)
        sums = _interpolate(self.cumulative[rows], before, share)
        mean = (sums[..., 1:] - sums[..., :-1]) / (at[..., 1:] - at[..., :-1])
        values = self.targets[rows]
        # Point k lies at steps[k + 1]; nothing was measured before the first point.
        left = (before - 1).clamp(min=0)[..., None].expand(*before.shape, values.shape[-1])
        right = before.clamp(max=values.shape[2] - 1)[..., None].expand_as(left)
        weight = share[..., None].float()
        at_left = torch.where(weight < 1e-6, values.gather(2, left), 0.0)
        mixed = values.gather(2, left) * (1 - weight) + values.gather(2, right) * weight
        mixed = torch.where(weight < 1e-6, at_left, torch.where(weight > 1 - 1e-6, values.gather(2, right), mixed))
        mixed[(before < 1) & (share < 1 - 1e-6)] = torch.nan
        return Batch(
            (mean.clamp_min(1e-30).log() - self.scales.log_rate).float(),
            ((end - start)[..., 0] / self.scales.budget).float(),
            mixed,
            self.final[rows],
            self.censored[rows],
            self.weights[rows],
        )


def _padded_with_nan(values: Floats, dataset: RunDataset) -> Tensor:
    """Convert channels (runs, points, channels), NaN after the end of each run."""
    padding = np.arange(values.shape[1]) >= dataset.lengths[:, None]
    return torch.tensor(np.where(padding[..., None], np.nan, values), dtype=torch.float32)


def seed_groups(dataset: RunDataset) -> NDArray[np.int64]:
    """Number the seeds that have several runs: 1, 2 ... for the runs of those, 0 for all other runs, (runs,)."""
    seeds, counts = np.unique(dataset.seeds, return_counts=True)
    shared = seeds[counts >= MIN_RUNS_PER_SEED]
    groups = np.searchsorted(shared, dataset.seeds) + 1
    return np.where(np.isin(dataset.seeds, shared), groups, 0).astype(np.int64)


def _locate(steps: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Find the points around given steps: index of the point before, and share of the way to the next point."""
    before = (torch.searchsorted(steps, at.contiguous(), right=True) - 1).clamp(0, steps.shape[-1] - 2)
    low, high = steps.gather(-1, before), steps.gather(-1, before + 1)
    return before, torch.where(high > low, (at - low) / (high - low).clamp_min(1e-12), 0.0)


def _interpolate(values: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return values.gather(-1, before) * (1 - share) + values.gather(-1, before + 1) * share

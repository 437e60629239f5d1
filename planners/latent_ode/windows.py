"""Windows of runs as tensors: what an encoder reads, what drives the field, and what should come out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.model import Ensemble, Scales
from planners.latent_ode.series import LOSS, Floats, Series


def scales_of(series: Series) -> Scales:
    """Scales of the runs that a model is fitted to."""
    logs = [np.log(series.lr[row, :count]) for row, count in enumerate(series.lengths)]
    known = np.isfinite(series.values)
    counted = np.where(known, series.weights[:, None, None], 0.0)
    values = np.where(known, series.values, 0.0)
    total = np.where(counted.sum((0, 1)) > 0, counted.sum((0, 1)), np.nan)
    means = (counted * values).sum((0, 1)) / total
    deviations = np.sqrt((counted * (values - means) ** 2).sum((0, 1)) / total)
    usable = np.isfinite(deviations) & (deviations > 0)  # a channel that was never logged, or never changed
    return Scales(
        float(np.mean(np.concatenate(logs))),
        tuple(np.where(np.isfinite(means), means, 0.0).tolist()),
        tuple(np.where(usable, deviations, 1.0).tolist()),
        series.budget,
    )


def tokens(steps: Floats, lr: Floats, values: Floats, scales: Scales) -> Floats:
    """What an encoder reads of points: time, u, scaled channels; (..., points, TOKEN).

    A missing value is the one before it, and before the first the mean: metrics that are measured now and then hold
    until they are measured again.
    """
    scaled = (values - np.array(scales.means)) / np.array(scales.deviations)
    known = np.isfinite(scaled)
    points = np.arange(scaled.shape[-2])[:, None]
    latest = np.maximum.accumulate(np.where(known, points, -1), axis=-2)
    held = np.take_along_axis(scaled, np.maximum(latest, 0), axis=-2)
    held = np.where(latest >= 0, held, 0.0)
    return np.concatenate(
        [(steps / scales.budget)[..., None], (np.log(lr) - scales.log_rate)[..., None], held], axis=-1
    )


@dataclass(frozen=True)
class Batch:
    """Windows of runs, and the futures that followed; (members, batch, ...).

    Attributes:
        tokens, lengths: see `Ensemble.encode`.
        rates, span: see `Ensemble.solve`.
        values: the scaled channels at the solver's nodes, (members, batch, steps + 1, channels); NaN where not known.
        final: the scaled log loss on the whole validation split at the end, (members, batch); NaN where not known.
        weights: how much each run counts, (members, batch).
    """

    tokens: Tensor
    lengths: Tensor
    rates: Tensor
    span: Tensor
    values: Tensor
    final: Tensor
    weights: Tensor


class Table:
    """The runs of a series as tensors, of which batches are cut."""

    def __init__(self, series: Series, scales: Scales, window: int) -> None:
        self.scales = scales
        self.window = window
        self.lengths = torch.tensor(series.lengths)
        self.tokens = torch.tensor(tokens(series.steps, series.lr, series.values, scales), dtype=torch.float32)
        scaled = (series.values - np.array(scales.means)) / np.array(scales.deviations)
        beyond = np.arange(scaled.shape[1]) >= series.lengths[:, None]
        self.values = torch.tensor(np.where(beyond[..., None], np.nan, scaled), dtype=torch.float32)
        final = (series.final - scales.means[LOSS]) / scales.deviations[LOSS]
        self.final = torch.tensor(final, dtype=torch.float32)
        self.weights = torch.tensor(series.weights, dtype=torch.float32)
        # float64: differences of sums over whole runs are taken
        self.steps = torch.tensor(np.concatenate([np.zeros((len(series), 1)), series.steps], axis=1))
        self.cumulative = torch.tensor(series.cumulative)

    def windows(self, rows: Tensor, now: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What an encoder reads, see `Ensemble.encode`; the arguments are those of `batch`."""
        points = (now[..., None] - 1 - torch.arange(self.window)).clamp(min=0)
        return self.tokens[rows[..., None], points], torch.minimum(lengths, now)

    def batch(self, rows: Tensor, now: Tensor, lengths: Tensor, nodes: int) -> Batch:
        """Cut windows.

        Args:
            rows: runs, (members, batch).
            now: points before the present, (members, batch), fewer than the run has.
            lengths: points that are read, at most, (members, batch).
            nodes: steps of the solver to the end of the run.
        """
        read, lengths = self.windows(rows, now, lengths)
        steps = self.steps[rows]
        start = steps.gather(-1, now[..., None])
        end = steps.gather(-1, self.lengths[rows][..., None])
        at = start + (end - start) * torch.linspace(0, 1, nodes + 1, dtype=steps.dtype)
        before, share = _place(steps, at)
        sums = _between(self.cumulative[rows], before, share)
        mean = (sums[..., 1:] - sums[..., :-1]) / (at[..., 1:] - at[..., :-1])
        values = self.values[rows]
        # Point k lies at steps[k + 1]; before the first one nothing was measured.
        left = (before - 1).clamp(min=0)[..., None].expand(*before.shape, values.shape[-1])
        right = before.clamp(max=values.shape[2] - 1)[..., None].expand_as(left)
        weight = share[..., None].float()
        known = torch.where(weight < 1e-6, values.gather(2, left), 0.0)
        mixed = values.gather(2, left) * (1 - weight) + values.gather(2, right) * weight
        mixed = torch.where(weight < 1e-6, known, torch.where(weight > 1 - 1e-6, values.gather(2, right), mixed))
        mixed[(before < 1) & (share < 1 - 1e-6)] = torch.nan
        return Batch(
            read,
            lengths,
            (mean.clamp_min(1e-30).log() - self.scales.log_rate).float(),
            ((end - start)[..., 0] / self.scales.budget).float(),
            mixed,
            self.final[rows],
            self.weights[rows],
        )


def _place(steps: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Where steps lie between the points of their runs: number of the point before, share of the way to the next."""
    before = (torch.searchsorted(steps, at.contiguous(), right=True) - 1).clamp(0, steps.shape[-1] - 2)
    low, high = steps.gather(-1, before), steps.gather(-1, before + 1)
    return before, torch.where(high > low, (at - low) / (high - low).clamp_min(1e-12), 0.0)


def _between(table: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return table.gather(-1, before) * (1 - share) + table.gather(-1, before + 1) * share


def predict(model: Ensemble, batch: Batch) -> tuple[Tensor, Tensor]:
    """States and channels at the solver's nodes: (members, batch, steps + 1, latent), (..., channels)."""
    states = model.solve(model.encode(batch.tokens, batch.lengths), batch.rates, batch.span)
    return states, model.read(states)

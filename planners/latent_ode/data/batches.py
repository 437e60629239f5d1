"""Runs as tensors: what drives the field, what should come out, and what was not foreseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners.latent_ode.data.dataset import LOSS, Floats, Series
from planners.latent_ode.model.dynamics import Ensemble, Scales

MOST = 10.0
"""Surprises beyond so many deviations of the sweep are cut off."""

SHARED = 2
"""Runs of one seed from which on it is a group, whose runs have something in common."""


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


def scaled(values: Floats, scales: Scales) -> Floats:
    """Channels, (..., channels), as models have them."""
    return (values - np.array(scales.means)) / np.array(scales.deviations)


def token(time: Tensor, rates: Tensor, measured: Tensor, foreseen: Tensor) -> Tensor:
    """What is read of points, (..., TOKEN); a value that is missing is no surprise.

    Args:
        time: as a share of a run, (...).
        rates: u, (...).
        measured: scaled channels, (..., channels).
        foreseen: the same as the dynamics have them.
    """
    surprise = torch.nan_to_num(measured - foreseen, nan=0.0, posinf=MOST, neginf=-MOST).clamp(-MOST, MOST)
    return torch.cat([time[..., None], rates[..., None], surprise], dim=-1)


@dataclass(frozen=True)
class Batch:
    """Futures of runs, (members, batch, ...).

    Attributes:
        rates, span: see `Ensemble.solve`.
        values: the scaled channels at the solver's nodes, (members, batch, steps + 1, channels); NaN where not known.
        final: the scaled log loss on the whole validation split at the end, (members, batch); NaN where not known.
        beyond: whether it is only known to be above that, (members, batch).
        weights: how much the curves of each run count, (members, batch).
    """

    rates: Tensor
    span: Tensor
    values: Tensor
    final: Tensor
    beyond: Tensor
    weights: Tensor


class Table:
    """The runs of a series as tensors, of which batches are cut."""

    def __init__(self, series: Series, scales: Scales) -> None:
        self.scales = scales
        self.lengths = torch.tensor(series.lengths)
        values = scaled(series.values, scales)
        beyond = np.arange(values.shape[1]) >= series.lengths[:, None]
        self.values = torch.tensor(np.where(beyond[..., None], np.nan, values), dtype=torch.float32)
        self.beyond = torch.tensor(series.diverged | (series.final > series.limit))
        final = np.where(self.beyond, series.limit, series.final)
        self.final = torch.tensor((final - scales.means[LOSS]) / scales.deviations[LOSS], dtype=torch.float32)
        self.weights = torch.tensor(series.weights, dtype=torch.float32)
        self.groups = torch.tensor(groups_of(series))
        # float64: differences of sums over whole runs are taken
        self.steps = torch.tensor(np.concatenate([np.zeros((len(series), 1)), series.steps], axis=1))
        self.cumulative = torch.tensor(series.cumulative)
        self.rates = torch.tensor(np.log(series.lr) - scales.log_rate, dtype=torch.float32)

    def batch(self, rows: Tensor, now: Tensor, nodes: int) -> Batch:
        """Futures.

        Args:
            rows: runs, (members, batch).
            now: points before the present, (members, batch), fewer than the run has.
            nodes: steps of the solver to the end of the run.
        """
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
            (mean.clamp_min(1e-30).log() - self.scales.log_rate).float(),
            ((end - start)[..., 0] / self.scales.budget).float(),
            mixed,
            self.final[rows],
            self.beyond[rows],
            self.weights[rows],
        )


def groups_of(series: Series) -> NDArray[np.int64]:
    """The group of each run, (runs,): 1, 2 ... for seeds that have several runs, 0 for all others."""
    seeds, counts = np.unique(series.seeds, return_counts=True)
    shared = seeds[counts >= SHARED]
    groups = np.searchsorted(shared, series.seeds) + 1
    return np.where(np.isin(series.seeds, shared), groups, 0).astype(np.int64)


def _place(steps: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Where steps lie between the points of their runs: number of the point before, share of the way to the next."""
    before = (torch.searchsorted(steps, at.contiguous(), right=True) - 1).clamp(0, steps.shape[-1] - 2)
    low, high = steps.gather(-1, before), steps.gather(-1, before + 1)
    return before, torch.where(high > low, (at - low) / (high - low).clamp_min(1e-12), 0.0)


def _between(table: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return table.gather(-1, before) * (1 - share) + table.gather(-1, before + 1) * share


def predict(model: Ensemble, state: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """States and channels at the solver's nodes: (members, batch, steps + 1, latent), (..., channels)."""
    states = model.solve(state, batch.rates, batch.span)
    return states, model.read(states)


@dataclass(frozen=True)
class Past:
    """What the dynamics make of runs, and what they did not foresee.

    Attributes:
        states: at the start and at each point, (members, runs, points + 1, latent).
        tokens: of each point, (members, runs, points, TOKEN).
        lengths: points of each run, (runs,).
        window: points that are read at most.
    """

    states: Tensor
    tokens: Tensor
    lengths: Tensor
    window: int

    def seen(self, rows: Tensor, now: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What `Ensemble.corrected` takes.

        Args:
            rows: runs, (members, batch).
            now: points before the present, (members, batch).
            lengths: points that are read, (members, batch), at most the window; None: as many as can be.
        """
        members = torch.arange(len(self.states))[:, None]
        points = (now[..., None] - 1 - torch.arange(self.window)).clamp(min=0)
        known = now.clamp(max=self.window) if lengths is None else torch.minimum(lengths, now)
        return self.states[members, rows, now], self.tokens[members[..., None], rows[..., None], points], known


@torch.no_grad()
def past(model: Ensemble, table: Table) -> Past:
    """What a model's dynamics make of all runs."""
    runs, points = table.rates.shape
    share = table.steps / table.scales.budget
    spans = share.diff(dim=1).float()
    states, tokens = [model.beginning(runs)], []
    for point in range(points):
        rates, span = (of[:, point].expand(model.sizes.members, -1) for of in (table.rates, spans))
        states.append(model.advanced(states[-1], rates, span))
        foreseen = model.read(states[-1][:, :, None])[:, :, 0]
        time = share[:, point + 1].float().expand_as(rates)
        tokens.append(token(time, rates, table.values[:, point].expand_as(foreseen), foreseen))
    return Past(torch.stack(states, 2), torch.stack(tokens, 2), table.lengths, model.sizes.window)

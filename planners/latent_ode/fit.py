"""Fitting a model to the runs of a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lr_env.errors import UserError
from planners.latent_ode.model import Ensemble, Scales, Sizes
from planners.latent_ode.series import LOSS, Floats, Series
from planners.latent_ode.windows import Batch, Table, predict, scales_of

Progress = Callable[[int], None]
"""Told how many iterations were done since the last call."""


@dataclass(frozen=True)
class Fitting:
    """How a model is fitted.

    Attributes:
        sizes: of the model.
        iterations: updates of all members.
        batch: windows in each, for each member.
        learning_rate: of Adam, at its peak: up for a tenth of the iterations, then down by a cosine.
        weight_decay: decoupled.
        path_penalty: weight of the length of latent paths.
        end_weight: weight of the loss on the whole validation split at the end.
        judge_every: iterations between two looks at the runs that are held out.
        seed: of everything that is drawn.
    """

    sizes: Sizes = field(default_factory=Sizes)
    iterations: int = 1500
    batch: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    path_penalty: float = 0.0
    end_weight: float = 4.0
    judge_every: int = 100
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model and what is known of its fit.

    Attributes:
        model: the ensemble, each member as it was when it did best on the runs that were held out from it.
        scales: what it was fitted with.
        fold: the member that each run was held out from, (runs,).
        history: (iterations, loss on the runs fitted to, loss on those held out), means over members.
    """

    model: Ensemble
    scales: Scales
    fold: NDArray[np.int64]
    history: tuple[tuple[int, float, float], ...]


def fit(series: Series, fitting: Fitting, progress: Progress | None = None) -> Fitted:
    """Fit an ensemble.

    Each member is fitted to all runs but its share of them, which stops it early: the weights at which the loss on the
    runs held out is lowest are kept. All runs are held out from one member each.

    Each update scores futures of random windows at random times of random runs, up to their ends: squared errors of
    the scaled channels, the last one again by the whole validation split, and the length of the latent path (see
    `path_length`).

    Args:
        series: the runs.
        fitting: how.
        progress: told of iterations.
    """
    sizes = fitting.sizes
    scales = scales_of(series)
    table = Table(series, scales, sizes.window)
    draw = torch.Generator().manual_seed(fitting.seed)
    fold = folds(len(series), sizes.members, draw)
    model = Ensemble(sizes, fitting.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=fitting.learning_rate, betas=(0.9, 0.98), weight_decay=fitting.weight_decay
    )
    fitted_to = [torch.nonzero(fold != member)[:, 0] for member in range(sizes.members)]
    best = _Best(model)
    history = []
    held = held_out(table, fold, sizes)
    for iteration in range(fitting.iterations):
        for group in optimizer.param_groups:
            group["lr"] = fitting.learning_rate * _pace((iteration + 1) / fitting.iterations)
        rows = torch.stack([own[torch.randint(len(own), (fitting.batch,), generator=draw)] for own in fitted_to])
        losses = errors(model, _windows(table, rows, sizes, draw), fitting)
        optimizer.zero_grad()
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if (iteration + 1) % fitting.judge_every == 0 or iteration + 1 == fitting.iterations:
            with torch.no_grad():
                judged = errors(model, held, fitting)
            best.keep(model, judged)
            history.append((iteration + 1, float(losses.detach().mean()), float(judged.mean())))
        if progress:
            progress(1)
    if not best.found:
        raise UserError("the fit diverged: give a smaller learning rate")
    return Fitted(best.into(model), scales, fold.numpy(), tuple(history))


def errors(model: Ensemble, batch: Batch, fitting: Fitting) -> Tensor:
    """What a fit minimises, (members,)."""
    states, values = predict(model, batch)
    known = torch.isfinite(batch.values)
    squared = torch.where(known, values - torch.nan_to_num(batch.values), 0.0) ** 2
    found = squared.sum((1, 2, 3)) / known.sum((1, 2, 3)).clamp(min=1)
    ended = torch.isfinite(batch.final)
    last = torch.where(ended, model.final(states) - torch.nan_to_num(batch.final), 0.0) ** 2
    found = found + fitting.end_weight * last.sum(1) / ended.sum(1).clamp(min=1)
    if fitting.path_penalty:
        found = found + fitting.path_penalty * path_length(states)
    return found


def path_length(states: Tensor) -> Tensor:
    """Mean length of latent paths, (members,), of states (members, batch, points, latent); arXiv:2410.08923.

    Sum over steps of sqrt(dz' S^-1 dz), with S the diagonal of the variances over the batch, divided by the mean
    standard deviation of first states over the batch, without which the latent space would shrink.
    """
    moved = (states[:, :, 1:] - states[:, :, :-1]) ** 2
    variance = states.var((1, 2), keepdim=True) + 1e-6
    lengths = ((moved / variance).sum(-1) + 1e-12).sqrt().sum(-1).mean(1)
    return lengths / (states[:, :, 0].std(1).mean(-1) + 1e-3)


def folds(runs: int, members: int, draw: torch.Generator) -> Tensor:
    """The member that each run is held out from, (runs,): as many runs for each as can be."""
    order = torch.randperm(runs, generator=draw)
    fold = torch.empty(runs, dtype=torch.int64)
    fold[order] = torch.arange(runs) % members
    return fold


def held_out(table: Table, fold: Tensor, sizes: Sizes) -> Batch:
    """Windows over all of each held-out run, the same at every look; members with fewer runs repeat some."""
    most = int(torch.bincount(fold, minlength=sizes.members).max())
    rows, now = [], []
    for member in range(sizes.members):
        own = torch.nonzero(fold == member)[:, 0]
        own = own[torch.arange(most) % len(own)] if len(own) else torch.zeros(most, dtype=torch.int64)
        shares = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4, 0.7])
        rows.append(own.repeat_interleave(len(shares)))
        now.append((table.lengths[own][:, None] * shares).long().flatten())
    at = torch.stack(now)
    return table.batch(torch.stack(rows), at, torch.full_like(at, sizes.window), sizes.steps)


def _windows(table: Table, rows: Tensor, sizes: Sizes, draw: torch.Generator) -> Batch:
    """Random windows of runs: any present before the end, any length."""
    now = (torch.rand(rows.shape, generator=draw) * table.lengths[rows]).long()
    lengths = torch.randint(1, sizes.window + 1, rows.shape, generator=draw)
    return table.batch(rows, now, lengths, sizes.steps)


def _pace(done: float) -> float:
    return min(1.0, done / 0.1) * (0.5 + 0.5 * math.cos(math.pi * max(0.0, (done - 0.1) / 0.9))) + 1e-3


class _Best:
    """The weights of each member at which it did best."""

    def __init__(self, model: Ensemble) -> None:
        self.losses = torch.full((model.sizes.members,), torch.inf)
        self.members = [model.member(number) for number in range(model.sizes.members)]

    @property
    def found(self) -> bool:
        return bool(torch.isfinite(self.losses).all())

    def keep(self, model: Ensemble, losses: Tensor) -> None:
        for number in torch.nonzero(losses < self.losses)[:, 0].tolist():
            self.losses[number] = losses[number]
            self.members[number] = model.member(number)

    def into(self, model: Ensemble) -> Ensemble:
        for number, weights in enumerate(self.members):
            model.put_member(number, weights)
        return model.eval()


def predicted_final(model: Ensemble, table: Table, shares: Floats, members: NDArray[np.int64]) -> Floats:
    """Log loss on the whole validation split at the end of each run, as each run's own member sees it.

    Args:
        model, table: the model and the runs.
        shares: of the run that are over, (windows,).
        members: whose answer counts, (runs,).

    Returns:
        (windows, runs), unscaled.
    """
    count = model.sizes.members
    rows = torch.arange(len(table.lengths)).expand(count, -1)
    answers = []
    for share in shares:
        now = (table.lengths * share).long().expand(count, -1)
        batch = table.batch(rows, now, torch.full_like(now, model.sizes.window), model.sizes.steps)
        with torch.no_grad():
            states, _ = predict(model, batch)
        answers.append(model.final(states)[torch.tensor(members), torch.arange(len(members))].detach().numpy())
    return np.stack(answers) * table.scales.deviations[LOSS] + table.scales.means[LOSS]

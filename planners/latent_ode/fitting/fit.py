"""Fitting a model to the runs of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.errors import UserError
from planners.latent_ode.data.batches import Batch, Table, past, predict, scales_of
from planners.latent_ode.data.dataset import CHANNELS, LOSS, Floats, Series
from planners.latent_ode.model.dynamics import Ensemble, Scales, Sizes
from planners.latent_ode.model.early_stopping import Descent, Progress, path_length

MOST_MEMBERS = 100

SHARES = (0.05, 0.1, 0.2, 0.4)
"""Of a run that are over when its end is foreseen, to see how well."""


@dataclass(frozen=True)
class Fitting:
    """How a model is fitted, in two phases, see `fit`.

    Attributes:
        sizes: of the model.
        dynamics: updates of the vector field on whole runs.
        corrections: updates of what is read off surprises, on futures of windows.
        batch: windows in an update, for each member.
        learning_rate: of Adam in the first phase, at its peak: up for a tenth, then down by a cosine.
        last_rate: the same of the second.
        weight_decay: decoupled.
        path_penalty: weight of the length of latent paths.
        end_weight: weight of the loss on the whole validation split at the end.
        looks: times in each phase that the runs held out are looked at.
        seed: of everything that is drawn.
    """

    sizes: Sizes = field(default_factory=Sizes)
    dynamics: int = 1000
    corrections: int = 400
    batch: int = 128
    learning_rate: float = 2e-2
    last_rate: float = 5e-3
    weight_decay: float = 0.0
    path_penalty: float = 0.0
    end_weight: float = 4.0
    looks: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        check_members(self.sizes.members)


def check_members(members: int, runs: int | None = None) -> None:
    """See that so many make an ensemble, of which each is fitted to what another one has held out.

    Args:
        members: of the ensemble.
        runs: that it is fitted to, if that is known.

    Raises:
        UserError: they do not, or there are more of them than runs.
    """
    if not 2 <= members <= MOST_MEMBERS:
        raise UserError(f"{members} members: an ensemble has from 2 to {MOST_MEMBERS}")
    if runs is not None and members > runs:
        raise UserError(f"{members} members need as many runs, and there are {runs}: give fewer members")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model and what is known of its fit.

    Attributes:
        model: the ensemble, each member as it was when it did best on the runs that were held out from it.
        scales: what it was fitted with.
        fold: the member that each run was held out from, (runs,).
        foreseen: log final loss of each run as that member sees it, after each of `SHARES`, (shares, runs).
        history: (phase, iteration, loss on the runs fitted to, lowest so far on those held out), means over members.
    """

    model: Ensemble
    scales: Scales
    fold: NDArray[np.int64]
    foreseen: Floats
    history: tuple[tuple[str, int, float, float], ...]


def fit(series: Series, fitting: Fitting, progress: Progress | None = None) -> Fitted:
    """Fit an ensemble.

    Each member is fitted to all runs but its share of them, which stops it early: the weights at which the loss on the
    runs held out is lowest are kept. All runs are held out from one member each. Two phases:

    1. Dynamics: whole runs from their start, all in each update. Where several runs share a seed, what they have in
       common beyond their schedules is learned beside (see `Offsets`), and forgotten: schedules are told apart by less
       than seeds are.
    2. Corrections: futures of random windows at random times of random runs, up to their ends, under the dynamics
       found. Only what is particular to a run, and not to its schedule, is left to be learned. They begin at none, so
       that runs held out stop them at once where surprises say nothing.

    Both minimise squared errors of the scaled channels, that of the end again by the whole validation split, up to the
    limit above which ends do not matter, and the length of the latent path (see `path_length`).

    Args:
        series: the runs.
        fitting: how.
        progress: told of iterations.

    Raises:
        UserError: there are more members than runs, or nearly all runs diverged at once; or the fit diverged.
    """
    sizes = fitting.sizes
    check_members(sizes.members, len(series))
    scales = scales_of(series)
    table = Table(series, scales)
    draw = torch.Generator().manual_seed(fitting.seed)
    fold = folds(len(series), sizes.members, draw)
    model = Ensemble(sizes, fitting.seed)
    own = [torch.nonzero(fold != member)[:, 0] for member in range(sizes.members)]
    left_out = [torch.nonzero(fold == member)[:, 0] for member in range(sizes.members)]

    def starts(rows: list[Tensor]) -> Batch:
        same = _as_many(rows)
        return table.batch(same, torch.zeros_like(same), sizes.steps)

    offsets = Offsets(table, sizes.members)

    def from_start(batch: Batch, rows: list[Tensor]) -> Tensor:
        shifted = offsets.taken_off(batch, _as_many(rows))
        return errors(model, model.beginning(batch.span.shape[1]), shifted, fitting)

    longer = [runs[table.lengths[runs] > 1] for runs in own]
    if not all(map(len, longer)):
        raise UserError("nearly all runs diverged at once: give lower rates, or fewer members")

    def windows(count: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.stack([runs[torch.randint(len(runs), (count,), generator=draw)] for runs in longer])
        now = 1 + (torch.rand(rows.shape, generator=draw) * (table.lengths[rows] - 1)).long()
        return rows, now, torch.randint(1, sizes.window + 1, rows.shape, generator=draw)

    judged = starts(left_out)
    whole = starts(own)
    loop = Descent(model, fitting.weight_decay, fitting.looks, progress or (lambda count: None))
    loop.run(
        "dynamics",
        fitting.dynamics,
        fitting.learning_rate,
        [*model.dynamics(), *offsets.parameters()],
        lambda: from_start(whole, own) + offsets.shrinkage(whole, fitting),
        lambda: from_start(judged, left_out),
    )
    known = past(model, table)

    def onwards(rows: Tensor, now: Tensor, lengths: Tensor | None) -> Tensor:
        batch = table.batch(rows, now, sizes.steps)
        return errors(model, model.corrected(*known.seen(rows, now, lengths)), batch, fitting)

    held = held_out(table, fold, sizes)
    loop.run(
        "corrections",
        fitting.corrections,
        fitting.last_rate,
        model.encoding(),
        lambda: onwards(*windows(fitting.batch)),
        lambda: onwards(*held, None),
    )
    foreseen = predicted_final(model.eval(), table, np.array(SHARES), fold.numpy())
    return Fitted(model, scales, fold.numpy(), foreseen, tuple(loop.history))


class Offsets(nn.Module):
    """How the channels of runs of one seed lie above those of all, the same throughout a run: a random effect.

    Args:
        table: the runs.
        members: of the ensemble.
    """

    def __init__(self, table: Table, members: int) -> None:
        super().__init__()
        self.groups = table.groups
        self.above = nn.Parameter(torch.zeros(members, int(self.groups.max()), len(CHANNELS) + 1))

    def taken_off(self, batch: Batch, rows: Tensor) -> Batch:
        """The same without them: the channels, and the end by the whole validation split."""
        none = torch.zeros(len(self.above), 1, self.above.shape[2])
        members = torch.arange(len(self.above))[:, None]
        above = torch.cat([none, self.above], 1)[members, self.groups[rows]]
        return replace(batch, values=batch.values - above[:, :, None, :-1], final=batch.final - above[..., -1])

    def shrinkage(self, batch: Batch, fitting: Fitting) -> Tensor:
        """What is added to the errors of a batch of all runs, (members,): the logs of normal priors.

        As wide as what is left of a run without its seed's share, which is about what comparisons of 20 seeds show.
        """
        squared = self.above.square().sum(1)
        of_curves, of_ends = squared[:, :-1].mean(1), squared[:, -1]
        return of_curves / batch.weights.sum(1) + fitting.end_weight * of_ends / batch.weights.shape[1]


def errors(model: Ensemble, state: Tensor, batch: Batch, fitting: Fitting) -> Tensor:
    """What a fit minimises, (members,), of futures that begin in a state."""
    states, values = predict(model, state, batch)
    known = torch.isfinite(batch.values)
    squared = torch.where(known, values - torch.nan_to_num(batch.values), 0.0) ** 2
    counted = known * batch.weights[..., None, None]
    found = (squared * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp(min=1e-9)
    ended = torch.isfinite(batch.final)
    above = model.final(states) - torch.nan_to_num(batch.final)
    last = torch.where(batch.beyond, above.clamp(max=0.0), above).square()
    found = found + fitting.end_weight * (last * ended).sum(1) / ended.sum(1).clamp(min=1)
    if fitting.path_penalty:
        found = found + fitting.path_penalty * path_length(states)
    return found


def folds(runs: int, members: int, draw: torch.Generator) -> Tensor:
    """The member that each run is held out from, (runs,): as many runs for each as can be."""
    order = torch.randperm(runs, generator=draw)
    fold = torch.empty(runs, dtype=torch.int64)
    fold[order] = torch.arange(runs) % members
    return fold


def held_out(table: Table, fold: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Runs held out and times over all of them, the same at every look; members with fewer runs repeat some."""
    rows = _as_many([torch.nonzero(fold == member)[:, 0] for member in range(sizes.members)])
    shares = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.7])
    at = (table.lengths[rows][..., None] * shares).long().flatten(1)
    return rows.repeat_interleave(len(shares), 1), at


def _as_many(rows: list[Tensor]) -> Tensor:
    """Rows of each member, (members, most); members with fewer repeat some."""
    most = max(len(own) for own in rows)
    return torch.stack([own[torch.arange(most) % len(own)] for own in rows])


def predicted_final(model: Ensemble, table: Table, shares: Floats, members: NDArray[np.int64]) -> Floats:
    """Log loss on the whole validation split at the end of each run, as each run's own member sees it.

    Args:
        model: the model.
        table: the runs.
        shares: of the run that are over, (windows,).
        members: whose answer counts, (runs,).

    Returns:
        (windows, runs), unscaled.
    """
    rows = torch.arange(len(table.lengths)).expand(model.sizes.members, -1)
    known = past(model, table)
    answers = []
    for share in shares:
        now = (table.lengths * share).long().expand_as(rows)
        with torch.no_grad():
            state = model.corrected(*known.seen(rows, now))
            states, _ = predict(model, state, table.batch(rows, now, model.sizes.steps))
            ends = model.final(states)
        answers.append(ends[torch.tensor(members), torch.arange(len(members))].numpy())
    return np.stack(answers) * table.scales.deviations[LOSS] + table.scales.means[LOSS]

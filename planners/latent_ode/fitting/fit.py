"""Fitting of an ensemble to the runs of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.errors import UserError
from planners.latent_ode.channels import CHANNELS, Floats
from planners.latent_ode.data.batches import Batch, TensorDataset
from planners.latent_ode.data.dataset import RunDataset
from planners.latent_ode.data.scaling import Scales, scales_of
from planners.latent_ode.filtering.state import StateEstimator
from planners.latent_ode.model.dynamics import Ensemble, Sizes
from planners.latent_ode.model.early_stopping import EarlyStoppedTrainer, LossHistory, path_length

MAX_MEMBERS = 100

SHARES = (0.05, 0.1, 0.2, 0.4)
"""Shares of a run after which its end is forecast, to measure how good forecasts are."""


@dataclass(frozen=True)
class Fitting:
    """Settings of a fit in two phases, see `fit`.

    Attributes:
        sizes: sizes of the ensemble.
        dynamics: updates of the first phase, on whole runs.
        corrections: updates of the second phase, on continuations of runs.
        batch: continuations in an update of the second phase, for each member.
        learning_rate: peak rate of Adam in the first phase; it rises for a tenth of the updates, then falls by a
            cosine.
        last_rate: peak rate of Adam in the second phase.
        weight_decay: decoupled weight decay.
        path_penalty: weight of the length of latent paths.
        end_weight: weight of the loss on the whole validation split at the end, relative to that of the curves.
        looks: how often the loss on held-out runs is computed in each phase.
        seed: seed of everything that is drawn.

    Raises:
        UserError: see `check_members`.
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
    """Check that an ensemble can have so many members, for each holds out some of the runs that it is fitted to.

    Raises:
        UserError: there are fewer than 2 or more than 100 members, or more members than runs.
    """
    if not 2 <= members <= MAX_MEMBERS:
        raise UserError(f"{members} members: an ensemble has from 2 to {MAX_MEMBERS}")
    if runs is not None and members > runs:
        raise UserError(f"{members} members need as many runs, and there are {runs}: give fewer members")


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of a fit.

    Attributes:
        model: the ensemble; each member has the weights that were best on the runs that it held out.
        scales: how its inputs and outputs are scaled.
        held_out_member: the member that held out each run, (runs,).
        forecast: log final loss of each run as that member forecasts it after each of `SHARES`, (shares, runs).
        history: losses during the fit.
    """

    model: Ensemble
    scales: Scales
    held_out_member: NDArray[np.int64]
    forecast: Floats
    history: LossHistory


def fit(dataset: RunDataset, fitting: Fitting) -> Fitted:
    """Fit an ensemble.

    Each run is held out by one member, and the others are fitted to it. A member is stopped early: it keeps the weights
    at which its loss on the runs that it holds out was lowest. There are two phases:

    1. Dynamics: whole runs from their start, all in each update. What runs of one seed have in common beyond their
       schedules is learned as a random effect (`SeedEffects`), and discarded: schedules differ by less than seeds do.
    2. Corrections: continuations of random runs from random times to their ends, from the state that `StateEstimator`
       estimates, with the dynamics fixed. What remains to be learned is particular to a run, and not to its schedule.
       Corrections start at zero, so that held-out runs stop them at once where innovations predict nothing.

    The loss is the squared error of the scaled channels, plus that of the final loss on the whole validation split (for
    right-censored ends only as far as the forecast lies below), plus a penalty on the length of latent paths.

    Raises:
        UserError: there are more members than runs; nearly all runs diverged at once; or the fit diverged.
    """
    sizes = fitting.sizes
    check_members(sizes.members, len(dataset))
    scales = scales_of(dataset)
    tensors = TensorDataset(dataset, scales)
    draw = torch.Generator().manual_seed(fitting.seed)
    held_out_member = assign_runs(len(dataset), sizes.members, draw)
    model = Ensemble(sizes, fitting.seed)
    fitted_to = [torch.nonzero(held_out_member != member)[:, 0] for member in range(sizes.members)]
    held_out = [torch.nonzero(held_out_member == member)[:, 0] for member in range(sizes.members)]

    def whole_runs(rows: list[Tensor]) -> Batch:
        padded = _padded(rows)
        return tensors.batch(padded, torch.zeros_like(padded), sizes.steps)

    seed_effects = SeedEffects(tensors, sizes.members)

    def loss_from_start(batch: Batch, rows: list[Tensor]) -> Tensor:
        without_effects = seed_effects.subtract_from(batch, _padded(rows))
        return continuation_loss(model, model.initial_state(batch.span.shape[1]), without_effects, fitting)

    longer = [runs[tensors.lengths[runs] > 1] for runs in fitted_to]
    if not all(map(len, longer)):
        raise UserError("nearly all runs diverged at once: give lower rates, or fewer members")

    def random_windows(count: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.stack([runs[torch.randint(len(runs), (count,), generator=draw)] for runs in longer])
        now = 1 + (torch.rand(rows.shape, generator=draw) * (tensors.lengths[rows] - 1)).long()
        return rows, now, torch.randint(1, sizes.window + 1, rows.shape, generator=draw)

    validation, training = whole_runs(held_out), whole_runs(fitted_to)
    trainer = EarlyStoppedTrainer(model, fitting.weight_decay, fitting.looks)
    trainer.run(
        "dynamics",
        fitting.dynamics,
        fitting.learning_rate,
        [*model.dynamics_parameters(), *seed_effects.parameters()],
        lambda: loss_from_start(training, fitted_to) + seed_effects.prior(training, fitting),
        lambda: loss_from_start(validation, held_out),
    )
    estimator = StateEstimator(model)
    history = estimator.roll_out(tensors)

    def loss_from_estimates(rows: Tensor, now: Tensor, lengths: Tensor | None) -> Tensor:
        batch = tensors.batch(rows, now, sizes.steps)
        return continuation_loss(model, estimator.corrected(history, rows, now, lengths), batch, fitting)

    validation_windows = spread_windows(tensors, held_out)
    trainer.run(
        "corrections",
        fitting.corrections,
        fitting.last_rate,
        model.correction_parameters(),
        lambda: loss_from_estimates(*random_windows(fitting.batch)),
        lambda: loss_from_estimates(*validation_windows, None),
    )
    forecast = forecast_final_losses(model.eval(), tensors, np.array(SHARES), held_out_member.numpy())
    return Fitted(model, scales, held_out_member.numpy(), forecast, tuple(trainer.history))


class SeedEffects(nn.Module):
    """Random effects of seeds: a constant offset of each channel, and of the final loss, for the runs of one seed."""

    def __init__(self, dataset: TensorDataset, members: int) -> None:
        super().__init__()
        self.groups = dataset.groups
        self.offsets = nn.Parameter(torch.zeros(members, int(self.groups.max()), len(CHANNELS) + 1))

    def subtract_from(self, batch: Batch, rows: Tensor) -> Batch:
        """Subtract the effects from the channels and the final losses of a batch of runs, (members, batch)."""
        none = torch.zeros(len(self.offsets), 1, self.offsets.shape[2])
        members = torch.arange(len(self.offsets))[:, None]
        offsets = torch.cat([none, self.offsets], 1)[members, self.groups[rows]]
        return replace(batch, values=batch.values - offsets[:, :, None, :-1], final=batch.final - offsets[..., -1])

    def prior(self, batch: Batch, fitting: Fitting) -> Tensor:
        """Return what a normal prior of the effects adds to the loss of a batch of all runs, (members,).

        The prior is as wide as what remains of a run without the effect of its seed; comparisons of 20 seeds show about
        that.
        """
        squared = self.offsets.square().sum(1)
        curves, ends = squared[:, :-1].mean(1), squared[:, -1]
        return curves / batch.weights.sum(1) + fitting.end_weight * ends / batch.weights.shape[1]


def continuation_loss(model: Ensemble, state: Tensor, batch: Batch, fitting: Fitting) -> Tensor:
    """Compute what a fit minimises, (members,), for continuations of runs from given states."""
    states = model.solve(state, batch.rates, batch.span)
    values = model.decode(states)
    finite = torch.isfinite(batch.values)
    squared = torch.where(finite, values - torch.nan_to_num(batch.values), 0.0) ** 2
    weights = finite * batch.weights[..., None, None]
    loss = (squared * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1e-9)
    measured = torch.isfinite(batch.final)
    above = model.final_loss(states) - torch.nan_to_num(batch.final)
    ends = torch.where(batch.censored, above.clamp(max=0.0), above).square()
    loss = loss + fitting.end_weight * (ends * measured).sum(1) / measured.sum(1).clamp(min=1)
    if fitting.path_penalty:
        loss = loss + fitting.path_penalty * path_length(states)
    return loss


def assign_runs(runs: int, members: int, draw: torch.Generator) -> Tensor:
    """Draw the member that holds out each run, (runs,), so that members hold out equally many."""
    order = torch.randperm(runs, generator=draw)
    member = torch.empty(runs, dtype=torch.int64)
    member[order] = torch.arange(runs) % members
    return member


def spread_windows(dataset: TensorDataset, held_out: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return held-out runs, each at five times, as rows and numbers of points so far, (members, windows) both."""
    rows = _padded(held_out)
    shares = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.7])
    now = (dataset.lengths[rows][..., None] * shares).long().flatten(1)
    return rows.repeat_interleave(len(shares), 1), now


def _padded(rows: list[Tensor]) -> Tensor:
    """Stack rows of each member, (members, most); members with fewer rows repeat some."""
    most = max(len(of_member) for of_member in rows)
    return torch.stack([of_member[torch.arange(most) % len(of_member)] for of_member in rows])


def forecast_final_losses(
    model: Ensemble, dataset: TensorDataset, elapsed: Floats, members: NDArray[np.int64]
) -> Floats:
    """Forecast the log loss on the whole validation split at the end of each run, (shares, runs), unscaled.

    Args:
        model: the ensemble.
        dataset: the runs.
        elapsed: shares of the run after which forecasts are made, (shares,).
        members: the member that forecasts each run, (runs,).
    """
    rows = torch.arange(len(dataset.lengths)).expand(model.sizes.members, -1)
    estimator = StateEstimator(model)
    history = estimator.roll_out(dataset)
    forecasts = []
    for share in elapsed:
        now = (dataset.lengths * share).long().expand_as(rows)
        with torch.no_grad():
            batch = dataset.batch(rows, now, model.sizes.steps)
            states = model.solve(estimator.corrected(history, rows, now), batch.rates, batch.span)
            ends = model.final_loss(states)
        forecasts.append(ends[torch.tensor(members), torch.arange(len(members))].numpy())
    return dataset.scales.log_loss(np.stack(forecasts))

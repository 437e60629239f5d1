"""Where runs are by now as a model sees it, and whether they answer to the rate as those of the sweep did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from planners.latent_ode.data.batches import scaled, token
from planners.latent_ode.data.dataset import CHANNELS, LOSS, Floats, channel
from planners.latent_ode.model.dynamics import Ensemble, Scales

NOISE_SPREAD, PACE_SPREAD = 1.0, 0.5
"""Standard deviations of the normal priors of a run's `Response`."""

ERROR = 0.14
"""Standard deviation, scaled, by which models err over the whole of a run's curve so far, in each channel."""

_LOST = 3.0
"""Such deviations off what was foreseen, a model does not know where a run will end."""

_STEPS, _FARTHEST, _NEAR, _APART = 6, 1.0, 0.05, 0.05
"""Gauss-Newton steps, the longest of them and one too short to be taken, and the difference that slopes are of."""

_LIKELY = 1 / 3
"""Share of what counts that the first step must say of a run for more steps to be taken. What is found in the end was
seen to be up to 1.8 times as much in runs, and of curves that are very far from usual first steps are small again."""

_COARSE = 12
"""Steps of the solver for that."""


@dataclass(frozen=True, eq=False)
class Response:
    """How runs answer to their rates, where that is otherwise than in the sweep that a model was fitted to.

    The field of such a run is exp(u + pace) F tanh(A z + (u + noise) a + b): the rate moves it by exp(pace) times as
    much, and what the rate does besides, the noise that it lets in, is that of one exp(noise) times as large. Four
    times the batch is a noise of -log 4.

    Attributes:
        noise, pace: (members, runs).
    """

    noise: Tensor
    pace: Tensor

    @classmethod
    def usual(cls, members: int, runs: int) -> Response:
        """That of the sweep."""
        return cls(torch.zeros(members, runs), torch.zeros(members, runs))

    def driven(self, rates: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
        """What `Ensemble.solve` takes for these runs in place of u and time, both (members, runs, ...)."""
        return rates + _as_many(self.noise, rates), span * _as_many((self.pace - self.noise).exp(), span)

    @property
    def unusual(self) -> Tensor:
        """Runs that do not answer as usual, (runs,), boolean."""
        return (self.noise != 0).any(0)

    def in_words(self) -> list[str]:
        """What is to be said of each run; nothing of those that answer as usual."""
        said = "its rates let in {:.2g} x the noise and move it {:.2g} x as far as in the sweep"
        factors = torch.stack([self.noise.mean(0), self.pace.mean(0)], 1).exp().tolist()
        return [said.format(*of) if other else "" for of, other in zip(factors, self.unusual.tolist(), strict=True)]

    def where(self, runs: Tensor) -> Response:
        """The same for some runs, (runs,), boolean; the others answer as usual."""
        return Response(torch.where(runs, self.noise, 0.0), torch.where(runs, self.pace, 0.0))


def _as_many(of_runs: Tensor, like: Tensor) -> Tensor:
    return of_runs.reshape(*of_runs.shape, *[1] * (like.ndim - of_runs.ndim))


@dataclass(frozen=True, eq=False)
class Seen:
    """What was measured of some runs at the ends of their segments, one point each.

    Attributes:
        rates: u of each segment, (runs, points).
        times: of the points, in the model's unit, (runs, points).
        values: scaled channels, (runs, points, channels); NaN where missing.
        span: time from the start to the last point.
    """

    rates: Tensor
    times: Tensor
    values: Tensor
    span: float


def seen(points: Sequence[Floats], scales: Scales, lr_range: Sequence[float], segment: int, unit: int) -> Seen:
    """Points as models read them.

    Args:
        points: since the start of the run, each rate, step and channels as measured, (2 + channels, runs).
        scales: of the model.
        lr_range: smallest and largest rate.
        segment: optimizer steps between two points.
        unit: optimizer steps that are one unit of time.
    """
    lr, step, *measured = np.stack(points, axis=-1)
    values = np.stack([channel(name, of) for name, of in zip(CHANNELS, measured, strict=True)], axis=-1)
    lr = np.nan_to_num(lr, nan=lr_range[0])  # of runs that ended

    def tensor(of: Floats) -> Tensor:
        return torch.tensor(of, dtype=torch.float32)

    rates = tensor(np.log(np.clip(lr, min(lr_range), max(lr_range))) - scales.log_rate)
    return Seen(rates, tensor(step / unit), tensor(scaled(values, scales)), len(points) * segment / unit)


@torch.no_grad()
def state_now(model: Ensemble, runs: Seen, response: Response) -> tuple[Tensor, Tensor]:
    """Where the dynamics and the last surprises have runs by now, (members, runs, latent), and which of them are lost.

    Those are, (runs,), that lately had losses of which the mean is nowhere near what was foreseen.
    """
    members, window = model.sizes.members, model.sizes.window
    read = min(window, runs.values.shape[1])
    # As many steps as a whole run has in the fit, which was seen to err by little more than one a segment.
    rates, spans, _ = _steps(runs, model.sizes.steps, read)
    driven = response.driven(rates.expand(members, -1, -1), spans.expand(*response.noise.shape, -1))
    states = model.solve(model.beginning(len(rates)), *driven)
    foreseen = model.read(states[:, :, -read:].flip(2))
    times, rates, values = (
        of.flip(1)[:, :read].expand(members, *of[:, :read].shape) for of in (runs.times, runs.rates, runs.values)
    )
    tokens = torch.nn.functional.pad(token(times, rates, values, foreseen), (0, 0, 0, window - read))
    surprise = (values - foreseen)[..., LOSS].nanmean(2).mean(0)
    lost = ~(surprise.abs() < _LOST * ERROR)  # also where nothing was measured
    return model.corrected(states[:, :, -1], tokens, torch.full(states.shape[:2], read)), lost


@torch.no_grad()
def response_of(model: Ensemble, runs: Seen, least: float, sure: float) -> Response:
    """How runs answer to their rates, where that can be told; elsewhere as usual.

    Each member has its most probable `Response` of each run alone, to all of its curves so far, found by Gauss-Newton
    steps under normal priors. It has to explain what is otherwise: where a channel is foreseen worse with it, what
    happened is something else (labels that are wrong raise losses as noise does, but not to the same accuracy).

    Args:
        model: the ensemble.
        runs: what was measured.
        least: by how much the noise must be otherwise, in the log, for a run not to count as usual.
        sure: how many of its standard deviations that must be: those of the posterior, by its curvature, and of the
            members among each other.
    """
    members, count = model.sizes.members, len(runs.rates)
    fit_of = _Fit(model, runs)
    best = at = move = torch.zeros(members, count, 2)
    lowest, variance = torch.full((members, count), torch.inf), torch.zeros(members, count)
    usual = explained = torch.zeros(members, count, len(CHANNELS))
    # Each run goes by itself, whatever its company, also in when it stops.
    there = torch.zeros(members, count, 1, dtype=torch.bool)
    for number in range(_STEPS):
        left, losses, step, variances = fit_of.around(at)
        if number == 0:
            usual = left
            there = (step[..., :1].mean(0).abs() < _LIKELY * min(least, _FARTHEST)).expand_as(there)
        lower = losses < lowest
        lowest, variance = torch.where(lower, losses, lowest), torch.where(lower, variances, variance)
        # From the best place so far; half as far, where a step from it was too long.
        of_best = (at, best), (left, explained), (step, move / 2)
        best, explained, move = (torch.where(lower[..., None], *of) for of in of_best)
        there = there | (move.abs() < _NEAR).all(-1, keepdim=True)
        if there.all():
            break
        at = torch.where(there, best, best + move)
    noise, pace = best.unbind(-1)
    mean = noise.mean(0).abs()
    apart = (variance.mean(0) + noise.var(0)).sqrt()
    better = (explained.mean(0) <= usual.mean(0)).all(-1)
    return Response(noise, pace).where(better & (mean > torch.clamp(sure * apart, min=least)))


class _Fit:
    """What runs did, beside what a model says that they would have done.

    Args:
        model: the ensemble.
        runs: what was measured.
    """

    def __init__(self, model: Ensemble, runs: Seen) -> None:
        known = torch.isfinite(runs.values).float()
        self.model, self.count = model, len(runs.rates)
        self.weights = known * len(CHANNELS) / ERROR**2 / known.sum((1, 2), keepdim=True).clamp(min=1)
        self.values = runs.values.nan_to_num()
        self.prior = torch.tensor([NOISE_SPREAD, PACE_SPREAD]) ** -2
        # A place and one beside it in each direction, as three runs of one batch.
        self.beside = torch.tensor([[0.0, 0.0], [_APART, 0.0], [0.0, _APART]])
        rates, spans, self.lookup = _steps(runs, _COARSE, 0)
        members = model.sizes.members
        self.rates = rates.repeat_interleave(3, 0).expand(members, -1, -1)
        self.spans = spans.expand(members, 3 * self.count, -1)

    def around(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How well a response explains runs, and which would do better.

        Args:
            at: noise and pace, (members, runs, 2).

        Returns:
            What is left unexplained of each channel, (members, runs, channels); that and what the prior adds, whose
            half is the negative log of the posterior, (members, runs); the Gauss-Newton step from here, at most
            `_FARTHEST` in each direction, (members, runs, 2); and the variance of the noise by the curvature here,
            (members, runs).
        """
        response = Response(*(at[:, :, None] + self.beside).flatten(1, 2).unbind(-1))
        driven = response.driven(self.rates, self.spans)
        nodes = self.model.read(self.model.solve(self.model.beginning(3 * self.count), *driven))
        read = torch.einsum("mbnc,np->mbpc", nodes, self.lookup).unflatten(1, (self.count, 3))
        errors, slopes = read[:, :, 0] - self.values, (read[:, :, 1:] - read[:, :, :1]) / _APART
        left = (self.weights * errors.square()).sum(2)
        weighted = slopes * self.weights[:, None]
        curvature = torch.einsum("mripc,mrjpc->mrij", weighted, slopes) + torch.diag(self.prior)
        downhill = torch.einsum("mripc,mrpc->mri", weighted, errors) + self.prior * at
        covariance, _ = torch.linalg.inv_ex(curvature)
        step = -(covariance @ downhill[..., None])[..., 0].clamp(-_FARTHEST, _FARTHEST)
        return left, left.sum(-1) + (self.prior * at.square()).sum(-1), step, covariance[..., 0, 0]


def _steps(runs: Seen, few: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Few steps of the solver, short ones first, where curves are steep, and one for each of the last points.

    Args:
        runs: what was measured.
        few: steps up to the last points, where there are as many points.
        last: so many of them.

    Returns:
        u in each step, (runs, steps); the length of each times how many there are, (steps,); and the matrix
        (steps + 1, points) that takes values at the start and at the ends of steps to those at the points.
    """
    mean, shares, lookup = _steps_over(runs.rates.shape[1], few, last)
    return (runs.rates.exp() @ mean).log(), shares * runs.span, lookup


@lru_cache
def _steps_over(points: int, few: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of so many points: what takes rates to their means in each step, (points, steps), and the rest."""
    before = points - last
    nodes = np.ceil(before * np.linspace(0, 1, few + 1) ** 1.5).astype(np.int64)
    nodes = np.unique([*nodes, *range(before, points + 1)])
    lengths = np.diff(nodes)
    steps = np.repeat(np.arange(len(lengths)), lengths)
    mean = (steps[:, None] == np.arange(len(lengths))) / lengths
    lookup = np.array([np.interp(np.arange(1, points + 1), nodes, node) for node in np.eye(len(nodes))])
    mean, shares, lookup = (
        torch.tensor(of, dtype=torch.float32) for of in (mean, lengths / points * len(lengths), lookup)
    )
    return mean, shares, lookup

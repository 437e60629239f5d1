"""The published model, LC-GODE (arXiv 2412.15554), as its paper, supplement and code describe it: to compare with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torchdiffeq import odeint

from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.model.encoders import GraphEncoder, graphs_of
from planners.forecaster.model.network import Sizes
from planners.latent_ode.model.layers import GRU, Linear, Members, generators

LATENT = 16
"""Size of the state, and of what is made of the graph."""

EPOCHS = 150
"""Passes over the curves, as in the code; the supplement has 400, at the end of which the rate is 0."""

BATCH, RATE, DECAY = 40, 1e-3, 0.999
"""Curves in a batch, rate of Adam, and its factor after each batch."""

_FIRST = 5000.0
"""Weight of the squared error of the first point that is forecast."""

_NOISE = 0.05
"""Standard deviation of the observations."""

_RAMP = 100
"""Batches until the divergence has its whole weight."""

_TOLERANCE = 1e-3
"""Relative and absolute tolerance of the solver."""

_SAMPLES = 8
"""Paths by which the spread of a forecast is told."""


class PublishedODE(Members):
    """dz/dt = MLP([z, g]), with g from the graph and the first state from a GRU over the points seen.

    Values are not scaled, and neither settings nor rates are read. Time is the share of the budget. What differs: the
    sequence encoder is the GRU of the paper's figure, for the one in the code is missing there; each dimension of the
    first state has noise of its own; and time is not random.
    """

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.sizes = sizes
        draws = generators(sizes.members, seed)
        self.graph = GraphEncoder("paper", draws, LATENT)
        self.gru, self.moments = GRU(draws, 2, 2 * LATENT), Linear(draws, 2 * LATENT, 2 * LATENT)
        self.field_1, self.field_2 = Linear(draws, 2 * LATENT, 64), Linear(draws, 64, LATENT)
        self.read = Linear(draws, LATENT, 1)
        with torch.no_grad():
            self.field_2.weight.zero_()

    def first_state(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the first state, (members, batch, LATENT) each.

        Args:
            points: values and times of the points seen, (members, batch, points, 2).
            mask: which of them are there; these come first.
        """
        return self.moments(self.gru(points, mask)).chunk(2, -1)  # type: ignore[return-value] (a tuple of two)

    def path(self, state: Tensor, graph: Tensor, times: Tensor) -> Tensor:
        """Values at some times, (members, batch, times), of a state at the first of them.

        Args:
            state: (members, batch, LATENT).
            graph: (members, batch, LATENT).
            times: rising, (times,).
        """

        def field(_: Tensor, z: Tensor) -> Tensor:
            return self.field_2(gelu(self.field_1(torch.cat([z, graph], -1))))

        path = odeint(field, state, times, rtol=_TOLERANCE, atol=_TOLERANCE, method="dopri5")
        assert isinstance(path, Tensor)
        return self.read(path.movedim(0, 2))[..., 0]


class _Runs:
    """Curves as tensors, as the published model reads them."""

    def __init__(self, curves: CurveSet, points: int) -> None:
        seen = curves.seen(points).values[:, :points]
        there = np.isfinite(seen)
        order = np.argsort(~there, axis=1, kind="stable")
        value = np.take_along_axis(np.where(there, seen, 0.0), order, 1)
        time = np.take_along_axis(np.broadcast_to(np.arange(points) / (POINTS - 1), seen.shape), order, 1)
        self.mask = torch.from_numpy(np.take_along_axis(there, order, 1))
        self.points = torch.tensor(np.stack([value, time], -1), dtype=torch.float32)
        self.targets = torch.tensor(curves.values[:, points:], dtype=torch.float32)
        self.times = torch.arange(points, POINTS) / (POINTS - 1)
        self.graphs = graphs_of(curves.architectures)
        self.network = torch.tensor(curves.graph_index)

    def of(self, network: PublishedODE, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of the first states, and what is made of the graphs, of rows (members, batch)."""
        mean, log_variance = network.first_state(self.points[rows], self.mask[rows])
        return mean, log_variance, network.graph(self.graphs[self.network[rows]])


def train(
    network: PublishedODE,
    curves: CurveSet,
    points: int,
    random: torch.Generator,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train all members.

    Args:
        network: is changed.
        curves: whole curves.
        points: number of points seen.
        random: draws batches and first states.
        after_epoch: called after each.
    """
    runs, members = _Runs(curves, points), network.sizes.members
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    ends = curves.last_seen(points)[1]
    prior_mean, prior_variance = float(np.nanmean(curves.values)), float(np.nanvar(ends)) / 2 + 1e-6
    batches = 0
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(len(curves), generator=random) for _ in range(members)])
        for rows in order.split(BATCH, dim=1):
            mean, log_variance, graph = runs.of(network, rows)
            noise = torch.randn(mean.shape, generator=random)
            forecast = network.path(mean + (log_variance / 2).exp() * noise, graph, runs.times)
            target = runs.targets[rows]
            there = torch.isfinite(target)
            square = torch.where(there, forecast - torch.where(there, target, 0.0), 0.0) ** 2
            likelihood = (square / (2 * _NOISE**2)).sum(-1).mean(-1)
            divergence = 0.5 * (
                (log_variance.exp() + (mean - prior_mean) ** 2) / prior_variance
                - 1
                - log_variance
                + np.log(prior_variance)
            ).sum(-1).mean(-1)
            weight = min(1.0, batches / _RAMP)
            loss = _FIRST * square[..., 0].mean(-1) + likelihood + weight * divergence
            optimizer.zero_grad()
            loss.sum().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1e4)  # a guard against overflow, not of the paper
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= DECAY
            batches += 1
        after_epoch()


@torch.no_grad()
def errors(network: PublishedODE, curves: CurveSet, points: int) -> Tensor:
    """Mean absolute percentage error of each member, (members,)."""
    runs, members = _Runs(curves, points), network.sizes.members
    mean, _, graph = runs.of(network, torch.arange(len(curves))[None].expand(members, -1))
    return (network.path(mean, graph, runs.times) / runs.targets - 1).abs().nanmean((1, 2))


@torch.no_grad()
def forecast(network: PublishedODE, curves: CurveSet, points: int) -> tuple[Floats, Floats]:
    """Medians, (curves, POINTS), and spreads as log ratios below and above, (2, curves, POINTS).

    The median is that of the mean first state, and over members; the spread is that of paths of drawn first states.
    """
    runs, members = _Runs(curves, points), network.sizes.members
    rows = torch.arange(len(curves))[None].expand(members, -1)
    mean, log_variance, graph = runs.of(network, rows)
    middle = network.path(mean, graph, runs.times)
    random = torch.Generator().manual_seed(0)
    deviation = (log_variance / 2).exp()
    paths = torch.stack(
        [
            network.path(mean + deviation * torch.randn(mean.shape, generator=random), graph, runs.times)
            for _ in range(_SAMPLES)
        ]
    )
    median = middle.median(0).values.clamp_min(1e-3)
    spread = torch.log1p((paths.std((0, 1)) + _NOISE) / median)
    full = np.full((len(curves), POINTS), np.nan)
    medians, spreads = full.copy(), full
    medians[:, points:], spreads[:, points:] = median.double().numpy(), spread.double().numpy()
    return medians, np.stack([spreads, spreads])

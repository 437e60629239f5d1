"""Fitting the published model: windows are encoded, whole runs are decoded, the rate among what is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners.latent_ode.data.batches import scaled, scales_of
from planners.latent_ode.data.dataset import LOSS, Floats, Series
from planners.latent_ode.model.dynamics import Scales
from planners.latent_ode.model.early_stopping import Descent, Progress, path_length
from planners.latent_ode.model.generative import OUTPUTS, Generative, GenerativeSizes

SHORTEST = 5
"""Points of a window at least, as in the published code."""

HELD_OUT = 5
"""One run in so many stops the fit early."""


@dataclass(frozen=True)
class GenerativeFitting:
    """How it is fitted; what the published code leaves open is as in its library's example.

    Attributes:
        sizes: of the model.
        iterations: updates.
        batch: windows in an update.
        learning_rate: of Adam at its peak: up for a tenth, then down by a cosine.
        path_penalty: weight of the length of latent paths (alpha).
        nodes: times of a run at which what is decoded is compared.
        looks: times that the runs held out are looked at.
        seed: of everything that is drawn.
    """

    sizes: GenerativeSizes = field(default_factory=GenerativeSizes)
    iterations: int = 1500
    batch: int = 64
    learning_rate: float = 1e-2
    path_penalty: float = 0.01
    nodes: int = 50
    looks: int = 15
    seed: int = 0


@dataclass(frozen=True, eq=False)
class GenerativelyFitted:
    """A model and what is known of its fit.

    Attributes:
        model: as it was when it did best on the runs held out.
        scales: what it was fitted with.
        held_out: numbers of those runs.
        history: see `planners.latent_ode.model.early_stopping.Descent`.
    """

    model: Generative
    scales: Scales
    held_out: NDArray[np.int64]
    history: tuple[tuple[str, int, float, float], ...]


class Curves:
    """Runs as the model has them.

    Args:
        series: the runs.
        scales: their scales.
        nodes: evenly spaced times of a run, the last its end, at which `targets` are.

    Attributes:
        tokens: of each point, (runs, points, 1 + OUTPUTS): time as a share of a run, `OUTPUTS`; 0 where missing.
        targets: `OUTPUTS` at the nodes, (runs, nodes, OUTPUTS); NaN where not known, and beyond the end of a run.
        times: of the nodes, (nodes,).
        lengths: points of each run, (runs,).
    """

    def __init__(self, series: Series, scales: Scales, nodes: int) -> None:
        outputs = np.concatenate([scaled(series.values, scales), np.log(series.lr)[..., None] - scales.log_rate], -1)
        share = series.steps / scales.budget
        self.tokens = torch.tensor(np.concatenate([share[..., None], np.nan_to_num(outputs)], -1), dtype=torch.float32)
        times = (np.arange(nodes) + 1) / nodes
        targets = np.full((len(series), nodes, len(OUTPUTS)), np.nan)
        for row, count in enumerate(series.lengths):
            within = times <= share[row, count - 1] + 1e-9
            for output in range(len(OUTPUTS)):
                known = np.isfinite(outputs[row, :count, output])
                if known.any():
                    seen = share[row, :count][known], outputs[row, :count, output][known]
                    targets[row, within, output] = np.interp(times[within], *seen)
        self.targets = torch.tensor(targets, dtype=torch.float32)
        self.times = torch.tensor(times, dtype=torch.float32)
        self.lengths = torch.tensor(series.lengths)

    def windows(self, rows: Tensor, now: Tensor, lengths: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Tokens (1, batch, window, ...), last point first, and how many are there, (1, batch).

        Args:
            rows: runs, (batch,).
            now: points before the present, (batch,).
            lengths: points that are read, (batch,), at most the window.
            window: of the model.
        """
        points = (now[:, None] - 1 - torch.arange(window)).clamp(min=0)
        return self.tokens[rows[:, None], points][None], torch.minimum(lengths, now)[None]


def fit_generative(series: Series, fitting: GenerativeFitting, progress: Progress | None = None) -> GenerativelyFitted:
    """Fit the published model.

    Random windows of random runs are encoded, and each is scored on its whole run (window augmentation).

    Args:
        series: the runs; how much they count is not asked, as in the published code.
        fitting: how.
        progress: told of iterations.

    Raises:
        UserError: the fit diverged.
    """
    scales = scales_of(series)
    curves = Curves(series, scales, fitting.nodes)
    draw = torch.Generator().manual_seed(fitting.seed)
    order = torch.randperm(len(series), generator=draw)
    held, own = order[::HELD_OUT], order[torch.arange(len(order)) % HELD_OUT > 0]
    model = Generative(fitting.sizes, fitting.seed)
    window = fitting.sizes.window

    def loss(rows: Tensor, now: Tensor, lengths: Tensor) -> Tensor:
        code = model.encode(*curves.windows(rows, now, lengths, window))
        path = model.path(code, torch.cat([torch.zeros(1), curves.times]))
        wanted = curves.targets[rows]
        known = torch.isfinite(wanted)
        wrong = torch.where(known, model.read_out(path[:, :, 1:])[0] - torch.nan_to_num(wanted), 0.0)
        found = ((wrong**2).sum() / known.sum().clamp(min=1))[None]
        if fitting.path_penalty:
            found = found + fitting.path_penalty * path_length(model.to_latent(path))
        return found

    def drawn() -> Tensor:
        rows = own[torch.randint(len(own), (fitting.batch,), generator=draw)]
        lengths = torch.randint(SHORTEST, max(window, SHORTEST) + 1, rows.shape, generator=draw)
        now = 1 + (torch.rand(rows.shape, generator=draw) * (curves.lengths[rows] - 1)).long()
        return loss(rows, now.maximum(lengths.minimum(curves.lengths[rows])), lengths)

    shares = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.7])
    rows = held.repeat_interleave(len(shares))
    now = (curves.lengths[held][:, None] * shares).long().clamp(min=1).flatten()
    descent = Descent(model, 0.0, fitting.looks, progress or (lambda count: None))
    descent.run(
        "generative",
        fitting.iterations,
        fitting.learning_rate,
        list(model.parameters()),
        drawn,
        lambda: loss(rows, now, torch.full_like(now, window)),
    )
    return GenerativelyFitted(model.eval(), scales, held.numpy(), tuple(descent.history))


@torch.no_grad()
def decoded(model: Generative, curves: Curves, share: float) -> Tensor:
    """`OUTPUTS` at the nodes of whole runs, (runs, nodes, OUTPUTS), of windows that end at a share of them."""
    rows = torch.arange(len(curves.lengths))
    now = (curves.lengths * share).long().clamp(min=1)
    code = model.encode(*curves.windows(rows, now, torch.full_like(now, model.sizes.window), model.sizes.window))
    return model.read_out(model.path(code, torch.cat([torch.zeros(1), curves.times]))[:, :, 1:])[0]


def decoded_final(model: Generative, curves: Curves, scales: Scales, shares: Sequence[float]) -> Floats:
    """Logs of validation losses at the ends of runs as they are decoded, (shares, runs)."""
    ends = [decoded(model, curves, share)[:, -1, LOSS].double().numpy() for share in shares]
    return np.stack(ends) * scales.deviations[LOSS] + scales.means[LOSS]

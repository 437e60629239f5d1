"""Fitting of the published model: windows of runs are encoded, and decoded to whole runs with their rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.data.dataset import RunDataset
from planners.latent_ode.data.scaling import Scales, scaled, scales_of
from planners.latent_ode.model.early_stopping import EarlyStoppedTrainer, LossHistory, path_length
from planners.latent_ode.model.generative import OUTPUTS, Generative, GenerativeSizes

MIN_WINDOW = 5
"""Fewest points of a window, as in the published code."""

HOLD_OUT_EVERY = 5
"""One run in so many is held out for early stopping."""


@dataclass(frozen=True)
class GenerativeFitting:
    """Settings of the fit; what the published code leaves open is as in the example of its library.

    Attributes:
        sizes: sizes of the model.
        iterations: updates.
        batch: windows in an update.
        learning_rate: peak rate of Adam; it rises for a tenth of the iterations, then falls by a cosine.
        path_penalty: weight of the length of latent paths (alpha in the paper).
        nodes: evenly spaced times of a run at which the loss compares it with what was decoded.
        looks: how often the loss on held-out runs is computed.
        seed: seed of everything that is drawn.
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
class FittedGenerative:
    """The result of a fit.

    Attributes:
        model: the model with the weights that were best on the held-out runs.
        scales: how its inputs and outputs are scaled.
        held_out: indices of the held-out runs.
        history: losses during the fit.
    """

    model: Generative
    scales: Scales
    held_out: NDArray[np.int64]
    history: LossHistory


class CurveTensors:
    """Runs as the model reads and decodes them.

    Attributes:
        points: each point, (runs, points, 1 + OUTPUTS): time as a share of a run, then `OUTPUTS`; 0 where missing.
        targets: `OUTPUTS` at the nodes, (runs, nodes, OUTPUTS); NaN where missing, and after the end of a run.
        times: evenly spaced times of a run, the nodes; the last is its end, (nodes,).
        lengths: number of points of each run, (runs,).
    """

    def __init__(self, dataset: RunDataset, scales: Scales, nodes: int) -> None:
        outputs = np.concatenate([scaled(dataset.values, scales), np.log(dataset.lr)[..., None] - scales.log_rate], -1)
        share = dataset.steps / scales.budget
        self.points = torch.tensor(np.concatenate([share[..., None], np.nan_to_num(outputs)], -1), dtype=torch.float32)
        times = (np.arange(nodes) + 1) / nodes
        targets = np.full((len(dataset), nodes, len(OUTPUTS)), np.nan)
        for row, count in enumerate(dataset.lengths):
            within = times <= share[row, count - 1] + 1e-9
            for output in range(len(OUTPUTS)):
                finite = np.isfinite(outputs[row, :count, output])
                if finite.any():
                    curve = share[row, :count][finite], outputs[row, :count, output][finite]
                    targets[row, within, output] = np.interp(times[within], *curve)
        self.targets = torch.tensor(targets, dtype=torch.float32)
        self.times = torch.tensor(times, dtype=torch.float32)
        self.lengths = torch.tensor(dataset.lengths)

    def windows(self, rows: Tensor, now: Tensor, lengths: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Cut out windows, last point first, (1, batch, window, 1 + OUTPUTS), and count their points, (1, batch).

        Args:
            rows: indices of runs, (batch,).
            now: number of points so far, (batch,).
            lengths: number of points to read, (batch,), at most the window.
            window: largest number of points that the model reads.
        """
        points = (now[:, None] - 1 - torch.arange(window)).clamp(min=0)
        return self.points[rows[:, None], points][None], torch.minimum(lengths, now)[None]


def fit_generative(dataset: RunDataset, fitting: GenerativeFitting) -> FittedGenerative:
    """Fit the published model: random windows of random runs are encoded, and scored on the whole run.

    The weights of the runs are not used, as in the published code.

    Raises:
        UserError: the fit diverged.
    """
    scales = scales_of(dataset)
    curves = CurveTensors(dataset, scales, fitting.nodes)
    draw = torch.Generator().manual_seed(fitting.seed)
    order = torch.randperm(len(dataset), generator=draw)
    held_out, fitted_to = order[::HOLD_OUT_EVERY], order[torch.arange(len(order)) % HOLD_OUT_EVERY > 0]
    model = Generative(fitting.sizes, fitting.seed)
    window = fitting.sizes.window

    def loss(rows: Tensor, now: Tensor, lengths: Tensor) -> Tensor:
        code = model.encode(*curves.windows(rows, now, lengths, window))
        path = model.path(code, torch.cat([torch.zeros(1), curves.times]))
        targets = curves.targets[rows]
        finite = torch.isfinite(targets)
        errors = torch.where(finite, model.read_out(path[:, :, 1:])[0] - torch.nan_to_num(targets), 0.0)
        total = ((errors**2).sum() / finite.sum().clamp(min=1))[None]
        if fitting.path_penalty:
            total = total + fitting.path_penalty * path_length(model.to_latent(path))
        return total

    def training_loss() -> Tensor:
        rows = fitted_to[torch.randint(len(fitted_to), (fitting.batch,), generator=draw)]
        lengths = torch.randint(MIN_WINDOW, max(window, MIN_WINDOW) + 1, rows.shape, generator=draw)
        now = 1 + (torch.rand(rows.shape, generator=draw) * (curves.lengths[rows] - 1)).long()
        return loss(rows, now.maximum(lengths.minimum(curves.lengths[rows])), lengths)

    shares = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.7])
    rows = held_out.repeat_interleave(len(shares))
    now = (curves.lengths[held_out][:, None] * shares).long().clamp(min=1).flatten()
    trainer = EarlyStoppedTrainer(model, 0.0, fitting.looks)
    trainer.run(
        "generative",
        fitting.iterations,
        fitting.learning_rate,
        list(model.parameters()),
        training_loss,
        lambda: loss(rows, now, torch.full_like(now, window)),
    )
    return FittedGenerative(model.eval(), scales, held_out.numpy(), tuple(trainer.history))


@torch.no_grad()
def decode_runs(model: Generative, curves: CurveTensors, elapsed: float) -> Tensor:
    """Encode the windows that end at a share of each run, and decode whole runs, (runs, nodes, OUTPUTS)."""
    rows = torch.arange(len(curves.lengths))
    now = (curves.lengths * elapsed).long().clamp(min=1)
    code = model.encode(*curves.windows(rows, now, torch.full_like(now, model.sizes.window), model.sizes.window))
    return model.read_out(model.path(code, torch.cat([torch.zeros(1), curves.times]))[:, :, 1:])[0]


def decode_final_losses(model: Generative, curves: CurveTensors, scales: Scales, elapsed: Sequence[float]) -> Floats:
    """Forecast the log validation loss at the end of runs after each share of them, (shares, runs)."""
    ends = [decode_runs(model, curves, share)[:, -1, LOSS].double().numpy() for share in elapsed]
    return scales.log_loss(np.stack(ends))

"""What the published planner does with its model: draw futures, keep those that agree with the present, average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from planners.latent_ode.generative_model import RATE, Generative
from planners.latent_ode.series import CHANNELS, Floats

TRAIN, SCORE = CHANNELS.index("train_loss"), CHANNELS.index("val_accuracy")


@dataclass(frozen=True)
class Accepting:
    """Algorithm 1 of arXiv:2509.23052, with the defaults of its code.

    Attributes:
        samples: perturbed codes, beside the code itself.
        sigma: standard deviation of a perturbation, as a share of each coordinate's size.
        tolerance: standard deviations of the last `recent` losses by which a future's loss may differ from their mean.
        two_sided: False: any lower loss is accepted, as the published code does.
        recent: last losses that a future is held against.
        best: accepted futures whose rates are averaged.
        reach: runs that a path is decoded over: a plan may start late on a path and still lasts to the end of the run.
    """

    samples: int = 30
    sigma: float = 0.15
    tolerance: float = 2.0
    two_sided: bool = True
    recent: int = 3
    best: int = 3
    reach: float = 2.0


@dataclass(frozen=True, eq=False)
class Futures:
    """What was considered for one run.

    Attributes:
        decoded: outputs of each future, unscaled by nobody, (samples + 1, times, outputs).
        starts: the time at which each future would be taken up, (samples + 1,); -1 where it was not accepted.
        rewards: predicted score at the horizon, (samples + 1,); -inf where it was not accepted.
        chosen: numbers of those that were averaged.
        plan: u for each segment that is left, (left,); None where nothing was accepted.
    """

    decoded: Floats
    starts: Floats
    rewards: Floats
    chosen: NDArray[np.int64]
    plan: Floats | None


def considered(
    model: Generative,
    code: torch.Tensor,
    losses: Floats,
    left: int,
    horizon: int,
    points: int,
    noise: Floats,
    settings: Accepting,
) -> Futures:
    """Futures of one run and the plan made of them.

    Args:
        model: the model; its first member is used.
        code: latent code of the run's window, (width,).
        losses: its last training losses as the model sees them (scaled log), (recent,).
        left: segments left.
        horizon: segments from now at whose end the score counts, at most `left`.
        points: segments of a whole run.
        noise: standard normal, (samples, width).
        settings: of the algorithm.
    """
    spread = torch.as_tensor(noise, dtype=code.dtype) * code.abs() * settings.sigma
    codes = torch.cat([code[None], code[None] + spread])
    times = torch.arange(int(settings.reach * points), dtype=code.dtype) / points
    with torch.no_grad():
        decoded = model.decode(codes[None], times)[0].numpy().astype(np.float64)
    middle, width = float(np.mean(losses)), settings.tolerance * float(np.std(losses))
    off = decoded[:, :points, TRAIN] - middle
    near = (np.abs(off) if settings.two_sided else off) < width
    # A plan must not leave the grid that was decoded.
    near &= np.arange(points) + left <= decoded.shape[1]
    rates = np.where(near, decoded[:, :points, RATE], -np.inf)
    starts = np.where(near.any(1), rates.argmax(1), -1)
    at = np.minimum(starts + horizon, decoded.shape[1] - 1)
    rewards = np.where(starts >= 0, decoded[np.arange(len(at)), at, SCORE], -np.inf)
    order = np.argsort(-rewards, kind="stable")[: settings.best]
    chosen = order[rewards[order] > -np.inf]
    plan = None
    if len(chosen):
        rows = [decoded[number, starts[number] : starts[number] + left, RATE] for number in chosen]
        plan = np.log(np.mean(np.exp(rows), axis=0))
    return Futures(decoded, starts, rewards, chosen, plan)

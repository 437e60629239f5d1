"""Innovations: differences between what was measured of runs and what the dynamics forecast from their rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INNOVATION_CLIP = 10.0
"""Innovations are clipped to so many standard deviations of the sweep."""


def innovation_features(time: Tensor, rates: Tensor, measured: Tensor, forecast: Tensor) -> Tensor:
    """Put together what a correction reads of points, (..., NUM_FEATURES); a missing measurement has innovation 0.

    Args:
        time: time as a share of a run, (...).
        rates: u (log rate less a constant), (...).
        measured: scaled channels as measured, (..., channels).
        forecast: scaled channels as the dynamics forecast them, (..., channels).
    """
    innovation = torch.nan_to_num(measured - forecast, nan=0.0, posinf=INNOVATION_CLIP, neginf=-INNOVATION_CLIP)
    innovation = innovation.clamp(-INNOVATION_CLIP, INNOVATION_CLIP)
    return torch.cat([time[..., None], rates[..., None], innovation], dim=-1)


@dataclass(frozen=True)
class History:
    """Forecasts of whole runs from their rates, by the dynamics, and the innovations along the way.

    Attributes:
        states: forecast states at the start and at each point, (members, runs, points + 1, latent).
        features: innovation features of each point, (members, runs, points, NUM_FEATURES).
        lengths: number of points of each run, (runs,).
        window: most recent points that a correction reads.
    """

    states: Tensor
    features: Tensor
    lengths: Tensor
    window: int

    def at(self, rows: Tensor, now: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arguments of `Ensemble.correct` for some runs at some times.

        Args:
            rows: indices of runs, (members, batch).
            now: number of points so far, (members, batch).
            lengths: number of points to read, (members, batch), at most the window; None: as many as there are.
        """
        members = torch.arange(len(self.states))[:, None]
        points = (now[..., None] - 1 - torch.arange(self.window)).clamp(min=0)
        valid = now.clamp(max=self.window) if lengths is None else torch.minimum(lengths, now)
        return self.states[members, rows, now], self.features[members[..., None], rows[..., None], points], valid

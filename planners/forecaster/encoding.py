"""What a model reads of a set of curves, as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_env.errors import find
from planners.forecaster.curves import CurveSet, Floats
from planners.forecaster.model.encoders import ENCODERS, Graphs, graphs_of
from planners.forecaster.settings import Scaler, rate_settings, summaries
from planners.forecaster.times import TIMES
from planners.forecaster.window import log_ratios, scale_of, window

_LOWEST_RATE = -9.0
"""Smallest log of rate / peak rate that is told from lower ones."""


@dataclass(frozen=True)
class Encoding:
    """How runs are described to a model.

    Attributes:
        settings: scaler of the settings.
        summary: scaler of what is read off the architecture; None where the model does not read it.
        graphs: whether the model reads the graph of the architecture.
    """

    settings: Scaler
    summary: Scaler | None
    graphs: bool = False

    @classmethod
    def of(cls, train: CurveSet, *, settings: bool = True, encoder: str = "summary") -> Encoding:
        """The encoding that suits the runs which a model is fitted to; `encoder` is one of `ENCODERS`."""
        find("encoder", encoder, dict.fromkeys(ENCODERS))
        summary = Scaler.of(summaries(train)) if encoder.startswith("summary") else None
        return cls(Scaler.of(rate_settings(train) if settings else {}), summary, encoder not in ("summary", "none"))

    @property
    def size(self) -> int:
        """Numbers that describe a run."""
        return 2 * len(self.settings.names) + (len(self.summary.names) if self.summary else 0) + 1

    def known(self, curves: CurveSet) -> Floats:
        """Numbers that describe the runs, (curves, size).

        They are the settings, which of them are known, the summary, and whether that is known.
        """
        parts = [*self.settings(rate_settings(curves), len(curves))]
        if self.summary is not None:
            parts.append(self.summary(summaries(curves), len(curves))[0])
        is_known = (curves.network >= 0) & (self.summary is not None or self.graphs)
        parts.append(is_known[:, None].astype(np.float64))
        return np.concatenate(parts, 1)

    def beyond(self, curves: CurveSet) -> list[str]:
        """What of the first run lies beyond what the model was fitted to."""
        found = self.settings.beyond(rate_settings(curves))
        return found + (self.summary.beyond(summaries(curves)) if self.summary else [])

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        summary = self.summary and self.summary.to_json()
        return {"settings": self.settings.to_json(), "summary": summary, "graphs": self.graphs}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Encoding:
        """What `to_json` gave."""
        return cls(
            Scaler.from_json(saved["settings"]),
            saved["summary"] and Scaler.from_json(saved["summary"]),
            saved["graphs"],
        )


@dataclass(frozen=True)
class Encoded:
    """Runs as tensors, each as seen after several numbers of points.

    Attributes:
        known: (curves, known).
        rates: log of rate / peak, in units of 3, (curves, POINTS).
        windows: (views, curves, FEATURES).
        starts: time of the last point seen, (views, curves).
        targets: log ratio to the last value seen, (views, curves, POINTS); NaN where it was seen or not measured.
        valid: whether a run can be forecast from a view: it has points seen or a reference, (views, curves).
        graphs: the architectures, and an empty one, where they are read.
        network: index of each run's among them, (curves,).
    """

    known: Tensor
    rates: Tensor
    windows: Tensor
    starts: Tensor
    targets: Tensor
    valid: Tensor
    graphs: Graphs | None
    network: Tensor


def encode(encoding: Encoding, curves: CurveSet, views: Sequence[int]) -> Encoded:
    """Encode runs as seen after each number of points in `views`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.log(
            np.maximum(curves.rates, 1e-300)
            / np.nanmax(np.where(np.isfinite(curves.rates), curves.rates, 0), 1)[:, None]
        )
    relative = np.where(np.isfinite(relative), np.clip(relative, _LOWEST_RATE, 0), 0.0) / 3
    windows, starts, targets, valid = [], [], [], []
    for points in views:
        seen = curves.seen(points)
        index, _ = seen.last_seen(points)
        scale = scale_of(seen, points)
        windows.append(window(seen, points))
        starts.append(np.where(index > 0, TIMES[np.maximum(index, 0)], 0.0))
        ratio = log_ratios(curves.values, scale)
        ratio[:, :points] = np.nan
        targets.append(ratio)
        valid.append(np.isfinite(scale) & ((index >= 1) | (points == 0)))
    to = lambda array: torch.tensor(np.array(array), dtype=torch.float32)  # noqa: E731
    return Encoded(
        to(encoding.known(curves)),
        to(relative),
        to(windows),
        to(starts),
        to(targets),
        torch.tensor(np.array(valid)),
        graphs_of(curves.architectures) if encoding.graphs else None,
        torch.tensor(curves.graph_index),
    )

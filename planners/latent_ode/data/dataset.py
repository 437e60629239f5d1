"""The runs of a sweep as arrays: what a model of training is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from planners.latent_ode.channels import CHANNELS, LOSS, Floats, channel

MIN_RUNS = 10
"""Fewest runs that a model can be fitted to."""

CENSOR_SHARE = 0.08
"""Distance of the censoring threshold from the best final log losses, as a share of the fall of the log loss from the
first point of a run to the best ends."""

MIN_WEIGHT = 0.003
"""Weight of the curves of a run that diverged."""


@dataclass(frozen=True, eq=False)
class RunDataset:
    """Runs of one task with one point a segment; shorter runs are padded.

    Attributes:
        steps: optimizer steps done at each point, (runs, points); padded with the last step of the run.
        lr: mean learning rate since the point before, (runs, points).
        values: the `CHANNELS` at each point, (runs, points, channels); NaN where missing.
        final: log loss on the whole validation split at the end of each run, (runs,); NaN where not measured.
        lengths: number of points of each run, (runs,).
        budget: optimizer steps of a whole run.
        labels: planner and settings of each run, as one text.
        weights: weight of each run's curves in a fit, (runs,), from `run_weights`.
        censoring_threshold: final log loss above which ends are right-censored, from the function of that name.
        diverged: which runs diverged, (runs,). They end where their loss was last finite.
        seeds: seed of each child, (runs,).
        targets: what a fit compares forecasts with, where curves were measured too rarely to compare them point by
            point: `values` with their gaps filled. None: `values` themselves.
    """

    steps: Floats
    lr: Floats
    values: Floats
    final: Floats
    lengths: NDArray[np.int64]
    budget: int
    labels: tuple[str, ...]
    weights: Floats
    censoring_threshold: float
    diverged: NDArray[np.bool_]
    seeds: NDArray[np.int64]
    targets: Floats | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> RunDataset:
        """Return some of the runs; weights and threshold stay as they are."""
        arrays = ["steps", "lr", "values", "final", "lengths", "weights", "diverged", "seeds"]
        arrays += [] if self.targets is None else ["targets"]
        selected: dict[str, Any] = {name: getattr(self, name)[np.asarray(rows, dtype=np.int64)] for name in arrays}
        return replace(self, labels=tuple(self.labels[row] for row in rows), **selected)

    @property
    def cumulative(self) -> Floats:
        """Sum of rate times steps up to the start and up to each point, (runs, points + 1)."""
        steps = np.diff(self.steps, axis=1, prepend=0.0)
        return np.concatenate([np.zeros((len(self), 1)), np.cumsum(self.lr * steps, axis=1)], axis=1)


def run_dataset(records: Sequence[RunRecord], budget: int) -> RunDataset:
    """Convert records to arrays.

    A run that diverged ends where its validation loss was last finite, and has no final loss. Its curves have the least
    weight, for a model that has to describe wild runs describes good ones worse.

    Args:
        records: runs of one task with their curves; values that are missing become NaN.
        budget: optimizer steps of a whole run.

    Raises:
        UserError: a run has no rates, steps or validation loss, or is longer than the budget; fewer than 10 runs are
            usable, or fewer than 5 of them did not diverge.
    """
    usable, lengths = [], []
    for record in records:
        if problem := _problem_with(record, budget):
            raise UserError(f"a run of {record.planner} (seed {record.seed}) {problem}, or leave the run out")
        count = max(_finite_points(record), 1) if record.diverged else len(record.curves["lr"])
        if count >= 2 or record.diverged:
            usable.append(record)
            lengths.append(count)
    completed = sum(not record.diverged for record in usable)
    if len(usable) < MIN_RUNS or completed < MIN_RUNS // 2:
        raise UserError(
            f"{len(usable)} usable runs of {len(records)}, of which {completed} did not diverge: a model needs at "
            f"least {MIN_RUNS} of two points or more, and {MIN_RUNS // 2} that did not diverge"
        )
    shape = len(usable), max(lengths)
    steps, lr, values = np.zeros(shape), np.zeros(shape), np.full((*shape, len(CHANNELS)), np.nan)
    for row, (record, count) in enumerate(zip(usable, lengths, strict=True)):
        for padded, name in ((steps, "step"), (lr, "lr")):
            padded[row, :count] = record.curves[name][:count]
            padded[row, count:] = record.curves[name][count - 1]
        for number, name in enumerate(CHANNELS):
            if name in record.curves:
                values[row, :count, number] = channel(name, np.asarray(record.curves[name][:count], dtype=np.float64))
    diverged = np.array([record.diverged for record in usable])
    final = np.array([record.scores.get("final_val_loss", np.nan) for record in usable])
    final = np.where(diverged, np.nan, channel("val_loss", final))
    first, ends = _finite_value(values[..., LOSS], 0), end_losses(final, values)
    return RunDataset(
        steps,
        lr,
        values,
        final,
        np.array(lengths),
        budget,
        tuple(f"{record.planner} {dict(record.settings)}" for record in usable),
        run_weights(ends, first, diverged),
        censoring_threshold(ends, first, diverged),
        diverged,
        np.array([record.seed for record in usable], dtype=np.int64),
    )


def end_losses(final: Floats, values: Floats) -> Floats:
    """Return the final log loss of each run, or the last one on its curve where that was not measured, (runs,)."""
    return np.where(np.isfinite(final), final, _finite_value(values[..., LOSS], -1))


def run_weights(ends: Floats, first: Floats, diverged: NDArray[np.bool_]) -> Floats:
    """Weigh the curves of runs by how well the runs ended, (runs,).

    The weight is about 1 for the best runs, 0.5 at the censoring threshold, and `MIN_WEIGHT` for runs that diverged.

    Args:
        ends: log losses at the end, (runs,).
        first: log losses at the first point, (runs,).
        diverged: which runs diverged, (runs,).
    """
    if diverged.all():
        return np.full_like(ends, MIN_WEIGHT)
    best = _best(ends, diverged)
    above = np.nan_to_num(np.maximum(ends - best, 0), nan=np.inf)
    weights = 1 / (1 + (above / (censoring_threshold(ends, first, diverged) - best)) ** 2)
    return np.where(diverged, MIN_WEIGHT, np.maximum(weights, MIN_WEIGHT))


def censoring_threshold(ends: Floats, first: Floats, diverged: NDArray[np.bool_]) -> float:
    """Return the final log loss above which ends are right-censored; the arguments are those of `run_weights`.

    From a run that ended above it, or diverged, a model learns only that it did, not by how much. To give the end of
    such a run less weight instead would make rates look good that were lucky once.
    """
    if diverged.all():
        return np.inf
    best = _best(ends, diverged)
    return best + CENSOR_SHARE * max(float(np.nanmedian(first) - best), 1e-9)


def _best(ends: Floats, diverged: NDArray[np.bool_]) -> float:
    return float(np.nanquantile(ends[~diverged], 0.1))


def _finite_value(losses: Floats, index: int) -> Floats:
    """Return the first (0) or the last (-1) finite value of each run, (runs,); NaN where there is none."""
    finite = [values[np.isfinite(values)] for values in losses]
    return np.array([values[index] if len(values) else np.nan for values in finite])


def _finite_points(record: RunRecord) -> int:
    """Count the points before the first one whose validation loss is not finite."""
    finite = np.isfinite(np.asarray(record.curves.get("val_loss", []), dtype=np.float64))
    return int(np.argmin(np.append(finite, False)))


def _problem_with(record: RunRecord, budget: int) -> str:
    """Say why a run's curves cannot be used and what would help; empty if they can."""
    curves = {name: np.asarray(values, dtype=np.float64) for name, values in record.curves.items()}
    none = np.array([])
    lr, step, losses = (curves.get(name, none) for name in ("lr", "step", "val_loss"))
    if not (lr.size and np.all(np.isfinite(lr) & (lr > 0))):
        return "has no learning rate at some of its points: log the rate"
    if len({len(curves[name]) for name in (*CHANNELS, "lr", "step") if name in curves}) > 1:
        return "has curves of different lengths: log all of them at the same points, NaN where there is none"
    if not (step.size and np.all(np.isfinite(step)) and np.all(np.diff(step, prepend=0) > 0)):
        return "has steps that are missing or do not rise: log optimizer steps, counted from the start"
    if not (record.diverged or np.isfinite(losses).any()):
        return "has no validation loss: log it"
    if step[-1] > budget:
        return f"has {step[-1]:.0f} steps, and the task's budget is {budget}: give that of the runs as --budget"
    return ""

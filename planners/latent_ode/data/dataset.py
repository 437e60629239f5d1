"""Runs of a sweep as arrays: what a model of training is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.record import RunRecord

Floats = NDArray[np.float64]

CHANNELS: tuple[str, ...] = ("train_loss", "val_loss", "val_accuracy")
"""The signals that a model reads and predicts, losses by their natural log."""

LOSS = CHANNELS.index("val_loss")
"""The channel that plans are judged by."""

FEWEST_RUNS = 10

NEAR = 0.08
"""Share of the fall of the log loss, from the first point to the best end, above which at the end a run counts half."""

LEAST_WEIGHT = 0.003
"""That of the curves of a run that diverged."""


def channel(name: str, values: Floats) -> Floats:
    """A signal as models see it; NaN where it is missing or has no log."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.log(values) if name.endswith("loss") else values
    return np.where(np.isfinite(values), values, np.nan)


@dataclass(frozen=True, eq=False)
class Series:
    """Runs of one task, one point a segment, short ones padded.

    Attributes:
        steps: optimizer steps done at each point, (runs, points); beyond a run's last point its last step.
        lr: mean learning rate since the point before, (runs, points).
        values: `CHANNELS` at each point, (runs, points, channels); NaN where missing.
        final: log of the loss on the whole validation split at the end of the run, (runs,); NaN where not measured.
        lengths: points of each run, (runs,).
        budget: optimizer steps of a whole run.
        labels: planner and settings of each run.
        weights: how much the curves of each run count, (runs,), see `weights_of`.
        limit: log loss at the end above which it does not matter by how much: see `limit_of`.
        diverged: of the runs those that diverged, (runs,); they end where their loss was last a number.
        seeds: of the children, (runs,).
    """

    steps: Floats
    lr: Floats
    values: Floats
    final: Floats
    lengths: NDArray[np.int64]
    budget: int
    labels: tuple[str, ...]
    weights: Floats
    limit: float
    diverged: NDArray[np.bool_]
    seeds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Series:
        """Some of the runs."""
        rows = np.asarray(rows, dtype=np.int64)
        return Series(
            self.steps[rows],
            self.lr[rows],
            self.values[rows],
            self.final[rows],
            self.lengths[rows],
            self.budget,
            tuple(self.labels[row] for row in rows),
            self.weights[rows],
            self.limit,
            self.diverged[rows],
            self.seeds[rows],
        )

    @property
    def cumulative(self) -> Floats:
        """Sum of rate times steps before each point, and before the first, (runs, points + 1)."""
        steps = np.diff(self.steps, axis=1, prepend=0.0)
        return np.concatenate([np.zeros((len(self), 1)), np.cumsum(self.lr * steps, axis=1)], axis=1)


def series(records: Sequence[RunRecord], budget: int) -> Series:
    """Runs as arrays.

    A run that diverged ends where its validation loss was last a number (records of this package bound it there), and
    has no final loss. Like those of all runs that end far above the best its curves count little: a model that has to
    describe wild runs describes the good ones worse.

    Args:
        records: runs of one task with their curves. What they lack is NaN.
        budget: optimizer steps of a whole run.

    Raises:
        UserError: a run has no rates, no steps or no validation loss, or is longer than the budget; or fewer than 10
            are left, or than 5 that did not diverge.
    """
    kept, lengths = [], []
    for record in records:
        if wrong := _wrong(record, budget):
            raise UserError(f"a run of {record.planner} (seed {record.seed}) {wrong}, or leave the run out")
        count = max(_finite(record), 1) if record.diverged else len(record.curves["lr"])
        if count >= 2 or record.diverged:
            kept.append(record)
            lengths.append(count)
    whole = sum(not record.diverged for record in kept)
    if len(kept) < FEWEST_RUNS or whole < FEWEST_RUNS // 2:
        raise UserError(
            f"{len(kept)} usable runs of {len(records)}, of which {whole} did not diverge: a model needs at least "
            f"{FEWEST_RUNS} of two points or more, and {FEWEST_RUNS // 2} that did not diverge"
        )
    longest = max(lengths)
    shape = len(kept), longest
    steps, lr, values = np.zeros(shape), np.zeros(shape), np.full((*shape, len(CHANNELS)), np.nan)
    for row, (record, count) in enumerate(zip(kept, lengths, strict=True)):
        for padded, name in ((steps, "step"), (lr, "lr")):
            padded[row, :count] = record.curves[name][:count]
            padded[row, count:] = record.curves[name][count - 1]
        for number, name in enumerate(CHANNELS):
            if name in record.curves:
                values[row, :count, number] = channel(name, np.asarray(record.curves[name][:count], dtype=np.float64))
    diverged = np.array([record.diverged for record in kept])
    final = np.array([record.scores.get("final_val_loss", np.nan) for record in kept])
    final = np.where(diverged, np.nan, channel("val_loss", final))
    first, last = _at(values[..., LOSS], 0), _at(values[..., LOSS], -1)
    ends = np.where(np.isfinite(final), final, last)
    return Series(
        steps,
        lr,
        values,
        final,
        np.array(lengths),
        budget,
        tuple(f"{record.planner} {dict(record.settings)}" for record in kept),
        weights_of(ends, first, diverged),
        limit_of(ends, first, diverged),
        diverged,
        np.array([record.seed for record in kept], dtype=np.int64),
    )


def weights_of(ends: Floats, first: Floats, diverged: NDArray[np.bool_]) -> Floats:
    """How much curves count, (runs,): half where they end at the limit, the more the better they ended.

    Args:
        ends: log losses at the end, (runs,).
        first: log losses at the first point, (runs,).
        diverged: runs that did, which count least.
    """
    if diverged.all():
        return np.full_like(ends, LEAST_WEIGHT)
    best = _best(ends, diverged)
    above = np.nan_to_num(np.maximum(ends - best, 0), nan=np.inf)
    weights = 1 / (1 + (above / (limit_of(ends, first, diverged) - best)) ** 2)
    return np.where(diverged, LEAST_WEIGHT, np.maximum(weights, LEAST_WEIGHT))


def limit_of(ends: Floats, first: Floats, diverged: NDArray[np.bool_]) -> float:
    """The log loss that is `NEAR` above the best tenth; the arguments are those of `weights_of`.

    Of a run that ended above it a model learns that it did, and not by how much, as of one that diverged. Were it to
    count for less instead, the same rates would look good that were lucky once.
    """
    if diverged.all():
        return np.inf
    best = _best(ends, diverged)
    return best + NEAR * max(float(np.nanmedian(first) - best), 1e-9)


def _best(ends: Floats, diverged: NDArray[np.bool_]) -> float:
    return float(np.nanquantile(ends[~diverged], 0.1))


def _at(losses: Floats, place: int) -> Floats:
    """The first (0) or the last (-1) known value of each run, (runs,); NaN where none is."""
    known = [values[np.isfinite(values)] for values in losses]
    return np.array([values[place] if len(values) else np.nan for values in known])


def _finite(record: RunRecord) -> int:
    """Points before the first one whose validation loss is not a number."""
    finite = np.isfinite(np.asarray(record.curves.get("val_loss", []), dtype=np.float64))
    return int(np.argmin(np.append(finite, False)))


def _wrong(record: RunRecord, budget: int) -> str:
    """What is wrong with a run's curves and how it could be right; empty if nothing is."""
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

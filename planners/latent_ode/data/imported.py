"""Logged runs of someone's own training as arrays: curves of any length and spacing on one grid of segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.readers.base import ImportedRun, Series
from planners.latent_ode.channels import CHANNELS, LOSS, TRAIN, Floats, channel
from planners.latent_ode.data.dataset import MIN_RUNS, RunDataset, censoring_threshold, run_weights
from planners.latent_ode.data.resampling import at_points, filled, mean_rates, point_steps, segment_means
from planners.latent_ode.data.schedule_library import MIN_DURATION, TIMES

MIN_POINTS, MAX_POINTS = 20, 100
"""Fewest and most points of a run whose segment is not given."""

MOST_SEGMENTS = 1000
"""Most points of a run whose segment is given: more would take long, and show nothing more."""

POINTS_PER_VALIDATION = 5
"""Most points of a run for each of its validation losses: a correction reads 10 points, of which some must have one."""

MIN_WHOLE = MIN_RUNS // 2
"""Fewest runs that last for the whole budget."""

LONGEST_GAP = 0.3
"""Longest time between two measurements, as a share of the budget, across which a curve is interpolated."""

MIN_RATE = 1e-3
"""Lowest rate that a model sees, as a share of the highest of the run: a rate of 0 has no log."""

TASK_FACTS = ("batch_size", "weight_decay", "momentum", "dropout", "optim", "model_name", "dataset")
"""Parts of names of logged facts; runs of one training task have the same."""

MAX_FRACTION = 1.01
"""Accuracies of which one is above this are in percent."""

SAME_RATE = 0.05
"""Schedules are the same if their log rates differ by less than this at all times."""


@dataclass(frozen=True, eq=False)
class ImportedData:
    """What a model is fitted to, and what was done to the logged runs.

    Attributes:
        dataset: the usable runs.
        run_ids: their names, in the order of the dataset.
        segment: optimizer steps between two points.
        left_out: reason for which runs were left out -> number of runs.
        notes: what was changed or cut, each a sentence.
    """

    dataset: RunDataset
    run_ids: tuple[str, ...]
    segment: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> dict[str, float]:
        """Channel -> share of the points at which it was measured; without channels that never were."""
        within = np.arange(self.dataset.steps.shape[1]) < self.dataset.lengths[:, None]
        shares = np.isfinite(self.dataset.values)[within].mean(0)
        return {name: float(share) for name, share in zip(CHANNELS, shares, strict=True) if share > 0}

    @property
    def whole(self) -> NDArray[np.bool_]:
        """The runs that last for the whole budget, (runs,)."""
        return _whole(self.dataset.steps, self.dataset.diverged, self.dataset.budget)

    @property
    def schedules(self) -> Floats:
        """Log rates at `TIMES` of the schedules of runs of the whole budget, each once, (schedules, points)."""
        first = {label: row for row, label in reversed(list(enumerate(self.dataset.labels))) if self.whole[row]}
        return _log_rates(self.dataset.steps, self.dataset.lr, sorted(first.values()), TIMES * self.dataset.budget)


@dataclass(frozen=True, eq=False)
class _Curves:
    """One usable run: its rate, its channels as models see them, and the step at which it ends for a model."""

    run_id: str
    seed: int | None
    diverged: bool
    end: float
    rate: Series
    channels: Mapping[str, Series]


def imported_data(runs: Sequence[ImportedRun], budget: int | None = None, segment: int | None = None) -> ImportedData:
    """Bring logged runs to one grid.

    Time is counted in optimizer steps, so that runs of different lengths are of use to one model; the budget is the
    unit. Runs that last longer are cut there. Shorter ones tell how a loss falls, but have no final loss.

    The rate of a segment is the mean of the logged rate over it, with straight lines between logged points; the first
    and last values hold before and after these, but a warm-up is continued to the start. The training loss is the mean
    of what was logged in the segment. Validation losses and accuracies stand at the end of the nearest segment, or are
    interpolated where there is one inside each of the segments on both sides; a point without any is missing. The final
    loss is the last validation loss; runs that go on after it by more than 2 % end there.

    Args:
        runs: logged runs of one training task, with any rates.
        budget: optimizer steps of a whole run; None: the longest time that at least 5 runs last for.
        segment: optimizer steps between two points; None: what the logs allow, for 20 to 100 points in a run.

    Raises:
        UserError: too few runs are usable, or last for the budget; losses are below 0; or there are too few or too many
            segments.
    """
    for option, value in (("budget", budget), ("segment", segment)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give a whole number of at least 1")
    left_out: Counter[str] = Counter()
    curves: list[_Curves] = []
    for run in sorted(runs, key=lambda run: run.run_id):  # the model does not depend on their order
        if reason := _unusable(run):
            left_out[reason] += 1
        else:
            curves.append(_curves(run))
    if below := sum(_falls_below_0(run) for run in runs):
        raise UserError(
            f"the validation loss of {below} of {len(runs)} runs falls below 0, and models see the log of a loss: "
            "import the runs anew with --names val_loss=NAME of a loss above 0"
        )
    completed = sum(not of_run.diverged for of_run in curves)
    if len(curves) < MIN_RUNS or completed < MIN_WHOLE:
        raise UserError(
            f"{len(curves)} usable runs of {len(runs)}, of which {completed} did not diverge{_reasons(left_out)}: such "
            f"runs show which of them ended best, but not what another rate would do; for that, log at least "
            f"{MIN_RUNS} with different rates, of which {MIN_WHOLE} do not diverge"
        )
    budget = _common_budget(curves) if budget is None else budget
    curves = [replace(of_run, diverged=of_run.diverged and of_run.end <= budget) for of_run in curves]
    whole = sum(of_run.end >= MIN_DURATION * budget for of_run in curves if not of_run.diverged)
    if whole < MIN_WHOLE:
        raise UserError(
            f"{whole} runs last for {budget:,} steps: give a --budget that at least {MIN_WHOLE} do, such as "
            f"{_common_budget(curves)}"
        )
    notes = _notes(runs, curves, budget)
    segment = _common_segment(curves, budget) if segment is None else segment
    if not MIN_WHOLE <= budget // segment <= MOST_SEGMENTS:
        raise UserError(
            f"a budget of {budget:,} steps has {budget // segment:,} segments of {segment:,}: give a --segment for "
            f"{MIN_WHOLE} to {MOST_SEGMENTS:,}, such as {_common_segment(curves, budget)}"
        )
    long_enough = [of_run for of_run in curves if of_run.end >= 2 * segment or of_run.diverged]
    if short := len(curves) - len(long_enough):
        left_out["shorter than two segments"] += short
    if len(long_enough) < MIN_RUNS:
        raise UserError(
            f"{len(long_enough)} runs are longer than two segments of {segment:,} steps: {_remedy(curves, budget)}"
        )
    dataset = _dataset(long_enough, budget, segment)
    return ImportedData(dataset, tuple(of_run.run_id for of_run in long_enough), segment, dict(left_out), tuple(notes))


def _remedy(curves: Sequence[_Curves], budget: int) -> str:
    """Say what to do where too few runs are longer than two segments."""
    ends = sorted((np.inf if of_run.diverged else of_run.end for of_run in curves), reverse=True)
    segment = int(ends[MIN_RUNS - 1] // 2)
    if segment > 0 and budget // segment <= MOST_SEGMENTS:
        return f"give a --segment of at most {segment:,}"
    return f"the others end long before the budget of {budget:,} steps; import runs of like lengths under one name"


def _falls_below_0(run: ImportedRun) -> bool:
    """Whether a validation loss is above 0, and in the end below. A number below 0 at the start is often none."""
    losses = run.curves["val_loss"].values if "val_loss" in run.curves else np.empty(0)
    return len(losses) > 0 and bool(losses[-1] < 0 < losses.max())


def _unusable(run: ImportedRun) -> str:
    """Say why a run cannot be fitted to; empty if it can."""
    rates, losses = run.curves["lr"].values, _of_channel(run, "val_loss")
    if len(rates) == 0 or rates.max() <= 0:
        return "no learning rate above 0"
    if rates.min() < 0:
        return "a learning rate below 0"
    if len(losses.at) == 0:
        if run.diverged:
            return "diverged before its first validation loss"
        return "no validation loss above 0 after the first step, of which models see the log"
    return ""


def _of_channel(run: ImportedRun, name: str) -> Series:
    """Return a curve as models see it, after the first step, without what has no finite value there."""
    curve = run.curves.get(name, Series(np.empty(0), np.empty(0)))
    values = np.asarray(curve.values, dtype=np.float64)
    if name.endswith("accuracy") and _in_percent(values):
        values = values / 100
    values = channel(name, values)
    usable = np.isfinite(values) & (curve.at > 0)
    return Series(np.asarray(curve.at, dtype=np.float64)[usable], values[usable])


def _in_percent(accuracies: Floats) -> bool:
    return bool((accuracies > MAX_FRACTION).any())


def _curves(run: ImportedRun) -> _Curves:
    channels = {name: _of_channel(run, name) for name in CHANNELS}
    channels = {name: curve for name, curve in channels.items() if len(curve.at)}
    losses = channels["val_loss"]
    last = float(losses.at[-1])
    end = last if run.diverged or last < MIN_DURATION * run.steps else max(last, float(run.steps))
    channels["val_loss"] = Series(np.append(losses.at[:-1], end), losses.values)
    seed = run.config.get("seed")
    return _Curves(run.run_id, seed if isinstance(seed, int) else None, run.diverged, end, run.curves["lr"], channels)


def _reasons(left_out: Mapping[str, int]) -> str:
    return f" ({'; '.join(f'{count} left out: {reason}' for reason, count in left_out.items())})" if left_out else ""


def _common_budget(curves: Sequence[_Curves]) -> int:
    """Return the longest time that `MIN_WHOLE` runs last for; they count as whole if they are 2 % shorter."""
    ends = np.sort([of_run.end for of_run in curves if not of_run.diverged])
    return int(ends[ends <= ends[-MIN_WHOLE] / MIN_DURATION][-1])


def _common_segment(curves: Sequence[_Curves], budget: int) -> int:
    """Choose the segment: fine enough for the rates and training losses, and for the validation losses not too fine.

    Where the validation loss was logged at a fixed interval, its times are ends of segments.
    """
    whole = [of_run.channels for of_run in curves if of_run.end >= MIN_DURATION * budget]
    validations, losses = (
        float(
            np.median(
                [len(of_run[name].at) * budget / of_run[name].at[-1] if name in of_run else 0 for of_run in whole]
            )
        )
        for name in ("val_loss", "train_loss")
    )
    points = np.clip(max(validations, min(losses, POINTS_PER_VALIDATION * validations)), MIN_POINTS, MAX_POINTS)
    ideal = budget / points
    interval = int(np.median(np.concatenate([np.diff(of_run["val_loss"].at, prepend=0) for of_run in whole])))
    choices = np.arange(max(1, np.ceil(0.6 * ideal)), max(1, np.floor(1.67 * ideal)) + 1).astype(np.int64)
    apart = (np.maximum(interval, 1) % choices > 0) & (choices % np.maximum(interval, 1) > 0)
    return int(choices[np.lexsort((np.abs(np.log(choices / ideal)), apart * 1 + (budget % choices > 0)))[0]])


def _dataset(curves: Sequence[_Curves], budget: int, segment: int) -> RunDataset:
    points = [point_steps(min(of_run.end, budget), segment) for of_run in curves]
    lengths = np.array([len(steps) for steps in points])
    shape = len(curves), int(lengths.max())
    steps, lr = np.zeros(shape), np.zeros(shape)
    values, targets = (np.full((*shape, len(CHANNELS)), np.nan) for _ in range(2))
    for row, (of_run, at) in enumerate(zip(curves, points, strict=True)):
        count = len(at)
        rates = np.maximum(mean_rates(of_run.rate, at), MIN_RATE * of_run.rate.values.max())
        for padded, of_points in ((steps, at), (lr, rates)):
            padded[row, :count] = of_points
            padded[row, count:] = of_points[-1]
        for number, name in enumerate(CHANNELS):
            if curve := of_run.channels.get(name):
                resampled = segment_means(curve, at) if name == "train_loss" else at_points(curve, at, segment)
                values[row, :count, number] = resampled
                targets[row, :count, number] = filled(at, values[row, :count, number], LONGEST_GAP * budget)
    diverged = np.array([of_run.diverged for of_run in curves])
    whole = _whole(steps, diverged, budget)
    final = np.where(whole, targets[np.arange(len(curves)), lengths - 1, LOSS], np.nan)
    first, ends = _first_losses(targets), _comparable_ends(steps, targets, whole, diverged, budget)
    return RunDataset(
        steps,
        lr,
        values,
        final,
        lengths,
        budget,
        _labels([of_run.run_id for of_run in curves], steps, lr, lengths, whole, diverged),
        run_weights(ends, first, diverged),
        censoring_threshold(ends, first, diverged),
        diverged,
        _seeds(curves),
        targets,
    )


def _first_losses(targets: Floats) -> Floats:
    """Estimate the log validation loss at the first point of each run, (runs,).

    Where it was measured later, the training loss tells how far it fell until then.
    """
    first = np.full(len(targets), np.nan)
    for row, of_run in enumerate(targets):
        measured = np.flatnonzero(np.isfinite(of_run[:, LOSS]))
        if len(measured):
            train = of_run[: measured[0] + 1, TRAIN]
            train = train[np.isfinite(train)]
            fall = max(0.0, float(train[0] - train[-1])) if len(train) else 0.0
            first[row] = of_run[measured[0], LOSS] + fall
    return first


def _whole(steps: Floats, diverged: NDArray[np.bool_], budget: int) -> NDArray[np.bool_]:
    return ~diverged & (steps[:, -1] >= MIN_DURATION * budget)


def _comparable_ends(
    steps: Floats, targets: Floats, whole: NDArray[np.bool_], diverged: NDArray[np.bool_], budget: int
) -> Floats:
    """Return log losses by which runs are weighed, (runs,).

    For whole runs these are the final ones. A run that was stopped early is as far from the best whole runs as it was
    from them when it stopped: else it would count for little, because its loss had less time to fall.
    """
    measured = [np.isfinite(losses) for losses in targets[..., LOSS]]
    losses = [(steps[row, at], targets[row, at, LOSS]) for row, at in enumerate(measured)]

    def best_at(step: float) -> float:
        return float(np.quantile([np.interp(step, *losses[row]) for row in np.flatnonzero(whole)], 0.1))

    ends = np.array([of_run[-1] if len(of_run) else np.nan for _, of_run in losses])
    for row in np.flatnonzero(~whole & ~diverged & np.isfinite(ends)):
        ends[row] += best_at(budget) - best_at(losses[row][0][-1])
    return ends


def _labels(
    run_ids: Sequence[str],
    steps: Floats,
    lr: Floats,
    lengths: NDArray[np.int64],
    whole: NDArray[np.bool_],
    diverged: NDArray[np.bool_],
) -> tuple[str, ...]:
    """Name the schedule of each run after the first run that has it.

    A run that diverged has the schedule of a whole run whose rates were the same until then. One that was stopped early
    has a schedule of its own.
    """
    labels = list(run_ids)
    representatives: list[int] = []
    for row in [*np.flatnonzero(whole).tolist(), *np.flatnonzero(diverged).tolist()]:
        rates = _log_rates(steps, lr, [*representatives, row], steps[row, : lengths[row]])
        same = np.flatnonzero(np.abs(rates[:-1] - rates[-1]).max(1) < SAME_RATE)
        if len(same):
            labels[row] = labels[representatives[same[0]]]
        elif whole[row]:
            representatives.append(row)
    return tuple(labels)


def _log_rates(steps: Floats, lr: Floats, rows: Sequence[int], at: Floats) -> Floats:
    """Interpolate the log rates of some runs at some steps, (rows, steps)."""
    return np.array([np.interp(at, steps[row], np.log(lr[row])) for row in rows]).reshape(len(rows), len(at))


def _seeds(curves: Sequence[_Curves]) -> NDArray[np.int64]:
    """Return the logged seeds, where there are several; else each run counts as one of its own."""
    logged = [of_run.seed for of_run in curves]
    if None in logged or len(set(logged)) < 2:
        return np.arange(len(curves))
    return np.unique(np.array(logged), return_inverse=True)[1].astype(np.int64)


def _notes(runs: Sequence[ImportedRun], curves: Sequence[_Curves], budget: int) -> list[str]:
    """Say what was changed or cut."""
    usable = {of_run.run_id for of_run in curves}
    runs = [run for run in runs if run.run_id in usable]
    percent = sum(_in_percent(run.curves["val_accuracy"].values) for run in runs if "val_accuracy" in run.curves)
    complete = [of_run for of_run in curves if not of_run.diverged]
    steps = {run.run_id: run.steps for run in runs}
    counts = {
        "accuracy is logged in percent, and read as a fraction": percent,
        "goes on after its last validation loss, and ends there": sum(
            of_run.end < MIN_DURATION * steps[of_run.run_id] for of_run in complete
        ),
        f"lasts longer than {budget:,} steps, and is cut there": sum(of_run.end > budget for of_run in complete),
        "is shorter, and has no final loss": sum(of_run.end < MIN_DURATION * budget for of_run in complete),
    }
    notes = [f"{count} of {len(curves)} runs: {note}" for note, count in counts.items() if count]
    if different := _different(runs):
        notes.append(f"The runs differ in {', '.join(different)}, and are taken for runs of one training task")
    return notes


def _different(runs: Sequence[ImportedRun]) -> list[str]:
    """Name the logged facts, besides rate and seed, that change how a loss falls and are not the same in all runs."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.config.items():
            if any(fact in name.lower().rpartition("/")[2] for fact in TASK_FACTS):
                values.setdefault(name, set()).add(str(value))
    return sorted(name for name, of_name in values.items() if len(of_name) > 1)

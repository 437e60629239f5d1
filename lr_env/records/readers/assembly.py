"""Assemble runs from what readers give: parts joined, names chosen, clocks converted, copies of the same run merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.records.readers.base import Floats, ImportedRun, LoggedRun, Series
from lr_env.records.readers.clocks import (
    Clock,
    ClockError,
    attempts,
    batches_of_epochs,
    clock_of,
    counted_by_epoch,
    each_step,
    ended_epochs,
    joined,
    names_epochs,
    steps_of_epochs,
)
from lr_env.records.readers.names import Choice, choose
from lr_env.words import counted

_LOSSES = ("train_loss", "val_loss")
_LARGEST_STEP = 2**53
"""Floats hold whole numbers up to this."""

_SAME = 1e-6
"""Relative difference up to which two numbers are the same: some trackers have 32 bits a number."""


class LeftOutError(UserError):
    """A run that cannot be used; the message says why."""


@dataclass(frozen=True)
class Options:
    """What the user says of the logs.

    Attributes:
        names: signal or clock -> name in the log.
        steps_per_epoch: optimizer steps of an epoch; None where the logs say it.
        val_loss_from_train: whether runs without a validation loss get the training loss in its place.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    steps_per_epoch: float | None = None
    val_loss_from_train: bool = False


@dataclass(frozen=True, eq=False)
class Assembled:
    """A run with what is said of it.

    Attributes:
        run: the run.
        names: signal -> names in the log.
        notes: what was not whole, and what was chosen.
    """

    run: ImportedRun
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Part:
    """One attempt of a logged run with its clock."""

    logged: LoggedRun
    clock: Clock


class _OverSteps(Mapping[str, Series]):
    """The series of a run by name, its parts joined over optimizer steps when they are asked for."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._names = list(dict.fromkeys(name for part in parts for name in part.logged.series))
        self._joined: dict[str, Series] = {}

    def __getitem__(self, name: str) -> Series:
        if name not in self._joined:
            logged = [(part, part.logged.series[name]) for part in self._parts if name in part.logged.series]
            if not logged:
                raise KeyError(name)
            self._joined[name] = joined([Series(part.clock.steps(one.at), one.values) for part, one in logged])
        return self._joined[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def parts_of(logged: LoggedRun, options: Options) -> Iterator[LoggedRun]:
    """The attempts in a logged run."""
    return attempts(logged, options.names)


def assemble(parts: Sequence[LoggedRun], options: Options) -> Iterator[Assembled | tuple[LoggedRun, str]]:
    """Join the parts that share a run, and make runs of them.

    Args:
        parts: with the same reader and run_id, in the order in which they began.
        options: what the user says.

    Returns:
        A run for each time that training began, or its log and why it is left out.
    """
    ready: list[_Part] = []
    for part in parts:
        try:
            if not any(len(one.at) for one in part.series.values()):
                raise LeftOutError("nothing was logged in it")
            clock = clock_of(part, options.names, options.steps_per_epoch)
            if clock.readings is not None:
                _check_steps(clock.readings.values, clock.name)
            ready.append(_Part(part, clock))
        except UserError as error:  # another part may be whole
            if len(parts) == 1:
                yield part, str(error)
    if len(parts) > 1 and not ready:
        yield parts[0], "nothing was logged in it, or nothing that can be brought to optimizer steps"
    for number, group in enumerate(_trainings(ready), 1):
        first = group[0].logged
        if number > 1:
            first = replace(first, run_id=f"{first.run_id}#{number}")
        try:
            yield _assembled(first, group, options)
        except UserError as error:
            yield first, str(error)


def _trainings(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Group the parts of a run: one in which training begins again opens a group."""
    groups: list[list[_Part]] = []
    for part in parts:
        if groups and not _begins_again(groups[-1], part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _begins_again(before: Sequence[_Part], part: _Part) -> bool:
    """Whether a part begins where those before began, with other numbers."""
    earlier, later = _OverSteps(before), _OverSteps([part])
    for signal in ("lr", "train_loss"):
        names = [choose(series, {}).names.get(signal) for series in (earlier, later)]
        if names[0] is None or names[0] != names[1]:
            continue
        one, other = earlier[names[0][0]], later[names[0][0]]
        if len(one.at) > 1 and len(other.at) and other.at[0] <= one.at[0]:
            if signal == "lr" and _overlap(one, other) is not False:
                continue  # two runs may have the same rates: the losses tell them apart
            return _overlap(one, other) is not True
        return False
    return False


def _overlap(one: Series, other: Series) -> bool | None:
    """Whether two series are the same at all steps that both have; None where they have none."""
    _, left, right = np.intersect1d(one.at, other.at, assume_unique=True, return_indices=True)
    if not len(left):
        return None
    return bool(np.allclose(one.values[left], other.values[right], rtol=_SAME, atol=0, equal_nan=True))


def _assembled(first: LoggedRun, parts: Sequence[_Part], options: Options) -> Assembled:
    """Make a run of its parts.

    Raises:
        UserError: it cannot be used.
    """
    series = _OverSteps(parts)
    choice = choose(series, options.names)
    _check_complete(series, choice)
    raw = {signal: _summed(series, names) for signal, names in choice.names.items()}
    notes = [
        *choice.notes,
        *dict.fromkeys(note for part in parts for note in (part.clock.note, *part.logged.notes) if note),
    ]
    raw = _from_step_0(_by_steps(raw, choice, parts, options, notes), notes)
    _check_steps(np.concatenate([curve.at for curve in raw.values()]), parts[0].clock.name)
    curves: dict[str, Series] = {}
    for signal, curve in raw.items():
        finite = np.isfinite(curve.values)
        if signal in ("lr", *_LOSSES) and (lost := int((~finite).sum())):
            notes.append(f"{lost:,} of {len(finite):,} values of {signal} are not finite")
        if finite.any():
            curves[signal] = _scaled(signal, Series(curve.at[finite], curve.values[finite]))
    if "lr" not in curves:
        raise LeftOutError("its rate is nowhere a finite number")
    if (curves["lr"].values < 0).any():
        raise LeftOutError(f"its rate {choice.text('lr')!r} is negative somewhere: give --names lr=NAME of another")
    diverged = any(_ends_not_finite(raw[signal]) for signal in _LOSSES if signal in raw)
    if "train_loss" not in curves and "val_loss" not in curves:
        why = "it diverged before one was measured" if diverged else "it has none"
        raise LeftOutError(f"its loss is nowhere a finite number: {why}")
    if max(len(curves[signal].at) for signal in _LOSSES if signal in curves) < 2:
        raise LeftOutError("it has one point: it ended before a second one")
    config = {name: value for part in parts for name, value in part.logged.config.items()}
    logged_steps = [curve.at[-1] for curve in raw.values() if len(curve.at)]
    said = config.get("global_step") if first.reader == "huggingface" else None
    steps = max(*logged_steps, said if isinstance(said, int) and said < 2**53 else 0, 1)
    names = {signal: choice.text(signal) for signal in curves if signal in choice.names}
    run_id, source = _as_text(first.run_id), _as_text(str(first.source))
    run = ImportedRun(run_id, source, _ordered(curves), plain(config), int(steps), diverged)
    return Assembled(run, names, tuple(notes))


def _check_complete(series: Mapping[str, Series], choice: Choice) -> None:
    """See that a run has a rate and a loss.

    Raises:
        LeftOutError: naming what it lacks.
    """
    there = [signal for signal, names in choice.names.items() if all(len(series[name].at) for name in names)]
    if "lr" not in there:
        if "train_loss" not in there and "val_loss" in there:
            raise LeftOutError("it has an evaluation only: neither a rate nor a training loss")
        raise LeftOutError(f"it has no rate: give --names lr=NAME if one of these is it: {_listed(series)}")
    if "val_loss" not in there and "train_loss" not in there:
        raise LeftOutError(f"it has no loss: give --names val_loss=NAME if one of these is it: {_listed(series)}")


def with_validation_loss(assembled: Assembled, options: Options) -> Assembled:
    """A run with a validation loss, or with its training loss in that place where the user asks for it.

    Raises:
        LeftOutError: it has none.
    """
    curves = assembled.run.curves
    if "val_loss" in curves:
        return assembled
    if options.val_loss_from_train:
        run = replace(assembled.run, curves=_ordered({**curves, "val_loss": curves["train_loss"]}))
        return replace(assembled, run=run, notes=(*assembled.notes, "its validation loss is the training loss"))
    if assembled.run.diverged:
        raise LeftOutError("it has no finite validation loss: it diverged before one was measured")
    raise LeftOutError(
        "it has no validation loss: give --names val_loss=NAME, or --val-loss-from-train to take the training loss in "
        "its place"
    )


def _listed(names: Mapping[str, Any]) -> str:
    there = sorted(names)
    return ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")


def _summed(series: Mapping[str, Series], names: Sequence[str]) -> Series:
    """The sum of some series, where all have a value."""
    total = series[names[0]]
    for name in names[1:]:
        at, left, right = np.intersect1d(total.at, series[name].at, assume_unique=True, return_indices=True)
        total = Series(at, total.values[left] + series[name].values[right])
    return total


def _by_steps(
    raw: Mapping[str, Series], choice: Choice, parts: Sequence[_Part], options: Options, notes: list[str]
) -> dict[str, Series]:
    """Convert the signals that count epochs, where others of the run count steps.

    Of trackers whose "step" is whatever the user gave, a validation loss at every one of them suggests epochs, too.

    Args:
        raw: signal -> values over the clock of the run.
        choice: the names of the signals.
        parts: of the run.
        options: what the user says.
        notes: to which what has to be known is added.

    Raises:
        ClockError: it is not known how many steps an epoch has.
    """
    longest = max(raw.values(), key=lambda curve: curve.at[-1] if len(curve.at) else 0)
    steps_given = options.steps_per_epoch
    says_steps = all(part.clock.readings is None and part.clock.epochs is None for part in parts)
    by_epoch = {
        signal
        for signal, curve in raw.items()
        if counted_by_epoch(curve.at, longest.at)
        or (says_steps and all(names_epochs(name, curve.at) for name in choice.names[signal]))
    }
    validated = raw["val_loss"].at if "val_loss" in raw else np.zeros(0)
    ambiguous = not by_epoch and says_steps and "step" not in options.names
    if ambiguous and each_step(validated) and len(validated) == len(longest.at):
        if steps_given is not None:
            by_epoch = set(raw)
        else:
            notes.append("its validation loss is logged at every step: for epochs give --steps-per-epoch N")
    converted = dict(raw)
    for signal in by_epoch:
        curve = raw[signal]
        ended = ended_epochs(curve.at)
        sizes = [
            steps_given,
            *(steps_of_epochs(part.logged, part.clock) for part in parts),
            *(batches_of_epochs(part.logged.series, curve.at[-1] + ended) for part in parts),
        ]
        size = next((one for one in sizes if one is not None), None)
        if size is None:
            raise ClockError(
                f"its {choice.text(signal)!r} is logged at {curve.at[0]:.0f} to {curve.at[-1]:.0f}, others up to "
                f"{longest.at[-1]:.0f}: if it counts epochs, give --steps-per-epoch N"
            )
        converted[signal] = Series(np.round((curve.at + ended) * size), curve.values)
    return converted


def _from_step_0(raw: Mapping[str, Series], notes: list[str]) -> dict[str, Series]:
    """The signals without points before step 0: some log an untrained network as step -1."""
    kept = {signal: curve.at >= 0 for signal, curve in raw.items()}
    if lost := sum(int((~some).sum()) for some in kept.values()):
        notes.append(f"{counted(lost, 'point')} before step 0 left out")
    return {signal: Series(curve.at[kept[signal]], curve.values[kept[signal]]) for signal, curve in raw.items()}


def _check_steps(steps: Floats, clock: str) -> None:
    """See that what a clock shows can be a number of steps.

    Raises:
        ClockError: naming the clock.
    """
    largest = np.abs(steps[~np.isnan(steps)]).max(initial=0)
    if largest >= _LARGEST_STEP:
        raise ClockError(
            f"its clock {clock!r} shows {largest:.3g}, which is no number of steps: give --names step=NAME of another"
        )


def _as_text(name: str) -> str:
    """A name as text in one line that can be stored: ends of lines, and bytes that are no UTF-8, are written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _scaled(signal: str, curve: Series) -> Series:
    """Accuracies in percent as fractions."""
    if signal.endswith("_accuracy") and curve.values.max() > 1.5:
        return Series(curve.at, curve.values / 100)
    return curve


def _ends_not_finite(curve: Series) -> bool:
    """Whether a curve ends in values that are not finite, and more of them in a row than anywhere before.

    Some tables have NaN wherever a row has no value.
    """
    finite = np.isfinite(curve.values)
    if not len(finite) or finite[-1]:
        return False
    if not finite.any():
        return True
    places = np.flatnonzero(finite)
    gaps = np.diff(places) - 1
    longest = max(int(gaps.max()) if len(gaps) else 0, int(places[0]))
    return len(finite) - 1 - int(places[-1]) > longest


def _ordered(curves: Mapping[str, Series]) -> dict[str, Series]:
    """The curves with the rate first, in an order that does not depend on the log's."""
    return {signal: curves[signal] for signal in sorted(curves, key=lambda signal: (signal != "lr", signal))}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config that JSON can hold."""
    return {str(name): value for name, value in config.items() if value is None or _fits_json(value)}


def _fits_json(value: Any) -> bool:
    """Whether a value is text, or a number that other software reads, too."""
    if isinstance(value, float):
        return bool(np.isfinite(value))
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)


def merged(runs: Sequence[Assembled]) -> tuple[list[Assembled], list[tuple[Assembled, Assembled]]]:
    """Merge runs that are the same: copies, prefixes in checkpoints, and logs of the same run in two formats.

    Two runs are the same if one has the losses of the other, with the same values at the same steps, and the same
    rates. The one with the most points stands for all, and gets the signals that only others have.

    Returns:
        The runs, in order, and pairs of one that was merged away and the one that stands for it.
    """
    index: dict[tuple[int, int], list[int]] = {}
    for place, assembled in enumerate(runs):
        for key in _fingerprints(assembled.run):
            index.setdefault(key, []).append(place)
    order = sorted(range(len(runs)), key=lambda place: (-_size(runs[place].run), place))
    result: dict[int, Assembled] = {}
    pairs: list[tuple[int, int]] = []
    for place in order:
        candidates = sorted(
            {other for key in _fingerprints(runs[place].run) for other in index[key] if other in result}
        )
        same = next((other for other in candidates if is_same(runs[place].run, result[other].run)), None)
        if same is None:
            result[place] = runs[place]
        else:
            pairs.append((place, same))
            result[same] = _completed(result[same], runs[place])
    return [result[place] for place in sorted(result)], [(runs[one], result[other]) for one, other in sorted(pairs)]


def _size(run: ImportedRun) -> int:
    return sum(len(curve.at) for curve in run.curves.values())


def _fingerprints(run: ImportedRun) -> set[tuple[int, int]]:
    """Marks of which two equal runs share one: each of the first losses, rounded down and up."""
    marks = set()
    for signal in _LOSSES:
        if signal in run.curves:
            curve = run.curves[signal]
            for step, value in zip(curve.at[:5].tolist(), curve.values[:5].tolist(), strict=True):
                mantissa, exponent = np.frexp(value)
                scaled = float(mantissa) * 1e4
                marks |= {(int(step), int(np.floor(scaled + shift)) + 100_000 * int(exponent)) for shift in (0, 0.5)}
    return marks


def is_same(one: ImportedRun, other: ImportedRun) -> bool:
    """Whether one of two runs has the losses of the other at the same steps, and the same rates."""
    points = 0
    for signal in _LOSSES:
        if signal not in one.curves or signal not in other.curves:
            continue
        left, right = one.curves[signal], other.curves[signal]
        if not _share_the_last_point(left, right):
            return False
        at, i, j = np.intersect1d(left.at, right.at, assume_unique=True, return_indices=True)
        if len(at) < min(len(left.at), len(right.at)):
            return False
        if not np.allclose(left.values[i], right.values[j], rtol=_SAME, atol=0):
            return False
        points += len(np.unique(left.values[i]))
    return points > 1 and _overlap(one.curves["lr"], other.curves["lr"]) is not False


def _share_the_last_point(one: Series, other: Series) -> bool:
    """Whether two curves are equal where the shorter one ends. Runs with the same seed often begin equally."""
    shorter, longer = sorted((one, other), key=lambda curve: len(curve.at))
    place = int(np.searchsorted(longer.at, shorter.at[-1]))
    if place == len(longer.at) or longer.at[place] != shorter.at[-1]:
        return False
    return bool(abs(longer.values[place] - shorter.values[-1]) <= _SAME * abs(shorter.values[-1]))


def _completed(one: Assembled, other: Assembled) -> Assembled:
    """A run with the signals that only a copy of it has."""
    curves = {**other.run.curves, **one.run.curves}
    config = {**other.run.config, **one.run.config}
    steps = max(one.run.steps, other.run.steps)
    run = replace(one.run, curves=_ordered(curves), config=config, steps=steps)
    return replace(one, run=run, names={**other.names, **one.names})

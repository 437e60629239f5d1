"""The common tuner: a coarse search, a finer one around the best, and the best again on further seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.capabilities import Searchable, SettingRange, Tunable
from lr_env.errors import UserError
from lr_env.planner import Planner, planner_settings
from lr_env.records.record import RunRecord, settings_key
from lr_env.registry import candidates, check_settings, find_planner, make_planner, with_settings
from lr_env.tasks import Task
from planners.settings import Array
from planners.tuning.search_space import sobol
from planners.tuning.tuners import final_val_loss, planner_of

FIRST_CYCLE = 8
"""Runs of the first cycle. Every later one has as many as all before it, so that cycles end at 8, 16, 32, 64 runs."""

_WIDTH = 0.2
"""Standard deviation of a refinement in the unit cube of settings after the first cycle; it halves with each."""

_WIDEST_RETEST = 4
"""Settings that are made again in a cycle, at most; others runs go to further seeds of these."""


_CAUTION = 2.0
"""So many standard errors are added to the mean of a setting, so that the luckiest of many is not selected."""


@dataclass(frozen=True)
class Slot:
    """What a run is for.

    Attributes:
        part: "explore": a point of the Sobol sequence. "refine": near the best settings. "retest": one of the best
            settings, on its next seed.
        cycle: number of the cycle, from 0.
        number: of the run within its part of the cycle, from 0.
        left: runs of that part from this one on.
    """

    part: str
    cycle: int
    number: int
    left: int


def slot_of(run: int) -> Slot:
    """What run number `run` of a procedure is for: half of each cycle explores, a quarter refines, a quarter retests.

    >>> [slot_of(run).part for run in (0, 3, 4, 6, 8, 12, 14)]
    ['explore', 'explore', 'refine', 'retest', 'explore', 'refine', 'retest']
    """
    cycle, start, size = 0, 0, FIRST_CYCLE
    while run >= start + size:
        cycle, start = cycle + 1, start + size
        size = start
    place, quarter = run - start, size // 4
    if place < 2 * quarter:
        return Slot("explore", cycle, place, 2 * quarter - place)
    if place < 3 * quarter:
        return Slot("refine", cycle, place - 2 * quarter, 3 * quarter - place)
    return Slot("retest", cycle, place - 3 * quarter, size - place)


@dataclass(frozen=True)
class CoarseToFine:
    """Tunes one planner: a coarse search, a finer one around the best, then the best again on further seeds.

    The peak rate is searched on a log scale over the task's range, and with it the settings in the planner's
    `search_ranges`, all alike; a planner without any takes turns with its `tuning_variants`, and one without a peak
    rate goes through its `candidates`, which have no finer search. All settings are tried on
    one seed first, so that luck decides less among them, and those that are tried again on further ones, which they
    share. The one with the lowest mean loss is selected, to which luck is added, for a setting with fewer runs more of
    it; where a setting that was tried again diverged, the smallest peak whose mean is within a standard error of it.
    The procedure may end after any number of runs; 8, 16, 32, 64, ... are the best ones.

    Attributes:
        name: name of the tuner.
        planner: name of the planner that is tuned.
        fixed: settings that are not searched, and their values.

    Raises:
        UserError: there is no such planner, or it has neither a peak rate nor candidates.
    """

    name: str = "coarse-to-fine"
    planner: str = "wsd"
    fixed: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        kind = find_planner(self.planner)
        if not self.has_peak and not isinstance(kind, Tunable):
            raise UserError(f"tuner {self.name!r}: planner {self.planner!r} has no peak rate to be tuned")
        check_settings(self.planner, dict(self.fixed))

    @property
    def has_peak(self) -> bool:
        """Whether the planner has a peak rate that is searched."""
        return "peak" in getattr(find_planner(self.planner), "__dataclass_fields__", {})

    def batch_size(self, done: int) -> int:
        """The runs that are left of a part of a cycle, for the next part depends on them."""
        return slot_of(done).left

    def seed_index(self, run: int) -> int:
        """The first seed for all; a setting that is made again gets its next one."""
        return 0

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The settings of the next runs, which are all of one part of a cycle."""
        first = slot_of(len(records))
        if first.part == "retest":
            best = [chosen.planner for chosen in ranked(records)[: retested(first)]]
            return [best[(first.number + number) % len(best)] for number in range(count)]
        if not self.has_peak:
            before = sum(slot_of(run).part != "retest" for run in range(len(records)))
            offered = candidates(find_planner(self.planner), [float(number + 1) for number in range(before + count)])
            return [with_settings(one, dict(self.fixed)) for one in offered[before:]]
        if first.part == "refine":
            return self._refined(task, seed, records, first, count)
        return self._explored(task, seed, records, count)

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The setting with the lowest mean loss; see the class."""
        return selected(records)

    def _explored(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> list[Planner]:
        before = sum(slot_of(run).part == "explore" for run in range(len(records)))
        space = self.space
        points = sobol(before + count, len(space) + 1, seed)[before:]
        return [self.at(point, task) for point in points]

    def _refined(
        self, task: Task, seed: int, records: Sequence[RunRecord], first: Slot, count: int
    ) -> Sequence[Planner]:
        """Settings near the best two so far, in turns."""
        best = [self.point_of(chosen.planner, task) for chosen in ranked(records)[:2]]
        width, planners = _WIDTH / 2**first.cycle, []
        for number in range(first.number, first.number + count):
            drawn = np.random.default_rng([seed, first.cycle, number]).standard_normal(len(best[0]))
            moved = best[number % len(best)] + width * drawn
            planners.append(self.at(1 - np.abs(1 - np.abs(moved) % 2), task))  # reflected at the faces of the cube
        return planners

    @property
    def space(self) -> Mapping[str, SettingRange]:
        """The settings that are searched besides the peak; empty for a planner that has variants instead."""
        kind = find_planner(self.planner)
        ranges = kind.search_ranges if isinstance(kind, Searchable) else {}
        return {name: one for name, one in ranges.items() if name not in dict(self.fixed)}

    def at(self, point: Array, task: Task) -> Planner:
        """The planner at a point of the unit cube, (1 + settings,); the peak comes first."""
        peak = SettingRange(*task.tuning_range, log=True).at(float(point[0]))
        if not isinstance(find_planner(self.planner), Searchable):
            return with_settings(self._variant(peak, task), dict(self.fixed))
        space = self.space
        settings = {name: one.at(float(share)) for (name, one), share in zip(space.items(), point[1:], strict=True)}
        return make_planner(self.planner, {"peak": peak, **settings, **dict(self.fixed)})

    def _variant(self, peak: float, task: Task) -> Planner:
        """The planner with a peak rate, and the variant of its other settings whose turn it is."""
        kind: Any = find_planner(self.planner)
        variants = max(1, len(getattr(kind, "tuning_variants", ({},))))
        low, high = np.log(task.tuning_range)
        turn = int((np.log(peak) - low) / (high - low) * 1e6) % variants
        return candidates(kind, [peak] * variants)[turn]

    def point_of(self, planner: Planner, task: Task) -> Array:
        """The inverse of `at`; where there are variants, the peak alone."""
        settings: dict[str, Any] = {**{"peak": 1.0}, **planner_settings(planner)}
        ranges = {"peak": SettingRange(*task.tuning_range, log=True), **self.space}
        return np.array([_share(one, float(settings[name])) for name, one in ranges.items()])


@dataclass(frozen=True)
class Tried:
    """A setting and its runs.

    Attributes:
        planner: with the setting.
        losses: final validation losses, one for each seed; infinite where it diverged.
    """

    planner: Planner
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean loss."""
        return float(np.mean(self.losses))

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 where there is one seed."""
        return float(np.std(self.losses, ddof=1) / len(self.losses) ** 0.5) if len(self.losses) > 1 else 0.0


def tried(records: Sequence[RunRecord]) -> list[Tried]:
    """The settings of some runs, in the order in which they were first made."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.planner, settings_key(record.settings)), []).append(record)
    return [
        Tried(planner_of(group[0]), tuple(final_val_loss(run) for run in sorted(group, key=lambda run: run.seed)))
        for group in groups.values()
    ]


def ranked(records: Sequence[RunRecord]) -> list[Tried]:
    """The settings of some runs, the best first: by their loss on the seed that all have."""
    return sorted(tried(records), key=lambda setting: setting.losses[0])


def retested(slot: Slot) -> int:
    """How many settings the retest of a cycle makes again: every other run is for another one, up to four."""
    return max(2, min(_WIDEST_RETEST, (slot.number + slot.left) // 2))


def selected(records: Sequence[RunRecord]) -> Planner:
    """The setting to train with; see `CoarseToFine`."""
    every = tried(records)
    finite = [setting for setting in every if np.isfinite(setting.mean)]
    if not finite:
        return every[0].planner
    bounds = _upper_bounds(finite)
    best = finite[int(np.argmin(bounds))]
    again = [setting for setting in every if len(setting.losses) > 1]
    if all(np.isfinite(setting.mean) for setting in again):
        return best.planner
    near = [setting for setting in again if setting.mean <= best.mean + best.error]
    return min([*near, best], key=lambda setting: getattr(setting.planner, "peak", np.inf)).planner


def _upper_bounds(settings: Sequence[Tried]) -> list[float]:
    """What each setting's loss may be: its mean without the luck of its seeds, and for the rest of luck some more.

    A seed's luck is what it changes, on average, for the settings that were made on it and on the first one. Where too
    few were made again to tell how large the rest is, a setting that was not made again is not trusted.
    """
    again = [setting.losses for setting in settings if len(setting.losses) > 1]
    seeds = max((len(losses) for losses in again), default=1)
    luck = [0.0] + [
        float(np.mean([losses[seed] - losses[0] for losses in again if len(losses) > seed])) for seed in range(1, seeds)
    ]
    means = [float(np.mean(np.subtract(setting.losses, luck[: len(setting.losses)]))) for setting in settings]
    freedom = sum(len(losses) - 1 for losses in again) - (seeds - 1)
    if freedom < 1:
        return [
            mean + (np.inf if again and len(setting.losses) < 2 else 0.0)
            for mean, setting in zip(means, settings, strict=True)
        ]
    rest = [np.subtract(losses, luck[: len(losses)]) for losses in again]
    deviation = float(np.sqrt(sum(((of - of.mean()) ** 2).sum() for of in rest) / freedom))
    return [
        mean + _CAUTION * deviation / len(setting.losses) ** 0.5 for mean, setting in zip(means, settings, strict=True)
    ]


def _share(one: SettingRange, value: float) -> float:
    """Where a value lies in its range, from 0 to 1: the inverse of `SettingRange.at`."""
    low, high, at = (np.log10([one.low, one.high, value]) if one.log else np.array([one.low, one.high, value])).tolist()
    return float(np.clip((at - low) / (high - low), 0.0, 1.0))

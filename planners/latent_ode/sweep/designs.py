"""Designs of sweeps: which schedules are run, so that a model can learn how training responds to the rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lr_env.rollout import PlannedRun
from planners.piecewise import knots_at
from planners.schedule import Schedule
from planners.schedules import WSD, Constant, Cosine, Knee, Linear, OneCycle, Polynomial, Step, WSDSqrt
from planners.tuning.search_space import Point, schedule_at, sobol

Range = tuple[float, float]

KNOTS = 6
"""Knots of a random schedule."""

MIN_RATE_SHARE = 1e-3
"""Smallest last rate of a random schedule, as a share of its peak."""


def wsd_schedules(count: int, rates: Range, seed: int) -> list[Schedule]:
    """Draw warm-up, stable, decay schedules: the shape that was best, or nearly so, in all studies.

    The peak is log-uniform, the cool-down takes 10 to 90 % of the run, linear or by a square root, the warm-up 2 to
    10 %; all of one scrambled Sobol sequence.
    """
    return [
        schedule_at(("wsd", "wsd-sqrt")[number % 2], Point(*at), rates)
        for number, at in enumerate(sobol(count, 3, seed).tolist())
    ]


def wsd(runs: int, rates: Range, seeds: list[int], seed: int) -> list[PlannedRun]:
    """Design runs of `wsd_schedules`."""
    schedules = wsd_schedules(runs, rates, seed)
    return [PlannedRun(schedule, of_run) for schedule, of_run in zip(schedules, seeds, strict=True)]


def paper(runs: int, rates: Range, seeds: list[int], seed: int) -> list[PlannedRun]:
    """Design runs of cosine, one-cycle, constant and staircase schedules at five peaks, as in arXiv:2509.23052.

    The 100 runs of the paper are 4 schedules x 5 rates x 5 seeds. In fewer runs, those come first that differ most in
    schedule and rate.
    """
    grid = np.geomspace(*rates, 5)
    kinds: tuple[Callable[[float], Schedule], ...] = (
        Cosine,
        OneCycle,
        Constant,
        lambda peak: Step(peak, stages=3, gamma=0.5),
    )
    order = [(turn + kind) % len(grid) for turn in (2, 4, 1, 3, 0) for kind in range(len(kinds))]
    cells = [kinds[number % len(kinds)](float(grid[rate])) for number, rate in enumerate(order)]
    return [PlannedRun(cells[run % len(cells)], seeds[run]) for run in range(runs)]


def random(runs: int, rates: Range, seeds: list[int], seed: int) -> list[PlannedRun]:
    """Design runs of random schedules: straight lines of the log rate between knots.

    The peak is log-uniform, the knots lie below it, uniform in the log, and the last one lies lower than the others
    more often than not. All is of one scrambled Sobol sequence, so that few runs cover the space evenly.
    """
    drawn = sobol(runs, KNOTS + 1, seed)
    peaks = np.log(rates[0]) + drawn[:, 0] * np.log(rates[1] / rates[0])
    depth = np.full(KNOTS, np.log(10.0))
    depth[-1] = np.log(1 / MIN_RATE_SHARE)
    logs = peaks[:, None] - drawn[:, 1:] * depth
    logs += (peaks - logs.max(1))[:, None]
    return [PlannedRun(knots_at(np.exp(row)), seeds[run]) for run, row in enumerate(logs)]


def mixed(runs: int, rates: Range, seeds: list[int], seed: int) -> list[PlannedRun]:
    """Design runs of which two in five have schedules in common use, at different peaks, and the others random ones."""
    parametric = round(0.4 * runs)
    drawn = sobol(max(parametric, 1), 2, seed + 1)[:parametric]
    kinds: tuple[Callable[[float, float], Schedule], ...] = (
        lambda peak, share: WSD(peak, cooldown=0.2 + 0.6 * share),
        lambda peak, share: Cosine(peak),
        lambda peak, share: OneCycle(peak, pct_start=0.1 + 0.3 * share),
        lambda peak, share: Constant(peak),
        lambda peak, share: WSDSqrt(peak, cooldown=0.2 + 0.6 * share),
        lambda peak, share: Linear(peak),
        lambda peak, share: Step(peak, stages=3, gamma=0.1 + 0.4 * share),
        lambda peak, share: Polynomial(peak, power=0.5 + 1.5 * share),
        lambda peak, share: Knee(peak, explore=0.3 + 0.4 * share),
    )
    peaks = rates[0] * (rates[1] / rates[0]) ** drawn[:, 0]
    named = [
        PlannedRun(kinds[run % len(kinds)](float(peaks[run]), float(drawn[run, 1])), seeds[run])
        for run in range(parametric)
    ]
    return named + random(runs - parametric, rates, seeds[parametric:], seed)


DESIGNS: dict[str, Callable[[int, Range, list[int], int], list[PlannedRun]]] = {
    "paper": paper,
    "random": random,
    "mixed": mixed,
    "wsd": wsd,
}
"""Name -> function of (number of runs, range of peaks, seed of each run, seed of the design)."""

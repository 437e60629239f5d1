"""The sweep that a model is fitted to: runs of a design, or runs that a model proposes round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from lr_env.runs.study import Study

from lr_env.errors import UserError, unknown
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.records.store import Store
from lr_env.rollout import PlannedRun, not_made_before
from lr_env.tasks import Task
from planners.latent_ode.artifact import Trained
from planners.latent_ode.data.dataset import FEWEST_RUNS, Floats, series
from planners.latent_ode.filtering.response import Response
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.fitting.fit_artifact import trained_on
from planners.latent_ode.planning.problem import Left, problem
from planners.latent_ode.planning.search import GRID, Search, search
from planners.latent_ode.sweep.designs import DESIGNS
from planners.piecewise import knots_at
from planners.tuning.tuners import planner_of

ADAPTIVE = "adaptive"
"""The design whose runs, after the first ones, a model proposes that was fitted to those before."""

BEGINNING = "wsd"
"""The design of its first runs."""

FIRST_SEED = 2_000_000
"""Seeds of sweeps count up from here, far from those of tuning and those that people choose."""

SEEDS, SHARING = 4, 5
"""In turns so many seeds are used, each for so many runs; then the next ones."""

_SEEDS_APART, MOST_RUNS = 1_000, 5_000  # as many runs have so many seeds
_TRUST = 0.3
"""How far proposals may leave the rates of good runs, in the log: runs are made to find out."""


@dataclass(frozen=True)
class Sweep:
    """Which runs a sweep is made of.

    Attributes:
        design: a name in `DESIGNS`, or `ADAPTIVE`.
        runs: how many.
        rates: smallest and largest peak rate.
        seed: of the design, and of the children.

    Raises:
        UserError: there is no such design, there are too few runs, or rates are not in order.
    """

    design: str
    runs: int
    rates: tuple[float, float]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.design not in (known := {ADAPTIVE, *DESIGNS}):
            raise unknown("design", self.design, known)
        low, high = self.rates
        if not (0 < low < high < np.inf):
            raise UserError(f"rates {low:g}:{high:g}: give LOW below HIGH, both finite and above 0")
        if not FEWEST_RUNS <= self.runs <= MOST_RUNS:
            raise UserError(f"{self.runs} runs: a model needs at least {FEWEST_RUNS} (and at most {MOST_RUNS:,})")
        check_seed(self.seed)

    @property
    def seeds(self) -> list[int]:
        """That of each run, see `seed_number_of`."""
        first = FIRST_SEED + self.seed * _SEEDS_APART
        return [first + seed_number_of(self.design, run) for run in range(self.runs)]

    @property
    def rounds(self) -> list[int]:
        """Runs of each round; but for `ADAPTIVE` there is one.

        Each round of it is half as large as all before: to refit takes as long as some runs, and runs in lockstep are
        cheaper.
        """
        if self.design != ADAPTIVE:
            return [self.runs]
        sizes: list[int] = []
        while sum(sizes) < self.runs:
            sizes.append(min(next_round(sum(sizes)), self.runs - sum(sizes)))
        return sizes


def check_seed(seed: int) -> None:
    """See that a sweep's seed leaves room for the seeds of its children before those of other studies.

    Raises:
        UserError: it does not.
    """
    if not 0 <= seed < 1_000:
        raise UserError(f"seed {seed}: give a whole number from 0 to 999")


def seed_number(run: int) -> int:
    """Which seed a run of a sweep is made on, from 0.

    Runs that share one are told apart by their schedules more than by their luck, but what is best on one seed alone is
    not best on others. The order in which the seeds come changes all the time, so that none goes with a kind of
    schedule that comes again every few runs.
    """
    order = np.random.default_rng(run // SEEDS).permutation(SEEDS)
    return run // (SEEDS * SHARING) * SEEDS + int(order[run % SEEDS])


def seed_number_of(design: str, run: int) -> int:
    """The same of a design: the paper has each of its twenty schedules on the same five seeds."""
    return run // 20 if design == "paper" else seed_number(run)


def next_round(done: int) -> int:
    """Runs of the next round of an adaptive sweep, after so many."""
    return max(FEWEST_RUNS // 2, done // 2) if done else FEWEST_RUNS


def sweep(wanted: Sweep, study: Study) -> list[RunRecord]:
    """Make the runs of a sweep, or what is left of them.

    Args:
        wanted: which.
        study: of what, and where it is kept.

    Returns:
        The runs, with their curves.

    Raises:
        UserError: another process works on it, it was begun otherwise, or too few runs are usable.
    """
    store, name = study.store, study.name
    with study.opened({"sweep": asdict(wanted)}, at_once=wanted.runs, runs=wanted.runs) as experiment:
        known: list[RunRecord] = []
        for phase, size, seeds in _phases(wanted):
            planned = _begun(store, name, phase, size) or _in_order(_next(wanted, study.task, known, seeds))
            experiment.run(planned, phase, ("val",), study.telling("sweeping"))
            known += _made(store, name, phase)
        return known


def _made(store: Store, name: str, phase: str) -> list[RunRecord]:
    """The finished runs of a round, with curves."""
    return [run for run in sorted(store.runs(name, phase, curves=True), key=run_key) if run.status == "finished"]


def _phases(wanted: Sweep) -> Iterator[tuple[str, int, list[int]]]:
    """Name in the store, size and seeds of each round."""
    first = 0
    for number, size in enumerate(wanted.rounds):
        yield f"round-{number}", size, wanted.seeds[first : first + size]
        first += size


def _begun(store: Store, name: str, phase: str, size: int) -> list[PlannedRun] | None:
    """The runs of a round that was begun: they are not proposed anew."""
    records = store.runs(name, phase)
    if len(records) != size:
        return None
    return _in_order([PlannedRun(planner_of(run), run.seed) for run in records])


def _in_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The same order whenever: neighbours in a stack change the last bits of a run."""
    return sorted(runs, key=run_key)


def _next(wanted: Sweep, task: Task, known: Sequence[RunRecord], seeds: list[int]) -> list[PlannedRun]:
    """The runs of a round."""
    planners = proposed(wanted.design, task, wanted.rates, wanted.seed, known, len(seeds))
    return not_made_before(planners, seeds, known)


def proposed(
    design: str, task: Task, rates: tuple[float, float], seed: int, known: Sequence[RunRecord], count: int
) -> list[Planner]:
    """The next schedules of a sweep.

    Args:
        design: its name.
        task: what is trained.
        rates: smallest and largest peak rate.
        seed: of the sweep.
        known: runs so far, with curves.
        count: how many.
    """
    if known and design == ADAPTIVE:
        return adapted(task, seed, known, count)
    total = len(known) + count
    made = DESIGNS[BEGINNING if design == ADAPTIVE else design](total, rates, [0] * total, seed)
    return [run.planner for run in made[len(known) :]]


def adapted(task: Task, seed: int, known: Sequence[RunRecord], count: int) -> list[Planner]:
    """The next schedules of an adaptive sweep: what a model of the runs so far proposes.

    Args:
        task: what is trained.
        seed: of the sweep.
        known: runs so far, with curves.
        count: how many.
    """
    runs = series(known, task.budget)
    trained, _ = trained_on(runs, Fitting(corrections=0, seed=seed * 1000 + len(known)))
    return [knots_at(rates) for rates in proposals(trained, task.lr_range, count, seed * _SEEDS_APART + len(known))]


def proposals(trained: Trained, lr_range: tuple[float, float], count: int, seed: int) -> list[Floats]:
    """Schedules that are worth a run: each is the best that one member of the ensemble can think of.

    As in Thompson sampling, they differ as much as the members do.

    Args:
        trained: the model.
        lr_range: smallest and largest rate that may be set.
        count: how many.
        seed: of the searches.

    Returns:
        Rates at `GRID` evenly spaced times, for each.
    """
    settings, beginning = Search(pessimism=0.0), trained.ensemble.beginning(1)
    usual = Response.usual(*beginning.shape[:2])
    found = []
    for number in range(count):
        member = number % trained.ensemble.sizes.members
        what, family = problem(trained, beginning, Left(0.0, 1.0, lr_range), _TRUST, usual, member)
        plans = search(what, family, torch.empty(1, 0, GRID), settings, [[seed, number]])
        found.append(np.exp(plans[0, 0].numpy().astype(np.float64) + trained.scales.log_rate))
    return found

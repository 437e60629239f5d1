"""The sweep that a model is fitted to: runs of a fixed design, or runs that a model proposes round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import torch

from lr_env.errors import UserError, unknown
from lr_env.objectives import Objective
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.rollout import PlannedRun, not_made_before
from lr_env.runs.lab import Lab
from lr_env.seeds import PER_SWEEP, SWEEPS
from lr_env.tasks import Task
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.channels import Floats
from planners.latent_ode.data.dataset import MIN_RUNS, run_dataset
from planners.latent_ode.filtering.state import StateEstimator
from planners.latent_ode.fitting.fit import Fitting
from planners.latent_ode.fitting.fit_artifact import fit_artifact
from planners.latent_ode.planning.problem import RemainingRun, build_problem
from planners.latent_ode.planning.search import GRID, SearchSettings, search
from planners.latent_ode.sweep.designs import DESIGNS
from planners.piecewise import knots_at
from planners.tuning.tuners import planner_of

ADAPTIVE = "adaptive"
"""The design in which, after the first runs, a model fitted to the runs so far proposes the next ones."""

INITIAL_DESIGN = "wsd"
"""The design of the first runs of an adaptive sweep."""

SEEDS, RUNS_PER_SEED = 4, 5
"""So many seeds are used in turns, each for so many runs; then the next ones."""

MOST_RUNS = 5_000  # the largest sweep has as many seeds
_TRUST_RADIUS = 0.3
"""Trust radius of proposals, in the log: wider than that of plans, because these runs explore."""


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep.

    Attributes:
        design: a name in `DESIGNS`, or `ADAPTIVE`.
        runs: number of runs.
        rates: smallest and largest peak rate.
        seed: seed of the design, and of the children.

    Raises:
        UserError: there is no such design, too few or too many runs, or rates that do not rise.
    """

    design: str
    runs: int
    rates: tuple[float, float]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.design not in (names := {ADAPTIVE, *DESIGNS}):
            raise unknown("design", self.design, names)
        low, high = self.rates
        if not (0 < low < high < np.inf):
            raise UserError(f"rates {low:g}:{high:g}: give LOW below HIGH, both finite and above 0")
        if not MIN_RUNS <= self.runs <= MOST_RUNS:
            raise UserError(f"{self.runs} runs: a model needs at least {MIN_RUNS} (and at most {MOST_RUNS:,})")
        check_seed(self.seed)

    @property
    def seeds(self) -> list[int]:
        """Seed of each run, see `seed_number`."""
        first = SWEEPS.start + self.seed * PER_SWEEP
        return [first + seed_number(self.design, run) for run in range(self.runs)]

    @property
    def rounds(self) -> list[int]:
        """Number of runs of each round; only an adaptive sweep has several.

        Each of its rounds is half as large as all before: a new fit takes as long as some runs, and runs in lockstep
        are cheaper.
        """
        if self.design != ADAPTIVE:
            return [self.runs]
        sizes: list[int] = []
        while sum(sizes) < self.runs:
            sizes.append(min(next_round(sum(sizes)), self.runs - sum(sizes)))
        return sizes


def check_seed(seed: int) -> None:
    """Check that the seeds of a sweep's children stay below those of other studies.

    Raises:
        UserError: they do not.
    """
    if not 0 <= seed < 1_000:
        raise UserError(f"seed {seed}: give a whole number from 0 to 999")


def seed_number(design: str, run: int) -> int:
    """Return the number of the seed of a run, from 0.

    Runs that share a seed differ by their schedules and not by luck, but the best schedule on one seed is not the best
    on others. The order of the seeds changes all the time, so that no seed goes with a kind of schedule that returns
    every few runs. The design of the paper has each of its twenty schedules on the same five seeds.
    """
    if design == "paper":
        return run // 20
    order = np.random.default_rng(run // SEEDS).permutation(SEEDS)
    return run // (SEEDS * RUNS_PER_SEED) * SEEDS + int(order[run % SEEDS])


def next_round(done: int) -> int:
    """Return the number of runs of the next round of an adaptive sweep, after so many runs."""
    return max(MIN_RUNS // 2, done // 2) if done else MIN_RUNS


def sweep(settings: Sweep, lab: Lab) -> list[RunRecord]:
    """Run a sweep, or what is left of it, and return its runs with their curves.

    Raises:
        UserError: another process works on it, it was started with other settings, or too few runs are usable.
    """
    store, name, objective = lab.store, lab.name, Objective.of(lab.task)
    with lab.experiment({"sweep": asdict(settings)}, at_once=settings.runs, runs=settings.runs) as experiment:
        finished: list[RunRecord] = []
        seeds = iter(settings.seeds)
        for number, size in enumerate(settings.rounds):
            phase, seeds_of_round = f"round-{number}", list(islice(seeds, size))
            started = store.runs(name, phase)
            if len(started) == size:  # its runs are not proposed again
                planned = [PlannedRun(planner_of(run), run.seed) for run in started]
            else:
                seen = [objective.as_loss(run) for run in finished]
                planners = next_schedules(settings.design, lab.task, settings.rates, settings.seed, seen, size)
                planned = not_made_before(planners, seeds_of_round, finished)
            # Neighbours in a stack change the last bits of a run.
            experiment.run(sorted(planned, key=run_key), phase, ("val",), lab.reporting("sweeping"))
            runs = sorted(store.runs(name, phase, curves=True), key=run_key)
            finished += [run for run in runs if run.status == "finished"]
        return finished


def next_schedules(
    design: str, task: Task, rates: tuple[float, float], seed: int, finished: Sequence[RunRecord], count: int
) -> list[Planner]:
    """Return the next schedules of a sweep: those of its design, or those that a model of the runs so far proposes.

    `rates` is the range of peaks; the finished runs have their curves, and the objective in the place of the validation
    loss.
    """
    done = len(finished)
    if finished and design == ADAPTIVE:
        fitted, _ = fit_artifact(run_dataset(finished, task.budget), Fitting(corrections=0, seed=seed * 1000 + done))
        proposals = thompson_proposals(fitted, task.lr_range, count, seed * PER_SWEEP + done)
        return [knots_at(rates) for rates in proposals]
    total = done + count
    runs = DESIGNS[INITIAL_DESIGN if design == ADAPTIVE else design](total, rates, [0] * total, seed)
    return [run.planner for run in runs[done:]]


def thompson_proposals(fitted: FittedModel, lr_range: tuple[float, float], count: int, seed: int) -> list[Floats]:
    """Propose schedules for the next runs, as their rates at `GRID` evenly spaced times.

    Each is the best by a single member of the ensemble, in turns. As in Thompson sampling, proposals differ as much as
    the members do.
    """
    settings, start = SearchSettings(pessimism=0.0), StateEstimator(fitted.ensemble).initial(1)
    schedules = []
    for number in range(count):
        member = number % fitted.ensemble.sizes.members
        remaining = RemainingRun(0.0, 1.0, lr_range)
        problem, family = build_problem(fitted, start.state, remaining, _TRUST_RADIUS, start.response, member)
        plans = search(problem, family, torch.empty(1, 0, GRID), settings, [[seed, number]])
        schedules.append(np.exp(plans[0, 0].numpy().astype(np.float64) + fitted.scales.log_rate))
    return schedules

"""Tuners without a model of training: they search families of schedules, or knots of the rate, by final losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.registry import make_planner
from lr_env.tasks import Task
from planners.piecewise import Knots, knots_at
from planners.settings import Array
from planners.tuning.search_space import FAMILIES, Point, schedule_at, sobol

UNLIMITED_BATCH = 1000
"""Batch size of tuners whose proposals do not depend on results."""

RUNS_PER_SEED = 20
"""Number of consecutive runs that share a seed."""


def final_val_loss(record: RunRecord) -> float:
    """Return the loss on the whole validation split at the end of a run, infinite if it diverged."""
    return record.end("final_val_loss")


def planner_of(record: RunRecord) -> Planner:
    """Return the planner of a run."""
    if record.planner == Knots.name:
        return Knots(**record.settings)
    return make_planner(record.planner, record.settings)


class BestRunTuner(ABC):
    """A tuner that selects the planner of the best run."""

    name: str

    def batch_size(self, done: int) -> int:
        """Return the number of runs to propose at once: any number."""
        return UNLIMITED_BATCH

    def seed_index(self, run: int) -> int:
        """Return the index of the seed of a run. Consecutive runs share one, so that luck decides less among them."""
        return run // RUNS_PER_SEED

    @abstractmethod
    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Return the planners of the next `count` runs."""

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """Return the planner of the run with the lowest final loss."""
        return planner_of(min(records, key=final_val_loss))


class KnowingTuner(ABC):
    """A tuner that knows something before the first run of a task. It makes none, unless it says otherwise."""

    name: str
    most_runs: ClassVar[int | None] = 0

    def batch_size(self, done: int) -> int:
        """Return 1, because each run depends on those before."""
        return 1

    def seed_index(self, run: int) -> int:
        """Return the index of the seed of a run, as other tuners have it."""
        return run // RUNS_PER_SEED

    def check(self, runs: Sequence[int]) -> None:
        """Check that it makes so many runs.

        Raises:
            UserError: it does not.
        """
        if self.most_runs is not None and max(runs) > self.most_runs:
            raise UserError(f"{max(runs)} runs of tuner {self.name!r}: it makes none")

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Refuse: it makes no runs.

        Raises:
            UserError: always.
        """
        raise UserError(f"tuner {self.name!r} makes no runs")


@dataclass(frozen=True)
class FamilySearch(BestRunTuner, ABC):
    """A search over families of schedules and their settings.

    Attributes:
        name: name of the tuner.
        families: names of families in `planners.tuning.search_space.FAMILIES`.
    """

    name: str
    families: tuple[str, ...]


@dataclass(frozen=True)
class SobolSearch(FamilySearch):
    """A quasi-random search: families of schedules take turns, with settings from a scrambled Sobol sequence."""

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Return the next schedules of the sequence."""
        first = len(records)
        points = sobol(first + count, 3, seed)[first:]
        return [
            schedule_at(self.families[(first + number) % len(self.families)], Point(*at), task.tuning_range)
            for number, at in enumerate(points.tolist())
        ]


@dataclass(frozen=True)
class TPE(FamilySearch):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) over families of schedules and their settings.

    It proposes one run after another. A run that diverged counts as the worst earlier run that did not, or as infinite
    if there is none.
    """

    def batch_size(self, done: int) -> int:
        """Return 1, because each run depends on those before."""
        return 1

    def check(self, runs: Sequence[int]) -> None:
        """Check that Optuna is installed.

        Raises:
            UserError: it is not.
        """
        import_optuna("tuner 'tpe'")

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Return the schedules that the estimator proposes.

        Raises:
            UserError: Optuna is not installed.
        """
        optuna = import_optuna("tuner 'tpe'")
        unit = optuna.distributions.FloatDistribution(0.0, 1.0)
        space = {"family": optuna.distributions.CategoricalDistribution(self.families)}
        space |= {"peak": unit, "shape": unit, "warmup": unit}
        # Nothing is stored between calls: with the same seed, Optuna asks for the same points again.
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        worst, proposals = np.inf, []
        for loss in [*map(final_val_loss, records), *[None] * count]:
            trial = study.ask(space)
            if loss is None:
                point = Point(*(trial.params[name] for name in ("peak", "shape", "warmup")))
                proposals.append(schedule_at(trial.params["family"], point, task.tuning_range))
            else:
                if np.isfinite(loss):
                    worst = loss if np.isinf(worst) else max(worst, loss)
                study.tell(trial, loss if np.isfinite(loss) else worst)
        return proposals


@dataclass(frozen=True)
class DirectSearch(BestRunTuner):
    """The cross-entropy method over knots of the log rate, on real training: a reference for the best schedule.

    It needs many runs. In each round, schedules are drawn from a normal distribution and trained on a few seeds; the
    best of them (elites) give the distribution of the next round. The mean of the last distribution is selected.

    Attributes:
        name: name of the tuner.
        knots: number of evenly spaced knots.
        schedules: schedules in a round.
        seeds: seeds for each schedule.
        elites: number of best schedules that give the next distribution.
    """

    name: str = "direct"
    knots: int = 6
    schedules: int = 20
    seeds: int = 2
    elites: int = 5

    def batch_size(self, done: int) -> int:
        """Return the number of runs in a round, or those left of it."""
        round_size = self.schedules * self.seeds
        return round_size - done % round_size

    def check(self, runs: Sequence[int]) -> None:
        """Check that every tuning budget has at least one round.

        Raises:
            UserError: one has less.
        """
        if min(runs) < self.batch_size(0):
            raise UserError(f"{min(runs)} runs of tuner {self.name!r}: give at least {self.batch_size(0)}, one round")

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Return each schedule of the round once for each seed, without the runs of the round that are done."""
        mean, spread = self._distribution(task, seed, records)
        rounds, done = divmod(len(records), self.batch_size(0))
        drawn = np.random.default_rng([seed, rounds]).standard_normal((self.schedules, self.knots))
        planners = map(self._planner(task), mean + spread * drawn)
        return [planner for planner in planners for _ in range(self.seeds)][done : done + count]

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """Return the mean of the last distribution."""
        return self._planner(task)(self._distribution(task, seed, records)[0])

    def _planner(self, task: Task) -> Callable[[Array], Planner]:
        return lambda logs: knots_at(np.exp(np.clip(logs, *np.log(task.lr_range))))

    def _distribution(self, task: Task, seed: int, records: Sequence[RunRecord]) -> tuple[Array, Array]:
        """Return mean and standard deviation of the log rates at the knots, each (knots,)."""
        low, high = np.log(task.tuning_range)
        mean, spread = np.full(self.knots, (low + high) / 2), np.full(self.knots, (high - low) / 4)
        mean[-1] -= 3.0
        size = self.batch_size(0)
        for start in range(0, len(records) // size * size, size):
            losses: dict[Knots, list[float]] = {}
            for record in records[start : start + size]:
                losses.setdefault(Knots(**record.settings), []).append(final_val_loss(record))
            best = sorted(losses, key=lambda planner: float(np.mean(losses[planner])))[: self.elites]
            logs = np.array([np.log(planner.peak) + np.log(planner.levels) for planner in best])
            mean, spread = logs.mean(0), np.maximum(logs.std(0), 0.05)
        return mean, spread


def import_optuna(who: str) -> Any:
    """Import Optuna, which says nothing but errors from then on.

    Args:
        who: what needs it, for the error message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"{who} needs Optuna: pip install 'lr-env[tuners]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


WSDS = ("wsd", "wsd-sqrt")


def wsd() -> SobolSearch:
    """A Sobol search over WSD schedules, with linear and 1-sqrt cool-downs."""
    return SobolSearch("wsd", WSDS)


def random() -> SobolSearch:
    """A Sobol search over all families of schedules."""
    return SobolSearch("random", tuple(FAMILIES))


def tpe() -> TPE:
    """The tree-structured Parzen estimator of Optuna over all families of schedules."""
    return TPE("tpe", tuple(FAMILIES))


def wsd_tpe() -> TPE:
    """The tree-structured Parzen estimator of Optuna over WSD schedules."""
    return TPE("wsd-tpe", WSDS)


def direct() -> DirectSearch:
    """A search over knots of the rate by real training: the reference for the best schedule."""
    return DirectSearch()

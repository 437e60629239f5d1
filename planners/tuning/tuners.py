"""Tuners that know no model of training: they search families of schedules, or their knots, by how runs ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.registry import make_planner
from lr_env.tasks import Task
from planners.piecewise import Knots, knots_at
from planners.tuning.search_space import FAMILIES, Floats, Point, schedule_at, sobol

UNLIMITED_BATCH = 1000
"""Runs that are proposed at once by tuners that do not look at how runs end."""

RUNS_PER_SEED = 20
"""Runs in a row that share a seed."""


def final_val_loss(record: RunRecord) -> float:
    """Loss on the whole validation split at the end, infinite if the run diverged."""
    return record.end("final_val_loss")


def planner_of(record: RunRecord) -> Planner:
    """The planner that a run was made with."""
    if record.planner == Knots.name:
        return Knots(**record.settings)
    return make_planner(record.planner, record.settings)


class BestRunTuner(ABC):
    """A tuner whose answer is what the best run was made with."""

    name: str

    def batch_size(self, done: int) -> int:
        """All at once."""
        return UNLIMITED_BATCH

    def seed_index(self, run: int) -> int:
        """Runs in a row share one: the best of them is then so by what made it, more than by luck."""
        return run // RUNS_PER_SEED

    @abstractmethod
    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """What to run next."""

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The planner of the run that ended lowest."""
        return planner_of(min(records, key=final_val_loss))


@dataclass(frozen=True)
class SobolSearch(BestRunTuner):
    """Families of schedules in turn, their settings by a scrambled Sobol sequence.

    Attributes:
        name: of the tuner.
        families: names in `planners.tuning.search_space.FAMILIES`.
    """

    name: str
    families: tuple[str, ...]

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """The next of the sequence."""
        first = len(records)
        points = sobol(first + count, 3, seed)[first:]
        return [
            schedule_at(self.families[(first + number) % len(self.families)], Point(*at), task.tuning_range)
            for number, at in enumerate(points.tolist())
        ]


@dataclass(frozen=True)
class TPE(BestRunTuner):
    """The tree-structured Parzen estimator (Bergstra et al. 2011) over families and their settings, through Optuna.

    One run after the other; a run that diverged counts as the worst of those before that did not, and if there is none
    as infinite.

    Attributes:
        name: of the tuner.
        families: names in `planners.tuning.search_space.FAMILIES`.
    """

    name: str
    families: tuple[str, ...]

    def batch_size(self, done: int) -> int:
        """One, for each depends on those before."""
        return 1

    def check(self, runs: Sequence[int]) -> None:
        """See that Optuna is there.

        Raises:
            UserError: it is not.
        """
        _optuna()

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """What the estimator asks for.

        Raises:
            UserError: Optuna is not installed.
        """
        optuna = _optuna()
        unit = optuna.distributions.FloatDistribution(0.0, 1.0)
        space = {"family": optuna.distributions.CategoricalDistribution(self.families)}
        space |= {"peak": unit, "shape": unit, "warmup": unit}
        # It keeps no points: the same seed asks for the same ones again.
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        worst, found = np.inf, []
        for end in [*map(final_val_loss, records), *[None] * count]:
            trial = study.ask(space)
            if end is None:
                point = Point(*(trial.params[name] for name in ("peak", "shape", "warmup")))
                found.append(schedule_at(trial.params["family"], point, task.tuning_range))
            else:
                if np.isfinite(end):
                    worst = end if np.isinf(worst) else max(worst, end)
                study.tell(trial, end if np.isfinite(end) else worst)
        return found


@dataclass(frozen=True)
class DirectSearch(BestRunTuner):
    """The cross-entropy method on real training over knots of the log rate: a ceiling for schedules, at a high price.

    A round of schedules at a time, each run on a few seeds; the elites of a round give the distribution of the next.
    The answer is the mean of the last one.

    Attributes:
        name: of the tuner.
        knots: at equal distances.
        schedules: in a round.
        seeds: for each of them.
        elites: best of them.
    """

    name: str = "direct"
    knots: int = 6
    schedules: int = 20
    seeds: int = 2
    elites: int = 5

    def batch_size(self, done: int) -> int:
        """All runs of a round, or what is left of it."""
        whole = self.schedules * self.seeds
        return whole - done % whole

    def check(self, runs: Sequence[int]) -> None:
        """See that there is something to answer by.

        Raises:
            UserError: there are budgets of less than a round.
        """
        if min(runs) < self.batch_size(0):
            raise UserError(f"{min(runs)} runs of tuner {self.name!r}: give at least {self.batch_size(0)}, one round")

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Each schedule of the round as often as it has seeds; of a round that was begun, what is left."""
        mean, spread = self._distribution(task, seed, records)
        done, begun = divmod(len(records), self.batch_size(0))
        drawn = np.random.default_rng([seed, done]).standard_normal((self.schedules, self.knots))
        planners = map(self._planner(task), mean + spread * drawn)
        return [planner for planner in planners for _ in range(self.seeds)][begun : begun + count]

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The mean of the last distribution."""
        return self._planner(task)(self._distribution(task, seed, records)[0])

    def _planner(self, task: Task) -> Callable[[Floats], Planner]:
        return lambda logs: knots_at(np.exp(np.clip(logs, *np.log(task.lr_range))))

    def _distribution(self, task: Task, seed: int, records: Sequence[RunRecord]) -> tuple[Floats, Floats]:
        """Mean and deviation of the log rates at the knots."""
        low, high = np.log(task.tuning_range)
        mean, spread = np.full(self.knots, (low + high) / 2), np.full(self.knots, (high - low) / 4)
        mean[-1] -= 3.0
        size = self.batch_size(0)
        for start in range(0, len(records) // size * size, size):
            ends: dict[Knots, list[float]] = {}
            for record in records[start : start + size]:
                ends.setdefault(Knots(**record.settings), []).append(final_val_loss(record))
            best = sorted(ends, key=lambda planner: float(np.mean(ends[planner])))[: self.elites]
            logs = np.array([np.log(planner.peak) + np.log(planner.levels) for planner in best])
            mean, spread = logs.mean(0), np.maximum(logs.std(0), 0.05)
        return mean, spread


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("tuner 'tpe' needs Optuna: pip install 'lr-env[tuners]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


ALL = tuple(FAMILIES)
WSDS = ("wsd", "wsd-sqrt")


def wsd() -> SobolSearch:
    """WSD alone, linear and by a square root."""
    return SobolSearch("wsd", WSDS)


def random() -> SobolSearch:
    """All families."""
    return SobolSearch("random", ALL)


def tpe() -> TPE:
    """All families."""
    return TPE("tpe", ALL)


def wsd_tpe() -> TPE:
    """WSD alone."""
    return TPE("wsd-tpe", WSDS)


def direct() -> DirectSearch:
    """The ceiling."""
    return DirectSearch()

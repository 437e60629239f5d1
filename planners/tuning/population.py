"""Population-based training: children in lockstep, of which the worst go on from copies of the best at other rates."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lr_env.children import Children, Execution
from lr_env.errors import UserError
from lr_env.files import write_text
from lr_env.objectives import Objective
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.tasks import Task
from planners.piecewise import Knots, knots_at
from planners.settings import Array
from planners.tuning.bandit import TimeVaryingBandit
from planners.tuning.search_space import sobol

_REPLACED = 0.25
"""Share of the population that goes on from a copy of a better member: the worst, from members of the best."""

_INTERVALS = 20
"""Times in a run at which members are compared."""

_FACTORS = (0.8, 1.25)
"""By which a copied rate is multiplied, either with a probability of one half (Jaderberg et al. 2017)."""

_SMALLEST_POPULATION = 4


@dataclass(frozen=True)
class Population(ABC):
    """A tuner that trains a population once, and selects the schedule that its best member and its ancestors had.

    As many children as there are runs train in lockstep, each at a rate of its own, from a Sobol sequence on a log
    scale. Twenty times in a run the worst quarter goes on from copies of the best quarter, weights and optimizer
    included, at other rates. That costs the child steps of as many runs. The schedule of the member that ends best is
    then a planner like any other, and is trained anew on fresh seeds.
    """

    name: str

    reads_curves: ClassVar[bool] = True

    def batch_size(self, done: int) -> int:
        """Not used: it trains by itself."""
        return 1

    def seed_index(self, run: int) -> int:
        """Every member has a seed of its own."""
        return run

    def check(self, runs: Sequence[int]) -> None:
        """Check that a population is large enough.

        Raises:
            UserError: it is not.
        """
        if min(runs) < _SMALLEST_POPULATION:
            raise UserError(
                f"{min(runs)} runs of tuner {self.name!r}: a population has at least {_SMALLEST_POPULATION} members"
            )

    def propose(self, task: Task, seed: int, records: Sequence[RunRecord], count: int) -> Sequence[Planner]:
        """Refuse: it trains by itself.

        Raises:
            UserError: always.
        """
        raise UserError(f"tuner {self.name!r} trains its runs by itself: use `lr-env tuning-budget`")

    def select(self, task: Task, seed: int, records: Sequence[RunRecord], folder: Path) -> Planner:
        """Refuse, as `propose` does."""
        raise UserError(f"tuner {self.name!r} trains its runs by itself: use `lr-env tuning-budget`")

    def train(self, task: Task, seed: int, seeds: Sequence[int], execution: Execution, folder: Path) -> Planner:
        """Train a population, or read what an earlier call with the same arguments found.

        Args:
            task: what is trained.
            seed: of the procedure.
            seeds: of the members.
            execution: how they are trained.
            folder: where the result is kept.
        """
        file = folder / f"population-{len(seeds)}.json"
        told = {"tuner": self.name, "task": task.settings(), "seed": seed, "seeds": list(seeds)}
        if file.is_file():
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved.get("of") == json.loads(json.dumps(told)):
                return Knots(**saved["schedule"])
        schedule = self._trained(task, seed, seeds, execution)
        kept = {"peak": schedule.peak, "levels": list(schedule.levels)}
        write_text(file, json.dumps({"of": told, "schedule": kept}))
        return schedule

    def _trained(self, task: Task, seed: int, seeds: Sequence[int], execution: Execution) -> Knots:
        random, count = np.random.default_rng([seed, len(seeds)]), len(seeds)
        low, high = np.log(task.tuning_range)
        logs = low + (high - low) * sobol(count, 1, seed)[:, 0]
        children, history = Children(task, seeds, execution), np.empty((count, task.num_segments))
        learner = self.explorer(task)
        turns = {round((number + 1) * task.num_segments / _INTERVALS) for number in range(_INTERVALS - 1)}
        before: Array | None = None
        objective, train = Objective.of(task), np.full(count, np.inf)
        for segment in range(task.num_segments):
            if segment in turns:
                losses = _finite(objective.signals({"train_loss": train, **children.measure()})["val_loss"])
                learner.learn(segment, logs, losses, before)
                replaced = max(1, int(_REPLACED * count))
                order = np.argsort(losses, kind="stable")
                best, worst = order[:replaced], order[-replaced:]
                sources = random.choice(best, len(worst))
                for source, target in zip(sources.tolist(), worst.tolist(), strict=True):
                    children.fork([source], [target])
                    history[target] = history[source]
                losses[worst] = losses[sources]
                logs[worst] = np.clip(learner.rates(segment, logs[sources], losses[worst], random), low, high)
                before = losses
            train = children.train(np.exp(logs))
            history[:, segment] = np.exp(logs)
        loss, accuracy = children.evaluate("val")
        ends = {"val_loss": loss, "val_accuracy": 1 - accuracy, "final_train_loss": train}[objective.name]
        return knots_at(history[int(np.argmin(_finite(ends)))])

    @abstractmethod
    def explorer(self, task: Task) -> Explorer:
        """What chooses the rates of copies."""


class Explorer(ABC):
    """Chooses the rates of copied members."""

    @abstractmethod
    def learn(self, segment: int, logs: Array, losses: Array, before: Array | None) -> None:
        """See what rates were worth.

        Args:
            segment: that comes next.
            logs: log rates that the members had since the last turn, (members,).
            losses: validation losses of the members, (members,).
            before: the same at the last turn, after copying; None at the first one.
        """

    @abstractmethod
    def rates(self, segment: int, logs: Array, losses: Array, random: np.random.Generator) -> Array:
        """Log rates of copies, (copies,), given those of their sources and their losses."""


class Perturbing(Explorer):
    """Multiplies rates by 0.8 or 1.25 (Jaderberg et al. 2017)."""

    def learn(self, segment: int, logs: Array, losses: Array, before: Array | None) -> None:
        """Nothing is learned."""

    def rates(self, segment: int, logs: Array, losses: Array, random: np.random.Generator) -> Array:
        """The rates of the sources, each times one of two factors."""
        return logs + np.log(random.choice(_FACTORS, len(logs)))


class Bandit(Explorer):
    """Chooses rates by a bandit that knows how losses fell at which rates, and forgets with time (PB2)."""

    def __init__(self, log_range: tuple[float, float]) -> None:
        self._range = log_range
        self._seen: list[
            tuple[float, float, float]
        ] = []  # turn, position of the rate in its range, fall of the log loss
        self._turn = 0

    def learn(self, segment: int, logs: Array, losses: Array, before: Array | None) -> None:
        """Keep how far each member's log loss fell."""
        if before is not None:
            falls = np.log(before) - np.log(losses)
            self._seen += [(float(self._turn), *pair) for pair in zip(self._places(logs), falls, strict=True)]
        self._turn += 1

    def rates(self, segment: int, logs: Array, losses: Array, random: np.random.Generator) -> Array:
        """Rates with the highest upper confidence bounds, one after another, each as if it had been tried already."""
        if not self._seen:
            return Perturbing().rates(segment, logs, losses, random)
        turns, places, falls = np.array(self._seen).T
        bandit = TimeVaryingBandit(turns, places[:, None], falls)
        chosen = bandit.choose(float(self._turn), len(logs), random)[:, 0]
        low, high = self._range
        return low + (high - low) * chosen

    def _places(self, logs: Array) -> list[float]:
        low, high = self._range
        return ((logs - low) / (high - low)).tolist()


@dataclass(frozen=True)
class PBT(Population):
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): copies have 0.8 or 1.25 times the rate."""

    name: str = "pbt"

    def explorer(self, task: Task) -> Explorer:
        """Two factors."""
        return Perturbing()


@dataclass(frozen=True)
class PB2(Population):
    """Population-based bandits (Parker-Holder et al. 2020, arXiv:2002.02518): a bandit chooses the rates of copies."""

    name: str = "pb2"

    def explorer(self, task: Task) -> Explorer:
        """A bandit over the range of peak rates."""
        low, high = np.log(task.tuning_range).tolist()
        return Bandit((low, high))


def _finite(losses: NDArray[np.float64]) -> Array:
    """Losses, with a large number where a child diverged."""
    return np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=1e6, posinf=1e6)

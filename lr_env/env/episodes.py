"""N runs in lockstep as episodes: the common part of both environments."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lr_env.children import EXACT, Backend, Children, Execution, Numerics, fastest
from lr_env.children.snapshots import check_keys
from lr_env.copies import Copied
from lr_env.env import observations
from lr_env.env.actions import find_action
from lr_env.env.rewards import REWARDS
from lr_env.errors import UserError, find, guess, whole
from lr_env.jsonable import from_plain
from lr_env.planner import RunSpec
from lr_env.rates import clipped, numbers
from lr_env.records.record import FLATNESS_SCORES
from lr_env.signals import ALWAYS
from lr_env.tasks import Task, find_task
from lr_env.tasks.architecture import source_of_task
from lr_env.tasks.facts import facts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DIVERGED_MULTIPLE = 10.0
"""A run has diverged when a loss is not finite, or is above this multiple of the untrained child's validation loss."""

SCORED = {"val": ("final_val_loss", "final_val_accuracy"), "test": ("test_loss", "test_accuracy")}
"""Split scored at the end of a run -> the names of its loss and accuracy."""

FLATNESS = "flatness"
"""Another kind of score at the end of a run: the names are in `FLATNESS_SCORES`."""

_ARRAYS = {"over": "ended", "diverged": "diverged", "started": "started", "loss_bound": "loss_bound"}
"""Key in snapshots -> attribute."""

_START, _NOISE = 0x57A7, 0x7015  # separate the random streams of one seed


def _drawn(*origin: Any) -> np.random.Generator:
    return np.random.default_rng([int(number) for number in origin])


@dataclass(frozen=True)
class Outcome:
    """The result of one segment of N runs.

    Attributes:
        rewards: (num_envs,) float64.
        terminated: the run diverged, (num_envs,).
        truncated: the budget is spent, (num_envs,).
        scores: every name in `Episodes.score_names` -> (num_envs,); NaN for runs that did not end in this segment.
    """

    rewards: Floats
    terminated: Bools
    truncated: Bools
    scores: Mapping[str, Floats]


MakeChildren = Callable[[Task, Sequence[int], Execution, Sequence[str]], Any]
"""Makes children, or what has their interface."""


def _children_here(task: Task, seeds: Sequence[int], execution: Execution, extra_signals: Sequence[str]) -> Children:
    return Children(task, seeds, fastest(execution, task, len(seeds)), extra_signals=extra_signals)


class Episodes(Copied):
    """N runs of one task, each of which can be started from a seed at any time.

    Args:
        task: a task, its name, or the JSON that `lr_env.jsonable` made of it.
        num_envs: runs at a time.
        extra_signals: names of signals to measure on demand, see `lr_env.children.meters`.
        make_children: makes the children, of a task, seeds, an execution and names of signals; by default, those of
            this process by the fastest backend.
        action, groups, max_change, reward, score, ...: the arguments of `lr_env.LREnv`, which describes them.

    Attributes:
        signals: name in `lr_env.signals.ALWAYS` and `extra_signals` -> (num_envs,), measured at the end of the last
            segment. All are finite: a run that has diverged has the bound of divergence as its validation loss, and a
            training loss of at most that.
        ended: whether each run has ended; such a run rests until it is started again.
        diverged: whether it ended because it diverged.
        group_rates: the rates of the last step by groups of parameters, (num_envs, groups).
        loss_bound: the loss above which it diverges, nats per example.
        longest: optimizer steps of the longest run.
        last_step: step after which a run is truncated: `longest` for all, unless the owner sets one for each,
            (num_envs,).
        child_seconds: wall time spent on starting, training, measuring and scoring children.
    """

    def __init__(
        self,
        task: str | Task,
        num_envs: int,
        *,
        action: str = "lr",
        groups: bool = False,
        max_change: float = 1.05,
        reward: str = "improvement",
        score: Sequence[str] = ("val", "test"),
        start_rates: Sequence[float] = (),
        noise: float = 0.0,
        extra_signals: Sequence[str] = (),
        budget: int | None = None,
        segment: int | None = None,
        lr_range: Sequence[float] | None = None,
        max_episode_steps: int | None = None,
        device: str = "cpu",
        backend: str | Backend | Mapping[str, Any] = "auto",
        numerics: Numerics | Mapping[str, Any] = EXACT,
        make_children: MakeChildren | None = None,
    ) -> None:
        task = find_task(task) if isinstance(task, str) else from_plain(task)
        if not isinstance(task, Task):
            raise UserError(f"task is of type {type(task).__name__}: give a name in lr_env.TASKS, or a lr_env.Task")
        self.task = replace(
            task,
            budget=task.budget if budget is None else budget,
            segment=task.segment if segment is None else segment,
            lr_range=task.lr_range if lr_range is None else lr_range,  # type: ignore[arg-type] (made a tuple there)
        )
        self.longest = self.task.budget
        if max_episode_steps is not None:
            segments = whole("max_episode_steps", max_episode_steps)
            self.longest = min(self.task.budget, segments * self.task.segment)
        self.last_step: int | NDArray[np.int64] = self.longest
        self.num_envs = num_envs = whole("num_envs", num_envs)
        rates = numbers(() if start_rates is None else start_rates, "start_rates").reshape(-1)
        self.start_rates = self._in_range(rates if rates.size else [self.task.lr_start])
        if not 0 <= numbers(noise, "noise") < np.inf:
            raise UserError(f"noise is {noise}: it must be a finite number of at least 0")
        self.noise = float(noise)
        self.child_seconds = 0.0
        self.reward = find("reward", reward, REWARDS)
        kinds = (*SCORED, FLATNESS)
        score = (score,) if isinstance(score, str) else tuple(score)
        wrong = [kind for kind in score if kind not in kinds]
        if wrong:
            raise UserError(f"cannot score {wrong[0]!r} (there are: {', '.join(kinds)})")
        self.score = score
        if reward == "final" and "val" not in self.score:
            self.score = ("val", *self.score)
        execution = Execution(device, from_plain(backend), from_plain(numerics))
        self.children = (make_children or _children_here)(self.task, range(num_envs), execution, extra_signals)
        self.action = find_action(action, max_change, len(self.children.groups), groups)
        self.names = (*ALWAYS, *(name for name in self.children.extra_signals if name in extra_signals))
        self.ended = np.ones(num_envs, dtype=bool)
        self.diverged = np.zeros(num_envs, dtype=bool)
        self.started = np.zeros(num_envs, dtype=bool)
        table = np.zeros((len(self.names), num_envs))
        table[ALWAYS.index("lr")] = self.task.lr_start
        self._set_table(table)
        self.group_rates = np.full((num_envs, len(self.children.groups)), self.task.lr_start)
        self.loss_bound = np.zeros(num_envs)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores at the end of a run."""
        return tuple(name for kind in self.score for name in SCORED.get(kind, FLATNESS_SCORES))

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The space of one run's action."""
        return self.action.space(self.task.lr_range)

    @property
    def run_spec(self) -> RunSpec:
        """The facts that a planner knows before a run."""
        return RunSpec(
            task=self.task.name,
            budget=self.task.budget,
            segment=self.task.segment,
            lr_range=self.task.lr_range,
            optimizer=type(self.task.optimizer).__name__,
            num_parameters=self.children.num_parameters,
            groups=self.children.groups,
            architecture_source=source_of_task(self.task),
            facts=facts(self.task),
        )

    def start(self, rows: Sequence[int], seeds: Sequence[int], lr: Any = None) -> None:
        """Start runs from their seeds.

        Args:
            rows: which of the N runs.
            seeds: one for each of them.
            lr: the rate that relative actions start from, one for all or one for each; None draws it from
                `start_rates` by the seed.
        """
        start_rates = [lr] if np.ndim(lr) == 0 else list(lr)
        if np.ndim(lr) > 1 or len(start_rates) not in (1, len(rows)):
            raise UserError(f"{np.size(lr)} starting rates for {len(rows)} runs: give one, or one for each")
        rates = self._in_range(
            [
                self.start_rates[_drawn(_START, seed).integers(len(self.start_rates))] if rate is None else rate
                for rate, seed in zip(start_rates * (len(rows) if len(start_rates) == 1 else 1), seeds, strict=True)
            ]
        )
        rows = list(rows)
        began = time.perf_counter()
        self.children.reset(rows, seeds)
        first = {
            "lr": rates,
            "train_loss": self.children.first_batch_loss(rows),
            **self.children.measure(rows),
            **dict.fromkeys(self.children.extra_signals, np.zeros(len(rows))),
        }
        self.child_seconds += time.perf_counter() - began
        self.loss_bound[rows] = DIVERGED_MULTIPLE * np.nan_to_num(first["val_loss"], nan=10.0, posinf=10.0, neginf=10.0)
        self.ended[rows] = self.diverged[rows] = False
        self.started[rows] = True
        self._update(rows, first)

    def step(self, actions: Any) -> Outcome:
        """Train one segment of every run that has not ended, at the rates that the actions ask for."""
        if not self.started.all():
            raise UserError("there is no run to step: call reset() first")
        lr = self.action.decode(actions, self.signals["lr"], self.task.lr_range, self.task.segment)
        live = ~self.ended
        rows = np.flatnonzero(live).tolist()
        if self.noise:
            lr = self._noisy(lr, rows)
        before = self.signals["val_loss"]
        if rows:
            began = time.perf_counter()
            losses = self.children.train(lr, rows)[rows]
            last = lr if lr.ndim == 1 else lr[..., -1]
            self.group_rates[rows] = last[rows] if lr.ndim == 3 else last[rows, None]
            measured = {"lr": self.group_rates[rows].max(1), "train_loss": losses, **self.children.measure(rows)}
            if self.children.extra_signals:
                means = self.children.step_signals[rows].mean(1).T
                measured.update(zip(self.children.extra_signals, means, strict=True))
            self.child_seconds += time.perf_counter() - began
            self._update(rows, measured)
        terminated = live & self.diverged
        truncated = live & ~self.diverged & (self.children.steps >= self.last_step)
        self.ended |= terminated | truncated
        scores = self.scores(np.flatnonzero(terminated | truncated))
        final = scores.get("final_val_loss", np.full(self.num_envs, np.nan))
        rewards = np.where(live, self.reward(before, self.signals["val_loss"], final), 0.0)
        return Outcome(rewards, terminated, truncated, scores)

    def observe(self) -> NDArray[np.float32]:
        """Observations of all runs, (num_envs, features)."""
        return observations.observe(self.signals)

    def snapshot(self) -> dict[str, Any]:
        """Copy everything that the rest of the runs depends on, as a tree of tensors, arrays and JSON values."""
        return {
            "children": self.children.snapshot(),
            "signals": self._table.copy(),
            **{key: getattr(self, name).copy() for key, name in _ARRAYS.items()},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put the runs back into the state of a snapshot.

        Raises:
            UserError: the snapshot is of another task or number of runs, or no snapshot.
        """
        check_keys(snapshot, ("children", "signals", *_ARRAYS), "an environment")
        self.children.check_fits(snapshot["children"], self.num_envs)
        if np.shape(snapshot["signals"]) != self._table.shape:
            raise UserError(
                f"the snapshot has signals of shape {np.shape(snapshot['signals'])}, not {self._table.shape}: restore "
                "it where as many runs are measured alike"
            )
        self.children.restore(snapshot["children"])
        self._set_table(snapshot["signals"].copy())
        for key, name in _ARRAYS.items():
            setattr(self, name, snapshot[key].copy())

    def _in_range(self, rates: Any) -> Floats:
        """Check rates to start from and return them as an array."""
        low, high = self.task.lr_range
        numbers(rates, "the starting rate")
        rates, wrong = clipped(rates, low, high)
        if wrong.size:
            raise UserError(f"the starting rate {wrong[0]:g} is outside the range: from {low:g} to {high:g}")
        return rates

    def _noisy(self, lr: Floats, rows: Sequence[int]) -> Floats:
        """Multiply rates by the exponential of noise, which follows from each run's seed and step."""
        lr = lr.copy()
        for row in rows:
            drawn = _drawn(_NOISE, self.children.seeds[row], self.children.steps[row]).standard_normal()
            lr[row] = np.clip(lr[row] * np.exp(self.noise * drawn), *self.task.lr_range)
        return lr

    def _update(self, rows: Sequence[int], measured: Mapping[str, Floats]) -> None:
        """Set the signals of some runs, in a new table, since callers may hold the old one."""
        steps = self.children.steps[rows].astype(np.float64)
        measured = {"step": steps, "progress": steps / self.task.budget, **measured}
        bound = self.loss_bound[rows]
        train_exploded = ~(measured["train_loss"] <= bound)  # true for NaN, too
        diverged = train_exploded | ~(measured["val_loss"] <= bound)
        if diverged.any():
            self.diverged[rows] |= diverged
            measured["train_loss"] = np.where(train_exploded, bound, measured["train_loss"])
            measured["val_loss"] = np.where(diverged, bound, measured["val_loss"])
        values = np.array([measured[name] for name in self.names])
        values = values if np.isfinite(values).all() else np.nan_to_num(values, nan=0.0)
        if len(rows) == self.num_envs:
            return self._set_table(values)
        table = self._table.copy()
        table[:, rows] = values
        return self._set_table(table)

    def _set_table(self, table: Floats) -> None:
        self._table = table
        self.signals = dict(zip(self.names, table, strict=True))

    def scores(self, ended: NDArray[np.int64]) -> dict[str, Floats]:
        """Score some runs now; a diverged run has the loss at which it was stopped, and no flatness.

        Args:
            ended: indices of the runs.

        Returns:
            Every name in `score_names` -> (num_envs,), NaN for the others.
        """
        began = time.perf_counter()
        scores = {name: np.full(self.num_envs, np.nan) for name in self.score_names}
        for kind in self.score if len(ended) else ():
            if kind == FLATNESS:
                rows = ended[~self.diverged[ended]]
                measured = self.children.flatness(rows.tolist())
                for name in FLATNESS_SCORES:
                    scores[name][rows] = measured[name]
            else:
                loss, accuracy = self.children.evaluate(kind, ended.tolist())
                loss_name, accuracy_name = SCORED[kind]
                scores[loss_name][ended] = np.where(self.diverged[ended], self.loss_bound[ended], loss)
                scores[accuracy_name][ended] = accuracy
        self.child_seconds += time.perf_counter() - began
        return scores


class ArgumentError(UserError, TypeError):
    """An unknown argument; also a `TypeError`, which Python raises and SB3 catches."""


def check_arguments(kind: type, names: Sequence[str], others: Sequence[str]) -> None:
    """Check the names of arguments of an environment, which passes them on to `Episodes`.

    Args:
        kind: the environment's class.
        names: names of the arguments.
        others: names of arguments that the environment takes itself.

    Raises:
        UserError: (also a `TypeError`) one is unknown; the message names the nearest that there is.
    """
    parameters = [*inspect.signature(Episodes).parameters]
    public = sorted({*parameters, *others} - {"extra_signals"} - ({"num_envs"} - {*others}))
    for name in names:
        if name not in public and name != "extra_signals":  # which rollouts pass
            words = "got an unexpected keyword argument"  # Python's words, which other software looks for
            there_are = f"{guess(name, public)} (there are: {', '.join(public)})"
            raise ArgumentError(f"{kind.__name__}.__init__() {words} {name!r}{there_are}")

"""Rollouts: runs in lockstep through the environment, each under its own planner."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lr_env.capabilities import Forking, optimizer_of
from lr_env.children import AUTO, Execution
from lr_env.children.external_optimizers import ExternalOptimizer
from lr_env.children.meters import on_demand
from lr_env.children.snapshots import check_keys
from lr_env.copies import Copied
from lr_env.env import LRVectorEnv
from lr_env.env.forks import Forks
from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.planner import ForkMeasurements, Planner, planner_settings
from lr_env.pruning import Pruner
from lr_env.records.record import SCORES, RunRecord, run_key
from lr_env.session import PlannerSession
from lr_env.signals import ALWAYS, group_signal
from lr_env.tasks import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlannedRun:
    """A run to be made."""

    planner: Planner
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The planner's fields."""
        return planner_settings(self.planner)


def not_made_before(
    planners: Sequence[Planner], seeds: Sequence[int], records: Sequence[RunRecord] = ()
) -> list[PlannedRun]:
    """Plan runs of planners on seeds; a run that was made or planned before gets the next seed on which it was not."""
    taken, runs = {run_key(record) for record in records}, []
    for planner, seed in zip(planners, seeds, strict=True):
        run = PlannedRun(planner, seed)
        while run_key(run) in taken:
            run = PlannedRun(planner, run.seed + 1)
        runs.append(run)
        taken.add(run_key(run))
    return runs


class Rollout(Copied):
    """Runs of one task in lockstep, from start to end, one segment at a time.

    Runs under the same planner and settings are planned together in one call.

    Args:
        task: what is trained.
        runs: planner and seed of each run.
        score: splits scored whole at the end of a run, of "val" and "test".
        execution: how children are trained; the number in lockstep is that of the runs.
        pruner: ends runs early; None ends none.

    Attributes:
        segment: segments done.
        pruned: which runs the pruner ended, (runs,).
    """

    # Attributes that change, and what snapshots hold of the sessions.
    _CHANGING = ("segment", "_infos", "_scores", "_ended", "_extra_steps")
    _OF_SESSIONS = ("_states", "_seconds")
    _OF_PRUNING = ("_losses", "_rates", "pruned")

    @isolating
    def __init__(
        self,
        task: Task,
        runs: Sequence[PlannedRun],
        *,
        score: Sequence[str] = ("val", "test"),
        execution: Execution = AUTO,
        pruner: Pruner | None = None,
    ) -> None:
        self.runs = list(runs)
        task, execution = _with_optimizer(task, execution, self.runs)
        needs = frozenset().union(*(run.planner.needs for run in self.runs))
        extra_signals = on_demand(needs)
        self._measured_names = (*ALWAYS, *extra_signals)
        self._recorded = [
            (*ALWAYS, *(name for name in extra_signals if name in run.planner.needs)) for run in self.runs
        ]
        self.env = LRVectorEnv(
            task,
            len(self.runs),
            extra_signals=extra_signals,
            autoreset_mode=AutoresetMode.DISABLED,
            score=score,
            device=execution.device,
            backend=execution.backend,
            numerics=execution.numerics,
        )
        self.segment = 0
        planners: list[Planner] = []
        self._rows: list[list[int]] = []
        for row, run in enumerate(self.runs):
            if run.planner in planners:
                self._rows[planners.index(run.planner)].append(row)
            else:
                planners.append(run.planner)
                self._rows.append([row])
        self._extra_steps = np.zeros(len(self.runs), dtype=np.int64)
        forking = any(isinstance(planner, Forking) for planner in planners)
        self._forks = Forks(self.env.episodes) if forking else None
        self._scores = {name: np.full(len(self.runs), np.nan) for name in SCORES}
        self._ended = np.zeros(len(self.runs), dtype=bool)
        self._pruner = pruner
        self.pruned = np.zeros(len(self.runs), dtype=bool)
        self._losses, self._rates = (np.full((len(self.runs), task.num_segments), np.nan) for _ in range(2))
        self._changing = self._CHANGING if pruner is None else (*self._CHANGING, *self._OF_PRUNING)
        _, infos = self.env.reset(seed=[run.seed for run in self.runs])
        self._infos = self._measured(infos)
        spec, offered = self.env.run_spec, self._measured_names
        self._groups = spec.groups
        self._sessions = [
            PlannerSession(planner, spec, [self.runs[row].seed for row in rows], offered)
            for planner, rows in zip(planners, self._rows, strict=True)
        ]

    @property
    def done(self) -> bool:
        """Whether every run has ended."""
        return bool(self._ended.all())

    @property
    def live(self) -> list[int]:
        """The runs that have not ended."""
        return np.flatnonzero(~self._ended).tolist()

    @isolating
    def advance(self) -> list[tuple[int, dict[str, float]]]:
        """Plan and train one segment of every run that is not over.

        Returns:
            The signals of each run trained: (run, name -> value).
        """
        live = self.live
        lr, apart = self._plan()
        _, _, terminated, truncated, infos = self.env.step(lr)
        self._infos = self._measured(infos)
        for name in self._scores:
            if name in infos:
                mask = infos[f"_{name}"]
                self._scores[name][mask] = infos[name][mask]
        self._ended = terminated | truncated
        self.segment += 1
        if self._pruner is not None:
            self._prune(self._pruner, live)
        return [(row, self._record_of(row, apart[row])) for row in live]

    def _record_of(self, row: int, by_group: bool) -> dict[str, float]:
        """The signals of a run that are recorded; with the rate of each group of parameters, if a planner sets them."""
        signals = {name: float(self._infos[name][row]) for name in self._recorded[row]}
        if by_group:
            rates = self.env.episodes.group_rates[row].tolist()
            signals |= {group_signal(name): rate for name, rate in zip(self._groups, rates, strict=True)}
        return signals

    def _prune(self, pruner: Pruner, trained: Sequence[int]) -> None:
        """End the runs that the pruner gives up, of those that were trained in the last segment."""
        self._losses[trained, self.segment - 1] = self._infos["val_loss"][trained]
        self._rates[trained, self.segment - 1] = self._infos["lr"][trained]
        losses, rates = (of_all[:, : self.segment] for of_all in (self._losses, self._rates))
        rows = [row for row in self.live if pruner.stops(self.runs[row].planner, losses[row], rates[row])]
        self.env.truncate(rows)
        self._ended[rows] = self.pruned[rows] = True

    def _measured(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of infos that planning and records need."""
        return {name: infos[name] for name in (*self._measured_names, "diverged")}

    @isolating
    def explain(self, row: int) -> Sequence[Any]:
        """The forecasts of the planner of a run; see `lr_env.capabilities.Explainable`."""
        index = next(index for index, rows in enumerate(self._rows) if row in rows)
        return self._sessions[index].explain(self._rows[index].index(row))

    @property
    def _seconds(self) -> Floats:
        """Wall time spent in the planner of each run, (runs,)."""
        seconds = np.empty(len(self.runs))
        for session, rows in zip(self._sessions, self._rows, strict=True):
            seconds[rows] = session.seconds
        return seconds

    def record(self, row: int, phase: str) -> RunRecord:
        """The record of a run, without its curves."""
        run = self.runs[row]
        scores = {name: float(values[row]) for name, values in self._scores.items() if not np.isnan(values[row])}
        return RunRecord(
            phase=phase,
            planner=run.planner.name,
            settings=run.settings,
            seed=run.seed,
            status="finished" if self._ended[row] else "running",
            diverged=bool(self._infos["diverged"][row]),
            steps=int(self._infos["step"][row]),
            extra_steps=int(self._extra_steps[row]),
            scores=scores,
            planning_seconds=float(self._seconds[row]),
        )

    def snapshot(self) -> dict[str, Any]:
        """Copy everything that the rest of the runs depends on."""
        changing = {name: getattr(self, name) for name in self._changing}
        changing |= {"_states": [session.state for session in self._sessions], "_seconds": self._seconds}
        runs = [list(run_key(run)) for run in self.runs]
        return {"env": self.env.snapshot(), "own": copy.deepcopy(changing), "runs": runs}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a snapshot of a rollout of the same runs.

        Raises:
            UserError: it is of other runs, or no snapshot.
        """
        check_keys(snapshot, ("env", "own"), "a rollout")
        check_keys(snapshot["own"], (*self._changing, *self._OF_SESSIONS), "a rollout")
        ours = [list(run_key(run)) for run in self.runs]
        theirs = [list(place) for place in snapshot.get("runs", ours)]  # older snapshots do not have them
        if theirs != ours:
            other = next((place for place in theirs if place not in ours), theirs[0] if theirs else "nothing")
            raise UserError(f"the snapshot is of other runs, e.g. {other}: restore it into a rollout of the same runs")
        self.env.restore(snapshot["env"])
        changing = copy.deepcopy(dict(snapshot["own"]))
        for name in self._changing:
            setattr(self, name, changing[name])
        for session, rows, state in zip(self._sessions, self._rows, changing["_states"], strict=True):
            session.segment, session.state, session.seconds = self.segment, state, changing["_seconds"][rows]

    def _plan(self) -> tuple[Floats, NDArray[np.bool_]]:
        """One answer from every planner, and which runs have rates by groups of parameters, (runs,).

        Rates are (runs,), or (runs, segment) if one of them changes inside the segment, or (runs, groups, 1 or segment)
        if one has rates by groups.
        """
        answers: list[Floats] = []
        for session, rows in zip(self._sessions, self._rows, strict=True):
            if self._ended[rows].all():
                answers.append(self._infos["lr"][rows])  # not used: these runs rest
                continue
            signals = {name: self._infos[name][rows] for name in self._measured_names}
            probe = partial(self._probe, session.planner, rows) if self._forks else None
            answers.append(session.next_rates(signals, probe, self._ended[rows]))
        by_group = any(answer.ndim == 3 for answer in answers)
        steps = max(1 if answer.ndim == 1 else answer.shape[-1] for answer in answers)
        lr = np.empty((len(self.runs), len(self._groups) if by_group else 1, steps))
        apart = np.zeros(len(self.runs), dtype=bool)
        for rows, answer in zip(self._rows, answers, strict=True):
            lr[rows] = answer.reshape(len(rows), -1, 1 if answer.ndim == 1 else answer.shape[-1])
            apart[rows] = answer.ndim == 3
        if by_group:
            return lr, apart
        return lr[:, 0] if steps > 1 else lr[:, 0, 0], apart

    def _probe(self, planner: Planner, rows: Sequence[int], lr: Floats, segments: int) -> ForkMeasurements:
        """Train forks of the runs of a planner, and count their steps; see `lr_env.planner.Probe`."""
        assert self._forks is not None
        try:
            measured, steps = self._forks.measure(rows, lr, segments)
        except UserError as error:
            raise UserError(f"planner {planner.name!r} ({planner_settings(planner)}): {error}") from None
        self._extra_steps[rows] += steps
        return measured


def _with_optimizer(task: Task, execution: Execution, runs: Sequence[PlannedRun]) -> tuple[Task, Execution]:
    """The task under the optimizer of its planners, and an execution that can train it."""
    optimizer = optimizer_of(runs[0].planner)
    for run in runs:
        if optimizer_of(run.planner) != optimizer:
            raise UserError(
                f"planners {runs[0].planner.name!r} and {run.planner.name!r} bring optimizers of their own: roll them "
                "out one after the other"
            )
    if optimizer is None:
        return task, execution
    if isinstance(optimizer, ExternalOptimizer):
        optimizer = optimizer.decaying_as(task.optimizer)
    if not optimizer.stackable:
        execution = execution.with_backend("loop")
    return replace(task, optimizer=optimizer), execution


def rollout(planner: Planner, task: Task, seeds: Sequence[int], **settings: Any) -> list[RunRecord]:
    """Run a planner on a task, once for each seed, and return the records with their curves.

    `settings` are those of `Rollout`.
    """
    runs = Rollout(task, [PlannedRun(planner, seed) for seed in seeds], **settings)
    curves: list[dict[str, list[float]]] = [{} for _ in seeds]
    while not runs.done:
        for row, signals in runs.advance():
            for name, value in signals.items():
                curves[row].setdefault(name, []).append(value)
    return [
        replace(runs.record(row, "final"), curves={name: np.array(values) for name, values in curves[row].items()})
        for row in range(len(seeds))
    ]

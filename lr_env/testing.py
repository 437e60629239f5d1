"""Conformance tests for planners, tuners and tasks of your own, to be called from your tests.

    from lr_env.testing import check_planner

    def test_my_planner(tmp_path):
        check_planner(MyPlanner(peak=0.1), tmp_path)

A check raises an `AssertionError` where the contract is broken. Planners and tuners are checked on simulated runs,
whose losses follow from a run's own seed and rates alone, so that a check takes seconds; tasks are trained for two
segments.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.capabilities import Forking
from lr_env.children import Backend, Children, Execution
from lr_env.children.meters import on_demand_signals
from lr_env.errors import UserError
from lr_env.planner import ForkMeasurements, Planner, RunSpec, Signals, State, planner_settings
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.records.record import FINISHED, RunRecord
from lr_env.signals import ALWAYS
from lr_env.tasks import Task
from lr_env.tasks.facts import facts
from lr_env.tuner import Checking, Tuner

FACTS: Mapping[str, Any] = {"momentum": 0.9, "batch_size": 16, "train_size": 1078, "classes": 10}
SPEC = RunSpec("DigitsMLP", 1000, 50, (1e-7, 10.0), "SGD", 4000, ("1", "3", "5"), facts=FACTS)
"""What is known of the simulated runs, if nothing else is asked for."""

_RTOL = 1e-4
"""How far the losses of the two engines may differ: they add numbers in another order."""


@dataclass
class SimulatedRuns:
    """Simulated runs side by side.

    Attributes:
        spec: what is known of the runs.
        seeds: one for each run.
        rates: the rates so far, one row for each segment.
    """

    spec: RunSpec
    seeds: Sequence[int]
    rates: list[np.ndarray] = field(default_factory=list)

    def signals(self) -> dict[str, Any]:
        """Every signal that there is, at the end of the last segment."""
        rows = [self._signals(seed, [lr[row] for lr in self.rates]) for row, seed in enumerate(self.seeds)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def train(self, lr: np.ndarray) -> None:
        """Train a segment under these rates, (runs,), (runs, segment) or (runs, groups, 1 or segment)."""
        lr = lr.max(1) if lr.ndim == 3 else lr
        self.rates.append(lr.mean(1) if lr.ndim == 2 else lr)

    def _signals(self, seed: int, rates: Sequence[float]) -> dict[str, float]:
        done = len(rates)
        loss = self._loss(seed, rates)
        drawn = np.random.default_rng([seed, done]).standard_normal(len(ALWAYS) + len(on_demand_signals()))
        return {
            **{name: 0.1 + 0.01 * value for name, value in zip((*ALWAYS, *on_demand_signals()), drawn, strict=True)},
            **{"step": done * self.spec.segment, "progress": done / self.spec.num_segments},
            **{"lr": rates[-1] if done else np.nan, "train_loss": 0.9 * loss, "val_loss": loss},
            "val_accuracy": 1 / (1 + loss),
        }

    def _loss(self, seed: int, rates: Sequence[float]) -> float:
        """The validation loss: it falls with small rates, rises with large ones, and is noisy."""
        noise = np.random.default_rng([seed, len(rates), 7]).standard_normal()
        moved = sum(rate - 0.5 * rate**2 for rate in rates)
        return float((0.05 + 2.3 * np.exp(-moved)) * np.exp(0.05 * noise))

    def probe(self, lr: np.ndarray, segments: int) -> ForkMeasurements:
        """Train forks, see `lr_env.planner.Probe`."""
        lr = np.broadcast_to(lr[..., None] if lr.ndim == 2 else lr, (*lr.shape[:2], segments))
        val = np.array(
            [
                [
                    [self._loss(seed, [*(r[row] for r in self.rates), *fork[: at + 1]]) for at in range(segments)]
                    for fork in lr[row]
                ]
                for row, seed in enumerate(self.seeds)
            ]
        )
        return {"val_loss": val, "train_loss": val, "step_losses": np.repeat(val, self.spec.segment, axis=-1)}


def check_planner(planner: Planner, folder: Path, spec: RunSpec = SPEC, rtol: float = 0.0) -> None:
    """Check that a planner keeps to the contract of `lr_env.planner.Planner`.

    Its settings survive JSON; the same state and signals give the same answer and stay as they were; its state can be
    saved and loaded; a run does not depend on its neighbours; a second call in one segment does no harm; a missing
    signal is an error that names it.

    Args:
        planner: to check.
        folder: for files.
        spec: what is known of the simulated runs.
        rtol: by how much the rates of a run may differ where other runs are planned beside it.

    Raises:
        AssertionError: it breaks the contract.
    """
    seeds = (3, 5, 2**40 + 1)
    check_settings(planner)
    rates = check_purity(planner, spec, seeds)
    check_saving(planner, spec, folder / "state")
    check_neighbours(planner, spec, rates, seeds, rtol)
    check_one_answer_a_segment(planner, spec)
    check_missing_signals(planner, spec)


def check_tuner(tuner: Tuner, task: Task, folder: Path, runs: int = 20) -> None:
    """Check that a tuner keeps to the contract of `lr_env.tuner.Tuner`.

    It proposes as many planners as it is asked for; the same runs and seed have the same proposals; what it selects has
    settings that survive JSON.

    Args:
        tuner: to check.
        task: what is trained; the runs are simulated.
        folder: in which files of planners may be kept.
        runs: that it may spend.

    Raises:
        AssertionError: it breaks the contract.
        UserError: it cannot do with so many runs.
    """
    if isinstance(tuner, Checking):
        tuner.check([runs])
    records: list[RunRecord] = []
    while len(records) < runs:
        size = tuner.batch_size(len(records))
        assert size >= 1, f"batch_size({len(records)}) is {size}: it must be at least 1"
        count = min(size, runs - len(records))
        planners = list(tuner.propose(task, 0, records, count))
        assert len(planners) == count, f"asked for {count} planners, it proposed {len(planners)}"
        again = list(tuner.propose(task, 0, records, count))
        assert planners == again, "it proposed other planners when it was asked again"
        seeds = [tuner.seed_index(len(records) + number) for number in range(count)]
        assert min(seeds) >= 0, f"seed_index is {min(seeds)}: it must be at least 0"
        records += [simulated_record(planner, task, seed) for planner, seed in zip(planners, seeds, strict=True)]
    selected = tuner.select(task, 0, records, folder)
    assert isinstance(selected, Planner), f"it selected {selected!r}, which is no planner"
    check_settings(selected)
    assert tuner.select(task, 0, records, folder) == selected, "it selected another planner when it was asked again"


def check_task(task: Task, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Check that a task can be trained as all tasks are.

    JSON holds its settings and it can be pickled; children of one seed are equal whatever their neighbours; losses
    are finite; both engines, where they can train it, agree; a snapshot is gone on from exactly.

    Args:
        task: to check; it is trained for two segments.
        seeds: of the children.

    Raises:
        AssertionError: it breaks the contract.
        UserError: it cannot be trained.
    """
    json.dumps(task.settings())  # a TypeError names what JSON does not hold
    assert pickle.loads(pickle.dumps(task)) == task, "it does not come back from pickle as it was"
    task = replace(task, budget=2 * task.segment)
    loop = _losses(Children(task, seeds, execution=Execution(backend=Backend("loop"))))
    assert np.isfinite(loop).all(), f"losses are not finite: {loop}"
    alone = _losses(Children(task, seeds[:1], execution=Execution(backend=Backend("loop"))))
    np.testing.assert_array_equal(alone[..., 0], loop[..., 0], "a child depends on its neighbours")
    if task.optimizer.stackable:
        stacked = _losses(Children(task, seeds, execution=Execution(backend=Backend("stacked", len(seeds)))))
        np.testing.assert_allclose(stacked, loop, _RTOL, err_msg="the two engines do not agree")


def _losses(children: Children) -> np.ndarray:
    """Training and validation losses of two segments, (segments, losses, children); the second is trained twice."""
    rates = np.full(len(children), children.task.lr_start)

    def segment() -> tuple[np.ndarray, ...]:
        return np.array(children.train(rates)), children.measure()["val_loss"]

    first, snapshot = segment(), children.snapshot()
    second = segment()
    children.restore(snapshot)
    same(segment(), second)
    return np.array([first, second])


def simulated_record(planner: Planner, task: Task, seed: int) -> RunRecord:
    """The record of a simulated run of a task under a planner."""
    kind = type(task.optimizer).__name__
    spec = RunSpec(task.name, task.budget, task.segment, task.lr_range, kind, 4000, SPEC.groups, facts=facts(task))
    runs, state = SimulatedRuns(spec, [seed]), planner.start(spec, [seed])
    rows = []
    for _ in range(spec.num_segments):
        lr, state = ask(planner, state, runs, runs.signals())
        runs.train(lr)
        rows.append(runs.signals())
    curves = {name: np.array([float(row[name][0]) for row in rows]) for name in ALWAYS}
    return RunRecord(
        phase="tune",
        planner=planner.name,
        settings=planner_settings(planner),
        seed=seed,
        status=FINISHED,
        steps=task.budget,
        scores={"final_val_loss": float(curves["val_loss"][-1])},
        curves=curves,
    )


def ask(planner: Planner, state: State, runs: SimulatedRuns, signals: Signals) -> tuple[np.ndarray, State]:
    """The answer of a planner, which may fork the runs."""
    if isinstance(planner, Forking):
        return planner.plan(state, signals, runs.probe)  # pyright: ignore[reportCallIssue]
    return planner.plan(state, signals)


def check_settings(planner: Planner) -> None:
    """Check that the settings of a planner come back from JSON as they were, and that it is frozen."""
    settings = json.loads(json.dumps(asdict(planner)))  # type: ignore[call-overload]
    again = type(planner)(**settings)
    assert again == planner
    assert hash(again) == hash(planner)  # one that is frozen
    assert planner_settings(again) == planner_settings(planner) == settings


def check_purity(planner: Planner, spec: RunSpec, seeds: Sequence[int]) -> np.ndarray:
    """Check that the same state and signals have the same answer and stay as they were.

    Returns:
        The rates of a run, (segments, runs) or (segments, runs, segment).
    """
    runs, state = SimulatedRuns(spec, seeds), planner.start(spec, seeds)
    same(state, planner.start(spec, seeds))
    for _ in range(spec.num_segments):
        signals = runs.signals()
        before = copy.deepcopy((state, signals))
        lr, after = ask(planner, state, runs, signals)
        count, groups = len(seeds), len(spec.groups)
        by_group = [(count, groups, 1), (count, groups, spec.segment)] if groups else []
        assert lr.shape in [(count,), (count, spec.segment), *by_group]
        assert lr.dtype == np.float64
        assert ((lr >= spec.lr_range[0]) & (lr <= spec.lr_range[1])).all()
        answered = lr.copy()
        lr *= 0.0  # the answer is the caller's
        again, again_after = ask(planner, state, runs, signals)
        same(again, answered)
        same(again_after, after)
        same((state, signals), before)
        runs.train(answered)
        state = after
    return np.array(runs.rates)


def check_saving(planner: Planner, spec: RunSpec, file: Path) -> None:
    """Check that a state that was saved and loaded goes on as the one in memory does."""
    seeds = (1, 2)
    runs, state = SimulatedRuns(spec, seeds), planner.start(spec, seeds)
    loaded = state
    for number in range(spec.num_segments):
        if number % 3 == 0:
            save_tree(file, {"state": loaded})
            loaded = load_tree(file)["state"]
        signals = runs.signals()
        (lr, state), (other, loaded) = ask(planner, state, runs, signals), ask(planner, loaded, runs, signals)
        same(lr, other)
        runs.train(lr)
    same(loaded, state)


def check_neighbours(planner: Planner, spec: RunSpec, rates: np.ndarray, seeds: Sequence[int], rtol: float) -> None:
    """Check that a run does not depend on those that are planned beside it; `rates` are those of all together."""
    for row, seed in enumerate(seeds):
        runs = SimulatedRuns(spec, [seed])
        state = planner.start(spec, [seed])
        for _ in range(spec.num_segments):
            lr, state = ask(planner, state, runs, runs.signals())
            runs.train(lr)
        np.testing.assert_allclose(np.array(runs.rates)[:, 0], rates[:, row], rtol=rtol)


def check_one_answer_a_segment(planner: Planner, spec: RunSpec) -> bool:
    """Check that a second call in one segment repeats the answer and changes nothing, or is refused by name.

    Returns:
        Whether it was refused.
    """
    seeds, refused = (4,), []
    runs, state = SimulatedRuns(spec, seeds), planner.start(spec, seeds)
    for _ in range(spec.num_segments):
        signals = runs.signals()
        lr, state = ask(planner, state, runs, signals)
        error = refusal(planner, state, runs, signals)
        refused.append(bool(error))
        if error:
            assert repr(planner.name) in error
            assert "once before each segment" in error
        else:
            same(ask(planner, state, runs, signals), (lr, state))
        runs.train(lr)
    assert len(set(refused)) == 1  # always or never
    return refused[0]


def check_missing_signals(planner: Planner, spec: RunSpec) -> None:
    """Check that a missing signal is named in one line, with the planner."""
    runs, state = SimulatedRuns(spec, (4,)), planner.start(spec, (4,))
    for name in planner.needs:
        others = {other: value for other, value in runs.signals().items() if other != name}
        error = refusal(planner, state, runs, others)
        assert repr(planner.name) in error
        assert repr(name) in error
        assert "\n" not in error


def refusal(planner: Planner, state: State, runs: SimulatedRuns, signals: Signals) -> str:
    """The error with which a planner refuses to answer; empty if it answers."""
    try:
        ask(planner, state, runs, signals)
    except UserError as error:
        return str(error)
    return ""


def same(one: State, other: State) -> None:
    """Check that two trees are the same, bit for bit."""
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other or (one != one and other != other)

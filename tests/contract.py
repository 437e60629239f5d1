"""What every planner has to keep to, whoever wrote it: checks to be called by tests.

Runs are made up: losses that follow from a run's own seed and rates alone, with every signal that there is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.children.meters import on_demand_signals
from lr_env.errors import UserError
from lr_env.planner import PROBE, ForkMeasurements, Planner, RunSpec, Signals, State
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.rollout import planner_settings
from lr_env.signals import ALWAYS


@dataclass
class Runs:
    """Made-up runs of a spec.

    Attributes:
        spec: of the runs.
        seeds: one a run.
        rates: played so far, a row a segment.
    """

    spec: RunSpec
    seeds: Sequence[int]
    rates: list[np.ndarray] = field(default_factory=list)

    def signals(self) -> dict[str, Any]:
        """All there are, at the end of the last segment."""
        rows = [self._signals(seed, [lr[row] for lr in self.rates]) for row, seed in enumerate(self.seeds)]
        known = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return {**known, PROBE: self._probe}

    def play(self, lr: np.ndarray) -> None:
        """A segment under these rates, (runs,) or (runs, segment)."""
        self.rates.append(lr.mean(1) if lr.ndim == 2 else lr)

    def _signals(self, seed: int, rates: Sequence[float]) -> dict[str, float]:
        done = len(rates)
        loss = self._loss(seed, rates)
        drawn = np.random.default_rng([seed, done]).standard_normal(len(ALWAYS) + len(on_demand_signals()))
        found = {name: 0.1 + 0.01 * value for name, value in zip((*ALWAYS, *on_demand_signals()), drawn, strict=True)}
        found |= {"step": done * self.spec.segment, "progress": done / self.spec.num_segments}
        found |= {"lr": rates[-1] if done else np.nan, "train_loss": 0.9 * loss, "val_loss": loss}
        return found | {"val_accuracy": 1 / (1 + loss)}

    def _loss(self, seed: int, rates: Sequence[float]) -> float:
        """It falls with small rates, rises with large ones, and is noisy."""
        noise = np.random.default_rng([seed, len(rates), 7]).standard_normal()
        moved = sum(rate - 0.5 * rate**2 for rate in rates)
        return float((0.05 + 2.3 * np.exp(-moved)) * np.exp(0.05 * noise))

    def _probe(self, lr: np.ndarray, segments: int) -> ForkMeasurements:
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


def check_planner(planner: Planner, spec: RunSpec, folder: Path, rtol: float = 0.0) -> None:
    """See that a planner keeps to the contract.

    Args:
        planner: a planner.
        spec: of runs that it can be asked for.
        folder: for files.
        rtol: by how much answers may differ where other runs are planned beside a run.
    """
    check_settings(planner)
    rates = check_purity(planner, spec, (3, 5, 2**40 + 1))
    check_saving(planner, spec, folder / "state")
    check_company(planner, spec, rates, (3, 5, 2**40 + 1), rtol)
    check_one_answer_a_segment(planner, spec)
    check_missing_signals(planner, spec)


def check_settings(planner: Planner) -> None:
    """Settings come back from JSON as they were."""
    told = json.loads(json.dumps(asdict(planner)))  # type: ignore[call-overload]
    again = type(planner)(**told)
    assert again == planner
    assert hash(again) == hash(planner)  # one that is frozen
    assert planner_settings(again) == planner_settings(planner) == told


def check_purity(planner: Planner, spec: RunSpec, seeds: Sequence[int]) -> np.ndarray:
    """The same state and signals have the same answer, and stay as they were; returns the rates, (segments, runs)."""
    runs, state = Runs(spec, seeds), planner.start(spec, seeds)
    same(state, planner.start(spec, seeds))
    for _ in range(spec.num_segments):
        signals = runs.signals()
        kept = copy.deepcopy(state), _numbers(signals)
        lr, after = planner.plan(state, signals)
        assert lr.shape in ((len(seeds),), (len(seeds), spec.segment))
        assert lr.dtype == np.float64
        assert ((lr >= spec.lr_range[0]) & (lr <= spec.lr_range[1])).all()
        answered = lr.copy()
        lr *= 0.0  # the answer is the caller's
        again, again_after = planner.plan(state, signals)
        same(again, answered)
        same(again_after, after)
        same((state, _numbers(signals)), kept)
        runs.play(answered)
        state = after
    return np.array(runs.rates)


def check_saving(planner: Planner, spec: RunSpec, file: Path) -> None:
    """A state that was saved goes on as the one in memory does."""
    seeds = (1, 2)
    runs, state = Runs(spec, seeds), planner.start(spec, seeds)
    loaded = state
    for number in range(spec.num_segments):
        if number % 3 == 0:
            save_tree(file, {"state": loaded})
            loaded = load_tree(file)["state"]
        signals = runs.signals()
        (lr, state), (other, loaded) = planner.plan(state, signals), planner.plan(loaded, signals)
        same(lr, other)
        runs.play(lr)
    same(loaded, state)


def check_company(planner: Planner, spec: RunSpec, rates: np.ndarray, seeds: Sequence[int], rtol: float) -> None:
    """A run does not depend on those that are planned beside it: `rates` are of all together, (segments, runs)."""
    for row, seed in enumerate(seeds):
        runs = Runs(spec, [seed])
        state = planner.start(spec, [seed])
        for _ in range(spec.num_segments):
            lr, state = planner.plan(state, runs.signals())
            runs.play(lr)
        np.testing.assert_allclose(np.array(runs.rates)[:, 0], rates[:, row], rtol=rtol)


def check_one_answer_a_segment(planner: Planner, spec: RunSpec) -> bool:
    """A second call in one segment has the answer of the first and changes nothing, or is refused by name.

    Returns:
        Whether it was refused.
    """
    seeds, refused = (4,), []
    runs, state = Runs(spec, seeds), planner.start(spec, seeds)
    for _ in range(spec.num_segments):
        signals = runs.signals()
        lr, state = planner.plan(state, signals)
        error = refusal(planner, state, signals)
        refused.append(bool(error))
        if error:
            assert repr(planner.name) in error
            assert "once before each segment" in error
        else:
            same(planner.plan(state, signals), (lr, state))
        runs.play(lr)
    assert len(set(refused)) == 1  # always or never
    return refused[0]


def check_missing_signals(planner: Planner, spec: RunSpec) -> None:
    """A signal that is not there is named in one line, with the planner."""
    signals, state = Runs(spec, (4,)).signals(), planner.start(spec, (4,))
    for name in planner.needs:
        error = refusal(planner, state, {known: value for known, value in signals.items() if known != name})
        assert repr(planner.name) in error
        assert repr(name) in error
        assert "\n" not in error


def refusal(planner: Planner, state: State, signals: Signals) -> str:
    """Why a planner does not answer; empty if it does."""
    try:
        planner.plan(state, signals)
    except UserError as error:
        return str(error)
    return ""


def same(one: State, other: State) -> None:
    """Two trees are the same, bit for bit."""
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


def _numbers(signals: Signals) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in signals.items() if name != PROBE})

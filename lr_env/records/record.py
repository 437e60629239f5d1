"""Records of runs, their scores and their keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.planner import Planner

SPLIT_SCORES: tuple[str, ...] = ("final_val_loss", "final_val_accuracy", "test_loss", "test_accuracy")
"""The scores that are measured at the end of a run on the whole validation and test splits."""

FLATNESS_SCORES: tuple[str, ...] = ("hessian_max", "hessian_trace")
"""The scores that are measured at the end of a run on demand; see `lr_env.children.flatness`."""

SCORES = SPLIT_SCORES + FLATNESS_SCORES
"""All scores of a run."""

RUNNING, FINISHED = "running", "finished"

PRUNED = "pruned"
"""Key in the provenance of runs that a pruner ended early."""


@dataclass(frozen=True)
class RunRecord:
    """One run as it is stored.

    Attributes:
        phase: "tune" for the runs that choose a setting, "final" for the runs on new seeds; studies have others.
        planner: name of the planner.
        settings: the fields of the planner.
        seed: seed of the child.
        status: "running" or "finished".
        diverged: whether a loss that exploded or was not finite ended the run.
        steps: optimizer steps of the child.
        extra_steps: optimizer steps besides those, e.g. of forks with which a planner looked ahead.
        scores: name, e.g. in `SCORES` -> value, in nats per example, as a fraction, or in the unit that `flatness`
            tells; a score that was not measured is absent.
        planning_seconds: wall time spent in the planner.
        curves: name of a signal -> (segments,) values at segment ends: those of `lr_env.signals.SIGNALS`, and those
            that the planner had measured on demand. A signal that was not measured is absent, and all are unless they
            are asked for.
        provenance: where the run was finished, see `lr_env.provenance.provenance`, and whether it was pruned; empty
            where that is not known.
    """

    phase: str
    planner: str
    settings: Mapping[str, Any]
    seed: int
    status: str = RUNNING
    diverged: bool = False
    steps: int = 0
    extra_steps: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    planning_seconds: float = 0.0
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pruned(self) -> bool:
        """Whether a pruner ended the run early: it has fewer steps than others, and no scores."""
        return bool(self.provenance.get(PRUNED))

    def score(self, name: str) -> float:
        """The value of a score.

        Raises:
            UserError: the run does not have it.
        """
        if name not in self.scores:
            raise UserError(
                f"the run of {self.planner!r} on seed {self.seed} has no {name}: make it again with --fresh"
            )
        return float(self.scores[name])

    def end(self, score: str) -> float:
        """The value of a score of which lower is better; infinite if the run diverged."""
        return float("inf") if self.diverged else self.score(score)

    @property
    def child_steps(self) -> int:
        """All optimizer steps, including the extra ones."""
        return self.steps + self.extra_steps

    def check(self) -> None:
        """Check the types and ranges of a record that was read.

        Raises:
            ValueError: one is wrong; the message says which.
        """
        for name in ("phase", "planner"):
            _expect(name, getattr(self, name), isinstance(getattr(self, name), str))
        _expect("settings", self.settings, isinstance(self.settings, Mapping))
        _expect("status", self.status, self.status in (RUNNING, FINISHED))
        _expect("diverged", self.diverged, isinstance(self.diverged, bool))
        for name in ("seed", "steps", "extra_steps"):
            value = getattr(self, name)
            _expect(name, value, isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63)
        _expect("planning_seconds", self.planning_seconds, _is_number(self.planning_seconds))
        _expect("planning_seconds", self.planning_seconds, 0 <= self.planning_seconds < float("inf"))
        for name, value in self.scores.items():
            _expect(name, value, _is_number(value))
        for name, value in self.provenance.items():
            _expect(name, value, isinstance(value, str | int))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # NaN is not


def _expect(name: str, value: Any, right: bool) -> None:
    if not right:
        raise ValueError(f"{name} of a run is {str(value)[:40]!r}")


class Run(Protocol):
    """A run that has a key: a `RunRecord`, or one to be made, which holds the planner itself."""

    @property
    def planner(self) -> str | Planner:
        """The planner or its name."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The fields of the planner."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the child."""
        ...


RunKey = tuple[str, str, int]
"""What tells a run from others: name of the planner, its settings as `settings_key` has them, seed."""


def run_key(run: Run) -> RunKey:
    """The key of a run."""
    name = run.planner if isinstance(run.planner, str) else run.planner.name
    return name, settings_key(run.settings), run.seed


def settings_key(settings: Mapping[str, Any]) -> str:
    """Settings as JSON with sorted keys: equal settings give equal text.

    Raises:
        UserError: a setting is of a type that JSON does not hold.
    """
    return json.dumps(dict(settings), sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Convert a numpy number or array to what JSON can hold."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise UserError(f"a setting of type {type(value).__name__} cannot be kept as JSON; use numbers, text or lists")

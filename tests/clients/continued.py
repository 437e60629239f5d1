"""Objects in the middle of a run, and what becomes of them: what all who copy objects between processes are held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lr_env import TASKS, Children, LREnv, LRVectorEnv
from lr_env.children import Execution, fastest
from lr_env.rollout import PlannedRun, Rollout
from lr_env.sb3 import LRVecEnv, make_vec_env
from planners.reactive import Plateau
from planners.schedules import Cosine

SMALL = {"budget": 8, "segment": 2, "action": "scale"}
SHORT = replace(TASKS["DigitsMLP"], budget=8, segment=2)
KINDS = ("LREnv", "LRVectorEnv", "LRVecEnv", "Children", "Rollout")
BACKENDS = ("loop", "stacked")


def started(kind: str, backend: str) -> Any:
    """An object after the first segment of its run."""
    if kind == "LREnv":
        env = LREnv("DigitsMLP", backend=backend, **SMALL)
        env.reset(seed=3)
        env.step([0.5])
        return env
    if kind == "Children":
        children = Children(SHORT, [3, 4], fastest(Execution(backend=backend), SHORT, 2))
        children.train([0.1, 0.2])
        return children
    if kind == "Rollout":
        rollout = Rollout(
            SHORT, [PlannedRun(Cosine(0.1), 3), PlannedRun(Plateau(0.1), 4)], execution=Execution(backend=backend)
        )
        rollout.advance()
        return rollout
    if kind == "LRVecEnv":
        envs = make_vec_env("DigitsMLP", 2, backend=backend, seed=3, **SMALL)
        envs.reset()
    else:
        envs = LRVectorEnv("DigitsMLP", 2, backend=backend, **SMALL)
        envs.reset(seed=3)
    envs.step(np.full((2, 1), 0.5))
    return envs


def future(one: Any) -> list[list[float]]:
    """Numbers that follow from all that an object of `started` holds, and show that it still trains."""
    if isinstance(one, Children):
        seen = [[*one.train([0.1, 0.2]), *one.measure()["val_loss"]] for _ in range(2)]
    elif isinstance(one, Rollout):
        seen = []
        for _ in range(2):
            one.advance()
            seen.append(one.env.episodes.signals["val_loss"].tolist())
    elif isinstance(one, LREnv):
        seen = [one.step([0.5])[0].tolist() for _ in range(3)] + [one.reset()[0].tolist()]
    elif isinstance(one, LRVecEnv):
        seen = [one.step(np.full((2, 1), 0.5))[0].ravel().tolist() for _ in range(4)]
    else:
        seen = [one.step(np.full((2, 1), 0.5))[0].ravel().tolist() for _ in range(5)]
    seen = [[float(number) for number in numbers] for numbers in seen]
    assert seen[0] != seen[1], "it trains no more"
    return seen


def from_snapshot(kind: str, backend: str, snapshot: Mapping[str, Any]) -> list[list[float]]:
    """The future of another object of the kind, which starts elsewhere and is given a snapshot."""
    one = started(kind, backend)
    future(one)
    one.restore(snapshot)
    return future(one)

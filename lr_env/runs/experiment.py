"""Many runs, made so that a kill at any moment changes nothing in the result.

It loses the work since the last checkpoint: a minute of it, or the segment that is being trained if that takes longer,
as it can where planners look ahead on forks of many runs (fewer in lockstep make it shorter).
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr_env.capabilities import optimizer_of
from lr_env.children import Backend
from lr_env.children.numerics import EXACT, Numerics
from lr_env.errors import UserError
from lr_env.files import remove_leftovers
from lr_env.provenance import provenance
from lr_env.records.checkpoint import check_fit, fitting, load_tree, save_tree
from lr_env.records.record import run_key
from lr_env.records.store import Store, StoredKey
from lr_env.rollout import PlannedRun, Rollout
from lr_env.tasks import Task

Progress = Callable[[int], None]
"""Told how many child steps were done since it was last called."""


class Experiment:
    """A named set of runs of one task in a record store, which one process works on at a time.

    Args:
        store: where the runs are kept.
        name: of the experiment.
        task: what is trained.
        spec: everything that the results depend on, JSON-able. Going on with another spec is refused, but for planners
            that are added (see `added_to`) and for larger budgets.
        device, backend, numerics, lockstep: how the runs are trained; `lockstep` children at a time.
        checkpoint_seconds: wall time between two checkpoints of the runs in flight.

    Raises:
        UserError: an experiment of that name was begun with another spec.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        task: Task,
        spec: Mapping[str, Any],
        *,
        device: str,
        backend: Backend,
        lockstep: int,
        numerics: Numerics = EXACT,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.store = store
        self.name = name
        self.task = task
        self.device = device
        self.backend = backend
        self.numerics = numerics
        self.lockstep = lockstep
        self.checkpoint_seconds = checkpoint_seconds
        self.checkpoint = _beside(store, name, "checkpoint")
        remove_leftovers(self.checkpoint)
        known = store.experiment(name)
        spec = json.loads(json.dumps(dict(spec)))
        if known is None:
            # The id tells this beginning from others of the same name and spec, whose checkpoints may still lie about.
            self._id = uuid.uuid4().hex
            store.begin_experiment(name, {**spec, "id": self._id})
            return
        self._id = str(known.get("id"))
        before = {key: value for key, value in known.items() if key != "id"}
        if before != spec:
            filled = with_unknown(before, spec)
            if filled != spec and not _extends(filled, spec):
                raise UserError(
                    f"{_difference(name, filled, spec)}: use the same, another --name, or --fresh to start over"
                )
            store.change_experiment(name, {**spec, "id": self._id})

    def run(self, runs: Sequence[PlannedRun], phase: str, score: Sequence[str], progress: Progress) -> None:
        """Make the runs of a phase that are not finished yet.

        The runs are cut into the same chunks whatever was done before: neighbours in a stack can change the last bit
        of a result, and an interrupted experiment must give the same bytes as an unbroken one.
        """
        finished = self.store.finished(self.name)
        for chunk in self._chunks(runs):
            keys = [(phase, *run_key(run)) for run in chunk]
            if all(key in finished for key in keys):
                progress(len(chunk) * self.task.budget)
            else:
                self._run_chunk(chunk, keys, phase, score, progress)

    def _chunks(self, runs: Sequence[PlannedRun]) -> Iterator[Sequence[PlannedRun]]:
        """Runs that are made together: so many, under one optimizer."""
        groups: dict[Any, list[PlannedRun]] = {}
        for run in runs:
            groups.setdefault(optimizer_of(run.planner), []).append(run)
        for group in groups.values():
            for start in range(0, len(group), self.lockstep):
                yield group[start : start + self.lockstep]

    def _run_chunk(
        self,
        chunk: Sequence[PlannedRun],
        keys: Sequence[StoredKey],
        phase: str,
        score: Sequence[str],
        progress: Progress,
    ) -> None:
        ids = self.store.begin_runs(self.name, keys)
        how = {"device": self.device, "backend": self.backend, "numerics": self.numerics}
        rollout = Rollout(self.task, chunk, score=score, **how)
        tag = hashlib.sha256(json.dumps([self._id, keys]).encode()).hexdigest()
        self._restore(rollout, tag, ids)
        self.store.rewind(ids, rollout.segment)
        progress(len(chunk) * self.task.segment * rollout.segment)
        last = time.monotonic()
        while not rollout.done:
            rows = rollout.advance()
            self.store.write_segment(rollout.segment - 1, [(ids[row], signals) for row, signals in rows])
            progress(len(chunk) * self.task.segment)
            if time.monotonic() - last >= self.checkpoint_seconds and not rollout.done:
                segment, written = rollout.segment, self.store.seal_segments(self.name, ids, rollout.segment)
                tree = {"tag": tag, "segment": segment, "written": written, "rollout": rollout.snapshot()}
                save_tree(self.checkpoint, tree)
                last = time.monotonic()
        left = self.task.num_segments - rollout.segment  # where every run of the chunk diverged
        progress(len(chunk) * self.task.segment * left)
        made = provenance(self.device)
        records = [replace(rollout.record(row, phase), provenance=made) for row in range(len(chunk))]
        self.store.finish_runs(zip(ids, records, strict=True))
        self.checkpoint.unlink(missing_ok=True)

    def _restore(self, rollout: Rollout, tag: str, ids: Sequence[int]) -> None:
        """Go on from the checkpoint of these runs, if there is one and the store has all the segments before it.

        Raises:
            UserError: it is damaged or does not fit the runs.
        """
        try:
            saved = load_tree(self.checkpoint)
        except FileNotFoundError:
            return
        with fitting(self.checkpoint):
            of, segments, written, tree = (saved[key] for key in ("tag", "segment", "written", "rollout"))
        if of != tag or not self._written(ids, segments, written):
            return
        with fitting(self.checkpoint):
            fresh = rollout.snapshot()
            del fresh["own"]["_states"]  # which may grow
            check_fit(tree, fresh)
            rollout.restore(tree)

    def _written(self, ids: Sequence[int], segments: int, expected: str | int) -> bool:
        """Whether the store has the segments that a checkpoint was written after."""
        if isinstance(expected, int):  # by a version that counted them
            return self.store.count_segments(ids, segments) == expected
        return self.store.seal_segments(self.name, ids, segments) == expected


def added_to(known: Mapping[str, Any] | None, planners: Sequence[str]) -> dict[str, Any]:
    """What a spec says of its planners, where some may be new to an experiment.

    Planners that are added are trained by themselves, so that the runs there are keep their neighbours in the stack.

    Args:
        known: the spec that the experiment was begun with, if it was.
        planners: names of all of them, in any order.

    Returns:
        `planners`, those that it was begun with, and `added`, those of each later start that had new ones.

    Raises:
        UserError: the experiment has one that is not among them.
    """
    if known is None:
        return {"planners": list(planners)}
    before = generations(known)
    had = [name for generation in before for name in generation]
    if left_out := [name for name in had if name not in planners]:
        raise UserError(
            f"planner {left_out[0]} is in the experiment, but not among --planners: "
            "name all that it has and those to be added, or give another --name"
        )
    new = [name for name in planners if name not in had]
    later = [*before[1:], *([new] if new else [])]
    return {"planners": before[0], **({"added": later} if later else {})}


def generations(spec: Mapping[str, Any]) -> list[list[str]]:
    """Names of the planners of a spec: those that it was begun with, then those that later starts added, by start.

    Raises:
        UserError: it is the spec of an experiment of another kind.
    """
    added = spec.get("added", [])
    found = [spec.get("planners"), *(added if isinstance(added, list) else [None])]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found):
        raise UserError("an experiment of that name is of another kind: give another --name, or --fresh to start over")
    return found


def with_unknown(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an earlier start, with what its version did not note taken from the spec of this one."""
    unknown = {key: now[key] for key in ("data", "own_code") if key in now and key not in before}
    had, have = before.get("versions"), now.get("versions")
    if isinstance(had, dict) and isinstance(have, dict):
        unknown["versions"] = {**have, **had}
    return {**before, **unknown}


def _extends(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that a spec changes is that there are more planners, or larger budgets after those that it had."""
    if "budgets" in now:
        had = before["budgets"].get("runs") if isinstance(before.get("budgets"), dict) else None
        longer = {**now["budgets"], "runs": now["budgets"]["runs"][: len(had) if isinstance(had, list) else 0]}
        return before == {**now, "budgets": longer}
    if "planners" not in now:
        return False
    own = ("added", "settings", "fingerprints", "own_code")
    if any(before.get(key) != now.get(key) for key in (before.keys() | now.keys()).difference(own)):
        return False
    had, have = generations(before), generations(now)
    new = {name for generation in have[len(had) :] for name in generation}

    def same(key: str) -> bool:
        return {name: value for name, value in now.get(key, {}).items() if name not in new} == before.get(key, {})

    return have[: len(had)] == had and all(same(key) for key in own[1:])


def lock_of(store: Store, name: str) -> Path:
    """The file that the process which works on an experiment holds."""
    return _beside(store, name, "lock")


def start_over(store: Store, name: str) -> None:
    """Forget what an experiment has done."""
    store.delete_experiment(name)
    _beside(store, name, "checkpoint").unlink(missing_ok=True)


def _beside(store: Store, name: str, kind: str) -> Path:
    return store.path.with_name(f"{store.path.name}.{name}.{kind}")


def _difference(name: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for key in sorted((known.keys() | wanted.keys()) - {"added"}):  # which is never wrong by itself
        before, now = known.get(key), wanted.get(key)
        if before == now:
            continue
        if key == "data" and isinstance(before, dict) and isinstance(now, dict):
            if before.get("name") != now["name"]:
                continue  # the tasks say it
            what = ", ".join(part for part in now if before.get(part) != now[part])
            return f"{name!r} was begun on other data: the data set {now['name']!r} has another {what} now"
        if key == "own_code" and isinstance(before, dict) and isinstance(now, dict):
            what = ", ".join(part for part in (before | now) if before.get(part) != now.get(part))
            return f"{name!r} was begun with other code: that of {what} has changed since"
        if isinstance(before, dict) and isinstance(now, dict):
            return _difference(name, before, now).replace("with ", f"with {key} ", 1)
        if key not in known or key not in wanted:  # what is measured only on demand
            return f"{name!r} was begun {'with' if key in known else 'without'} {key}"
        return f"{name!r} was begun with {key} {json.dumps(before)}, not {json.dumps(now)}"
    return f"{name!r} was begun with other settings"

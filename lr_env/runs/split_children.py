"""Children that several processes or machines train, with the interface of `lr_env.Children`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.children import Children, Execution, fastest
from lr_env.children.backend import Backend
from lr_env.children.children import Snapshot, check_seeds
from lr_env.runs.engine import Engine
from lr_env.runs.hosting import Host
from lr_env.tasks import Task

Floats = NDArray[np.float64]


class SplitChildren:
    """N children of one task in the slots of an engine, as many in each.

    They are those of one `Children` of the same backend; where that is a stack, of the same blocks. Every call waits
    for the slowest slot. They cannot be pickled or forked.

    Args:
        engine: where they are trained.
        task: what to train.
        seeds: one for each child.
        execution: how they are trained; what it leaves open is measured in a slot.
        extra_signals: see `Children`.

    Attributes:
        seeds, steps, step_losses, extra_signals, step_signals, groups, backend: as those of `Children`.

    Raises:
        UserError: see `Children`; or a process of the engine ended.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        seeds: Sequence[int],
        execution: Execution,
        extra_signals: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.seeds = check_seeds(seeds)
        slots = min(engine.slots, len(self.seeds))
        execution = engine.call(fastest, execution, task, -(-len(self.seeds) // slots))
        self.edges = _edges(len(self.seeds), execution.resolved_backend, slots)
        self._hosts: list[Host] = []
        try:
            for start, end in zip(self.edges, self.edges[1:], strict=False):
                part = self.seeds[start:end].tolist()
                self._hosts.append(engine.host(_Part, task, part, execution, tuple(extra_signals)))
            self.execution, self.num_parameters, self.extra_signals, self.groups = self._hosts[0].ask("facts")()
        except BaseException:
            self.close()
            raise
        self.backend = self.execution.resolved_backend
        self.steps = np.zeros(len(self.seeds), dtype=np.int64)
        self.step_losses = np.full((len(self.seeds), task.segment), np.nan)
        self.step_signals = np.full((len(self.seeds), task.segment, len(self.extra_signals)), np.nan)

    def __len__(self) -> int:
        return len(self.seeds)

    def close(self) -> None:
        """Give the slots back."""
        for host in self._hosts:
            host.close()
        self._hosts = []

    def train(self, lr: Floats | Sequence[float], rows: Sequence[int] | None = None) -> Floats:
        """Train one segment; see `Children.train`."""
        rates = np.asarray(lr, dtype=np.float64)
        self.step_losses[:], self.step_signals[:] = np.nan, np.nan
        answers = self._ask(rows, "train", lambda part, local, places: (rates[part], local))
        for part, _, (losses, signals, steps) in answers:
            self.step_losses[part], self.step_signals[part], self.steps[part] = losses, signals, steps
        return self.step_losses.mean(1)

    def measure(self, rows: Sequence[int] | None = None) -> dict[str, Floats]:
        """Measure children on the validation subset; see `Children.measure`."""
        return self._gathered(rows, "measure")

    def flatness(self, rows: Sequence[int] | None = None) -> dict[str, Floats]:
        """Measure how flat the training loss is; see `Children.flatness`."""
        return self._gathered(rows, "flatness")

    def evaluate(self, split: str, rows: Sequence[int] | None = None) -> tuple[Floats, Floats]:
        """Score children on a whole split; see `Children.evaluate`."""
        scores = self._gathered(rows, "evaluate", split)
        return scores["loss"], scores["accuracy"]

    def first_batch_loss(self, rows: Sequence[int]) -> Floats:
        """Training loss of the batches that children will train on next; see `Children.first_batch_loss`."""
        return self._gathered(rows, "first_batch_loss")["loss"]

    def reset(self, rows: Sequence[int], seeds: Sequence[int] | NDArray[np.int64]) -> None:
        """Start some children again; see `Children.reset`."""
        given = check_seeds(seeds)
        for _ in self._ask(rows, "reset", lambda part, local, places: (local, given[places])):
            pass
        self.seeds[list(rows)], self.steps[list(rows)] = given, 0

    def snapshot(self) -> Snapshot:
        """Copy everything that the further training depends on; see `Children.snapshot`."""
        return _joined([answer for _, _, answer in self._ask(None, "snapshot", lambda *_: ())])

    def check_fits(self, snapshot: Mapping[str, Any], count: int) -> None:
        """Check that a snapshot is of `count` children of this kind; see `Children.check_fits`."""
        self._hosts[0].ask("check_fits", dict(snapshot), count)()

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put all children back into the state of a snapshot; see `Children.restore`."""
        self.check_fits(snapshot, len(self))
        for _ in self._ask(None, "restore", lambda part, local, places: (_cut(snapshot, part),)):
            pass
        self.seeds[:], self.steps[:] = snapshot["seeds"], snapshot["steps"]

    def _ask(
        self, rows: Sequence[int] | None, method: str, arguments: Any
    ) -> list[tuple[slice, NDArray[np.int64], Any]]:
        """Call a method in all slots that have some of the children.

        Args:
            rows: children; None for all.
            method: its name.
            arguments: gives its arguments, of the slice of the slot's children, which of them (row numbers there), and
                their places among `rows`.

        Returns:
            For each slot: the slice of its children, the places, and the answer.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        asked = []
        for host, start, end in zip(self._hosts, self.edges, self.edges[1:], strict=False):
            places = np.flatnonzero((chosen >= start) & (chosen < end))
            if len(places):
                part = slice(start, end)
                given = arguments(part, (chosen[places] - start).tolist(), places)
                asked.append((part, places, host.ask(method, *given)))
        return [(part, places, answer()) for part, places, answer in asked]

    def _gathered(self, rows: Sequence[int] | None, method: str, *more: Any) -> dict[str, Floats]:
        """What a method gives for each child, name -> (rows,), in the order of the rows."""
        count = len(self) if rows is None else len(rows)
        whole: dict[str, Floats] = {}
        for _, places, measured in self._ask(rows, method, lambda part, local, places: (*more, local)):
            for name, values in measured.items():
                whole.setdefault(name, np.empty(count))[places] = values
        return whole


class _Part:
    """The children of one slot."""

    def __init__(self, task: Task, seeds: Sequence[int], execution: Execution, extra_signals: Sequence[str]) -> None:
        self.children = Children(task, seeds, execution, extra_signals=extra_signals)
        self.reset, self.snapshot, self.restore = self.children.reset, self.children.snapshot, self.children.restore
        self.measure, self.flatness, self.check_fits = (
            self.children.measure,
            self.children.flatness,
            self.children.check_fits,
        )

    def facts(self) -> tuple[Execution, int, tuple[str, ...], tuple[str, ...]]:
        """What is the same in all slots."""
        children = self.children
        return children.execution, children.num_parameters, children.extra_signals, children.groups

    def train(self, lr: Floats, rows: Sequence[int]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Train one segment; returns the losses and signals of its steps, and the steps done."""
        self.children.train(lr, rows)
        return self.children.step_losses, self.children.step_signals, self.children.steps

    def evaluate(self, split: str, rows: Sequence[int]) -> dict[str, Floats]:
        """Score children on a whole split."""
        return dict(zip(("loss", "accuracy"), self.children.evaluate(split, rows), strict=True))

    def first_batch_loss(self, rows: Sequence[int]) -> dict[str, Floats]:
        """Training loss of the next batches."""
        return {"loss": self.children.first_batch_loss(rows)}


def _edges(count: int, backend: Backend, slots: int) -> list[int]:
    """First child of each slot, and the number of children: whole blocks of a stack, about as many in each slot."""
    blocks = -(-count // backend.block)
    starts = [count * number // blocks for number in range(blocks + 1)]
    slots = min(slots, blocks)
    return [starts[blocks * number // slots] for number in range(slots + 1)]


_OF_CHILDREN = ("tensors", "steps", "seeds", "order_seeds", "optimizers", "measured")
"""Entries of a snapshot that have a row for each child; the others are the same for all."""


def _joined(parts: Sequence[Snapshot]) -> Snapshot:
    """Put the snapshots of parts together."""
    return {
        name: _rows_joined([part[name] for part in parts]) if name in _OF_CHILDREN else value
        for name, value in parts[0].items()
    }


def _rows_joined(parts: Sequence[Any]) -> Any:
    match parts[0]:
        case dict():
            return {name: _rows_joined([part[name] for part in parts]) for name in parts[0]}
        case torch.Tensor():
            return torch.cat(list(parts))
        case list():
            return [one for part in parts for one in part]
    return np.concatenate(list(parts))


def _cut(snapshot: Mapping[str, Any], rows: slice) -> Snapshot:
    """The part of a snapshot that belongs to some children."""
    return {name: _rows_cut(value, rows) if name in _OF_CHILDREN else value for name, value in snapshot.items()}


def _rows_cut(node: Any, rows: slice) -> Any:
    return {name: of[rows] for name, of in node.items()} if isinstance(node, Mapping) else node[rows]

"""Side by side with JAX, which trains the same children: child steps a second, on all cores and on one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.bench.measures import LOCKSTEP, Effort, in_turns, of_rates, segment_seconds, segments_of
from lr_env.bench.peer_process import Peer, PeerError, PeerProcess
from lr_env.bench.table import Bar, Figure
from lr_env.children import Children, Execution
from lr_env.children.autotune import fastest
from lr_env.isolation import using_threads
from lr_env.optimizers import SGD
from lr_env.tasks import Task
from lr_env.words import counted

JAX = Peer("JAX", "jax_side.py", ("jax==0.10.*", "jaxlib==0.10.*", "ml_dtypes==0.5.*", "opt_einsum==3.*"))
"""What JAX needs on a CPU, besides numpy and scipy, which lr_env has."""

BAR: Bar = (">=", 1.0)

_MLP = (("flatten",), ("dense",), ("relu",), ("dense",), ("relu",), ("dense",))
_POOLED = (("relu",), ("pool",))

LAYERS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "DigitsMLP": _MLP,
    "FashionMLP": _MLP,
    "FashionLeNet5": (("conv", 2), *_POOLED, ("conv", 0), *_POOLED, *_MLP),
}
"""The tasks that JAX trains, too -> the layers of their networks, as `jax_side.logits_of` takes them."""

TOLERANCE = 1e-4
"""Largest difference of the losses after the first segment, nats."""

AGREEING = 0.9
"""Share of the children whose losses must agree. In float32 a ReLU may be on the other side of zero for one example,
which changes a gradient: one child of 32 on FashionMLP is off by 3e-4 then, the others by less than 1e-6."""

HOW = (
    "JAX trains the same networks, from the same initial weights and training split, with SGD and a rate for each "
    f"child: {LOCKSTEP} children, the steps of a segment as lax.scan, validation at its end, all of it one compiled "
    "function whose state is donated. It is timed by jax.vmap over the children and by lax.map (one after another), "
    "and where there are convolutions with its own and with matrix products over shifted images; the fastest is "
    "compared, and named. lr_env's side is Children with the fastest backend, train() and measure(). JAX ran on the "
    "CPU, in a process and a virtual environment of its own, after it had compiled, idle while lr_env had its turn. "
    "With one core both processes are bound to the same one. Before it is timed, each of its ways must have the same "
    f"training and validation losses as lr_env's loop after the first segment, to {TOLERANCE:g} nats, in "
    f"{AGREEING:.0%} of the children (rounding moves a ReLU across zero now and then)."
)


def cores() -> list[int]:
    """The cores of this process; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def bound_to(chosen: Sequence[int]) -> Iterator[None]:
    """Inside, this thread computes on these cores, and torch with as many threads; without any all is as it was."""
    if not chosen:
        yield
        return
    before = cores()
    os.sched_setaffinity(0, chosen)
    try:
        with using_threads(len(chosen)):
            yield
    finally:
        os.sched_setaffinity(0, before)


def against_jax(python: Path, task: Task, effort: Effort) -> list[Figure]:
    """Figures of one task, from the Python that has JAX.

    Raises:
        PeerError: JAX failed, or trains something else.
    """
    every = cores()
    figures = []
    for chosen in [every, every[-1:]] if len(every) > 1 else [every]:
        with (
            tempfile.TemporaryDirectory() as name,
            bound_to(chosen),
            JAX.start(python, threads=max(1, len(chosen)), cores=chosen) as peer,
        ):
            twin = Twin.of(task)
            twin.write(Path(name))
            about = peer.ask("start", folder=name, layers=LAYERS[task.name], momentum=twin.momentum)
            figures.append(compare(twin, peer, about, effort))
    return figures


@dataclass(frozen=True)
class Twin:
    """What both sides train.

    Attributes:
        task: the task.
        children: lr_env's side, untrained.
        momentum: of SGD.
    """

    task: Task
    children: Children
    momentum: float

    @classmethod
    def of(cls, task: Task) -> Twin:
        """Make lr_env's side.

        Raises:
            PeerError: JAX's side has no such training.
        """
        optimizer = task.optimizer
        plain = task.clip_norm is None and task.augment is None
        if not (isinstance(optimizer, SGD) and optimizer == SGD(optimizer.momentum) and plain):
            raise PeerError(f"{task.name} is not trained by plain SGD with momentum, and JAX's side knows no other")
        return cls(task, Children(task, range(LOCKSTEP), fastest(Execution(), task, LOCKSTEP)), optimizer.momentum)

    def write(self, folder: Path) -> None:
        """Write what JAX's side reads; see `jax_side.Side`."""
        children, task = self.children, self.task
        train, val = children.data.splits["train"], children.data.splits["val"]
        np.savez(
            folder / "data.npz",
            train_inputs=train.inputs.numpy(),
            train_labels=train.labels.numpy(),
            val_inputs=val.inputs[: task.val_subset].numpy(),
            val_labels=val.labels[: task.val_subset].numpy(),
        )
        views = children.state.layout.views(children.state.parameters)
        for number, view in enumerate(views.values()):
            np.save(folder / f"weights-{number}.npy", view.contiguous().numpy())
        np.save(folder / "batches.npy", children.order.batches(children.steps, task.segment))

    def rates(self) -> NDArray[np.float64]:
        """A rate for each child, all different, for the first segment."""
        return self.task.lr_start * np.linspace(0.5, 1.5, len(self.children))

    def first_segment(self) -> dict[str, NDArray[np.float64]]:
        """Losses of the first segment, (children,) each, by a loop in plain torch; the children stay untrained."""
        loop = Children(self.task, self.children.seeds.tolist())
        return {"loss": loop.train(self.rates()), "val_loss": loop.measure()["val_loss"]}


def compare(twin: Twin, peer: PeerProcess, about: dict[str, Any], effort: Effort) -> Figure:
    """Child steps a second of lr_env over those of JAX's fastest way, from a peer that is ready.

    Raises:
        PeerError: the losses of the first segment differ.
    """
    task, children = twin.task, twin.children
    expected, rates = twin.first_segment(), twin.rates().tolist()
    seconds: dict[str, float] = {}
    for way in about["ways"]:
        answer = peer.ask("first_segment", way=way, rates=rates)
        for name, values in expected.items():
            difference = np.quantile(np.abs(np.array(answer[name]) - values), AGREEING)
            if not difference <= TOLERANCE:
                raise PeerError(
                    f"it trains something else: by {way}, its {name} differs by up to {difference:.2g} nats"
                )
        seconds[way] = answer["seconds"][1]
    way = min(seconds, key=lambda way: seconds[way])
    count = counted(about["cores"], "core")
    print(f"JAX {about['version']}, {count}: {_seconds(seconds)}", file=sys.stderr)
    same = [task.lr_start] * LOCKSTEP
    of_peer = segments_of(seconds[way], effort)
    segment_seconds(children, 1)  # traces
    ours = segments_of(sum(segment_seconds(children, 1)), effort)

    def theirs() -> float:
        answer = peer.ask("turn", way=way, segments=of_peer, rates=same)
        return answer["steps"] / answer["seconds"]

    rate, rate_of_peer = in_turns(
        lambda: LOCKSTEP * ours * task.segment / sum(segment_seconds(children, ours)), theirs, rounds=effort.peer_rounds
    )
    measure = f"{task.name}: child steps/s of {LOCKSTEP} children in lockstep, lr_env / JAX, {count}"
    return of_rates(measure, rate, rate_of_peer, BAR, (str(children.backend), way))


def _seconds(seconds: dict[str, float]) -> str:
    return "; ".join(f"{way}: {of_way:.3f} s a segment" for way, of_way in seconds.items())

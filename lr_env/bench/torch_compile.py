"""Side by side with a plain torch script that uses `torch.compile`: steps a second, and the time to compile."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lr_env.bench.measures import (
    LOCKSTEP,
    Effort,
    environment_seconds,
    in_turns,
    of_rates,
    segment_seconds,
    segments_of,
)
from lr_env.bench.peer_process import Peer, PeerError, PeerProcess
from lr_env.bench.table import Figure
from lr_env.children import Children, Execution
from lr_env.children.autotune import compiler, fastest
from lr_env.env import LREnv
from lr_env.tasks import Task

SCRIPT = Peer("a script with torch.compile", "torch_compile_side.py")

TASKS_OF_PEER = ("DigitsMLP", "FashionMLP", "FashionLeNet5")

TOLERANCE = 1e-3
"""Largest difference of the losses of its first two segments to those without torch.compile, nats. More than rounding:
a ReLU may be on the other side of zero for one example."""

HOW = (
    "The script with torch.compile trains one network, in a process of its own with an empty cache for compiled code, "
    "idle while lr_env has its turn; both have the same number of threads. The network with its loss, forward and "
    "backward, and the update of torch.optim are compiled, with the rate as a tensor, so that a new rate compiles "
    "nothing again. At the same steps as LREnv it takes the mean training loss, and the loss and accuracy on the same "
    "validation examples. Its losses in the first two segments are those without torch.compile. Its warm-up is what "
    "its first segment takes longer than its second; it is in no other figure."
)


def check_compiler(device: torch.device) -> None:
    """Check that torch can compile for a device.

    Raises:
        PeerError: there is no C++ compiler, which a CPU needs.
    """
    if device.type == "cpu" and compiler() is None:
        raise PeerError("there is no C++ compiler (install g++ or clang++)")


def against_script(task: Task, device: torch.device, effort: Effort) -> list[Figure]:
    """Figures of one task.

    Raises:
        PeerError: the script failed; most often, because the compiler did.
    """
    segments = min(effort.run_segments, task.num_segments)
    with (
        tempfile.TemporaryDirectory() as cache,
        SCRIPT.start(
            SCRIPT.interpreter(Path(), install=False),
            threads=torch.get_num_threads(),
            settings={"TORCHINDUCTOR_CACHE_DIR": cache},
        ) as script,
    ):
        threads = torch.get_num_threads()
        about = script.ask("start", task=task.name, segments=segments, device=str(device), threads=threads)
        compiling = warm_up(task, about)
        return [*compare(task, script, device, effort, segments), compiling]


def compare(task: Task, script: PeerProcess, device: torch.device, effort: Effort, segments: int) -> list[Figure]:
    """Steps a second of one child and of many over those of a script that is ready, whose turns have `segments`."""
    one = LREnv(task, budget=segments * task.segment, score=(), device=str(device))
    many = Children(task, range(LOCKSTEP), fastest(Execution(str(device)), task, LOCKSTEP))
    segment_seconds(many, 1)  # traces
    of_many = segments_of(sum(segment_seconds(many, 1)), effort)

    def theirs() -> float:
        answer = script.ask("turn")
        return answer["steps"] / answer["seconds"]

    rate_of_one, rate_of_script, rate_of_many = in_turns(
        lambda: one.task.budget / environment_seconds(one, 0),
        theirs,
        lambda: LOCKSTEP * of_many * task.segment / sum(segment_seconds(many, of_many)),
        rounds=effort.peer_rounds,
    )
    measure = f"{task.name}: child steps/s of"
    return [
        of_rates(f"{measure} LREnv with 1 child / {SCRIPT.name}", rate_of_one, rate_of_script, None),
        of_rates(
            f"{measure} {LOCKSTEP} children / {SCRIPT.name}",
            rate_of_many,
            rate_of_script,
            None,
            (str(many.backend), "1 network"),
        ),
    ]


def warm_up(task: Task, about: dict[str, Any]) -> Figure:
    """How long the script compiles before it trains, once it is known to train the same as without.

    Raises:
        PeerError: its losses differ from those without torch.compile.
    """
    compiled, plain = (np.array(about[kind])[:, :2] for kind in ("compiled", "plain"))
    difference = np.abs(compiled - plain).max()
    if not difference <= TOLERANCE:
        raise PeerError(f"compiled, its losses are off by {difference:.2g} nats")
    return Figure(f"{task.name}: warm-up of {SCRIPT.name}", [about["warm_up"]], "s")

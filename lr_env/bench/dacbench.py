"""Side by side with DACBench's SGD environment: child steps a second, and resets."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lr_env.bench.measures import Effort, environment_seconds, in_turns, of_rates, one_thread, reset_seconds
from lr_env.bench.peer_process import Peer, PeerError, PeerProcess
from lr_env.bench.table import Bar, Figure
from lr_env.env import LREnv, LRVectorEnv
from lr_env.errors import UserError
from lr_env.optimizers import AdamW
from lr_env.tasks import MLP, TASKS, Network, Task
from lr_env.tasks.data import forget, load
from lr_env.tasks.sources import Arrays, Parts, find_source

_VERSION = "0.5.6"

DACBENCH = Peer(
    "DACBench",
    "dacbench_side.py",
    (
        f"dacbench=={_VERSION}",
        "ConfigSpace==1.2.2",
        "ioh==0.3.22",
        "more-itertools==11.2.1",
        "pandas==3.1.1",
        "seaborn==0.13.2",
        # The release that goes with this torch: 0.15 came with 2.0, and both have counted up together since.
        f"torchvision==0.{int(torch.__version__.split('.')[1]) + 15}.*",
    ),
)
"""What DACBench needs at import and lr_env does not have."""

LOCKSTEP = 8
"""Children in the measure of many against one."""

LOCKSTEP_BAR: Bar = (">=", 1.0)
"""No slower a child. Where children are looped, many and one do the same work, so that noise decides about the tie."""

Layers = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class PlainCNN:
    """The network that DACBench's SGD benchmark has by default, 62,006 parameters for 32x32 colour images.

    Two convolutions (6 and 16 channels, 5x5), each followed by 2x2 pooling and no activation; dense 400-120-84-classes.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network for images (channels, 32, 32)."""
        return nn.Sequential(
            nn.Conv2d(input_shape[0], 6, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )


@dataclass(frozen=True)
class Case:
    """A child that both environments train.

    Attributes:
        title: in words.
        task: as LREnv trains it. Its segment and its validation examples are chosen so that LREnv decides more often
            than DACBench in its faster mode, and validates at least as many examples a step.
        dataset: torchvision's name of the data.
        layers: the network as DACBench is told it, or the name of a file that it ships.
        bar: what one child's speed over that of DACBench's faster mode is held against.
    """

    title: str
    task: Task
    dataset: str
    layers: Layers | str
    bar: Bar

    def request(self, folder: Path) -> dict[str, Any]:
        """What DACBench's process is told, once its network is written."""
        network = self.layers
        if not isinstance(network, str):
            path = folder / "network.json"
            path.write_text(json.dumps(network), encoding="utf-8")
            network = str(path)
        return {
            "folder": str(folder),
            "dataset": self.dataset,
            "network": network,
            "batch_size": self.task.batch_size,
            "lr": self.task.lr_start,
        }


def _task(name: str, data: str, network: Network, batch_size: int, segment: int, val_subset: int) -> Task:
    return replace(
        TASKS["FashionMLP"],
        name=name,
        data=data,
        network=network,
        optimizer=AdamW(),  # DACBench builds it whatever its instance says, with torch's defaults
        batch_size=batch_size,
        budget=100 * segment,
        segment=segment,
        val_subset=val_subset,
        lr_start=0.001,
        target_val_loss=None,
    )


CASES = (
    Case(
        "MLP 784-256-128-10, MNIST, batch 1,000",
        _task("MnistMLP", "mnist", MLP((256, 128)), 1_000, 12, 500),
        "MNIST",
        (
            ("FLATTEN", {}),
            ("LINEAR", {"in_features": 784, "out_features": 256}),
            ("RELU", {}),
            ("LINEAR", {"in_features": 256, "out_features": 128}),
            ("RELU", {}),
            ("LINEAR", {"in_features": 128, "out_features": 10}),
            ("LOGSOFTMAX", {"dim": 1}),
        ),
        (">=", 7.0),
    ),
    Case(
        "DACBench's default CNN (62,006 parameters), CIFAR-10, batch 32",
        _task("CifarCNN", "cifar10", PlainCNN(), 32, 50, 50),
        "CIFAR10",
        "small_cifar_model.json",
        (">=", 1.7),
    ),
)


def measure(folder: Path, effort: Effort, install: bool) -> tuple[list[Figure], list[str], list[str]]:
    """Everything about DACBench.

    Args:
        folder: of the peers' virtual environments.
        effort: how long is measured.
        install: whether to make that environment where it is missing.

    Returns:
        The figures; sentences on what is not measured, and why; sentences on how the rest was.
    """
    figures: list[Figure] = []
    skipped: list[str] = []
    notes: list[str] = []
    python = None
    try:
        python = DACBENCH.interpreter(folder, install)
    except PeerError as error:
        skipped.append(f"DACBench is not measured: {error}.")
        print(skipped[-1], file=sys.stderr)
    for case in CASES:
        print(f"{case.title} ...", file=sys.stderr)
        try:
            load(case.task.data)
        except UserError as error:
            skipped.append(f"{case.title}: not measured, as the data set {case.task.data} is not there (LR_ENV_DATA).")
            print(f"{skipped[-1]} {error}", file=sys.stderr)
            continue
        with one_thread():
            figures.append(together(case, effort))
            if python is not None:
                try:
                    compared, note = _against(python, case, effort)
                    figures += compared
                    notes.append(note)
                except PeerError as error:
                    skipped.append(f"{case.title}: DACBench is not measured: {error}.")
                    print(skipped[-1], file=sys.stderr)
        forget()  # the images of both cases together would take a gigabyte
    return figures, skipped, [*([HOW] if notes else []), *notes]


def together(case: Case, effort: Effort) -> Figure:
    """Child steps a second of some children in lockstep over those of one; a turn is a segment."""
    steps = case.task.segment
    one = LREnv(case.task, budget=steps, score=())
    many = LRVectorEnv(case.task, num_envs=LOCKSTEP, budget=steps, score=(), autoreset_mode="Disabled")
    of_many, of_one = in_turns(
        lambda: LOCKSTEP * steps / lockstep_seconds(many, 0),
        lambda: steps / environment_seconds(one, 0),
        rounds=effort.rounds,
    )
    absolute = f"{np.median(of_many):,.1f} ({many.episodes.children.backend}) and {np.median(of_one):,.1f}"
    measure = f"{case.title}: child steps/s of {LOCKSTEP} children in lockstep / 1 child, LREnv, 1 thread"
    return Figure(measure, (of_many / of_one).tolist(), "x", absolute, LOCKSTEP_BAR)


def lockstep_seconds(envs: LRVectorEnv, seed: int) -> float:
    """Time of all steps of an episode of all children at the task's starting rate, after the reset."""
    envs.reset(seed=seed)
    rates = np.full(envs.num_envs, envs.task.lr_start)
    start = time.perf_counter()
    for _ in range(envs.task.num_segments):
        _, _, terminated, _, _ = envs.step(rates)
        if terminated.any():
            raise RuntimeError(f"{envs.task.name} diverged at its starting rate")
    return time.perf_counter() - start


def _against(python: Path, case: Case, effort: Effort) -> tuple[list[Figure], str]:
    """Figures of one case, and how they were taken."""
    with tempfile.TemporaryDirectory() as name, DACBENCH.start(python) as peer:
        folder = Path(name)
        write_data(folder, case.dataset, find_source(case.task.data).fetch(), effort.peer_examples)
        about = peer.ask("start", **case.request(folder))
        return compare(case, peer, about, effort)


def compare(case: Case, peer: PeerProcess, about: dict[str, Any], effort: Effort) -> tuple[list[Figure], str]:
    """Figures of one case, and how they were taken, from a peer that is ready."""
    epoch, validated = about["epoch_steps"], about["validated"]
    segment = min(case.task.segment, epoch)
    steps = epoch - epoch % segment
    env = LREnv(case.task, budget=steps, segment=segment, score=())
    by_step_task = replace(case.task, budget=effort.peer_decisions, segment=1, val_subset=validated)
    env_by_step = LREnv(by_step_task, score=())
    if about["parameters"] != env.run_spec.num_parameters or about["optimizer"] != env.run_spec.optimizer:
        raise PeerError(f"it trains something else: {about}, and LREnv {env.run_spec}")
    theirs = {True: 1, False: effort.peer_decisions}  # decisions in a turn, by whether they come once an epoch
    our_resets: list[float] = []

    def ours() -> float:
        our_resets.append(reset_seconds(env, 0))
        return steps / environment_seconds(env, 0)

    def dacbench(epoch_mode: bool) -> tuple[float, float]:
        answer = peer.ask("turn", epoch_mode=epoch_mode, decisions=theirs[epoch_mode])
        return answer["steps"] / answer["seconds"], answer["reset_seconds"]

    ours_rate, by_epoch, by_step, ours_by_step = in_turns(
        ours,
        lambda: dacbench(True),
        lambda: dacbench(False),
        lambda: effort.peer_decisions / environment_seconds(env_by_step, 0),
        rounds=effort.peer_rounds,
    )
    modes = {"once an epoch": by_epoch[:, 0], "once a step": by_step[:, 0]}
    faster = max(modes, key=lambda mode: float(np.median(modes[mode])))
    measure = f"{case.title}: child steps/s of LREnv with 1 child / DACBench"
    their_resets, resets = by_epoch[:, 1], np.array(our_resets[1:])  # the first turn warms up
    absolute = f"{1000 * np.median(their_resets):,.1f} ms and {1000 * np.median(resets):,.1f} ms"
    figures = [
        of_rates(f"{measure}, its faster mode (decides {faster})", ours_rate, modes[faster], case.bar),
        of_rates(f"{measure}, both decide once a step", ours_by_step, modes["once a step"], None),
        Figure(f"{case.title}: time of reset() of DACBench / LREnv", (their_resets / resets).tolist(), "x", absolute),
    ]
    return figures, (
        f"{case.title}: a turn is {steps:,} steps of LREnv (a decision every {segment} steps, {case.task.val_subset:,} "
        f"validation examples after each) and an epoch of {epoch:,} steps of DACBench (1 decision, {validated:,} "
        f"examples after it, as it does by default); once a step: {effort.peer_decisions} steps of each, {validated:,} "
        "examples after each."
    )


HOW = (
    f"DACBench {_VERSION} ran on the CPU, in a process and a virtual environment of its own, idle while LREnv had its "
    "turn; both on the same torch and with one thread. It reads the same files through the real torchvision, whose "
    "data sets and transforms are Python; torchvision's C++ operators, which neither side calls, are only declared "
    "where they do not load beside a CPU torch. Both train the same network with AdamW at a rate of 0.001; the time of "
    "a reset is not part of a turn. DACBench trains on 80 % of the published training examples and holds out the "
    "rest; LREnv trains on its own split of the same."
)


def write_data(folder: Path, dataset: str, parts: Parts, examples: int | None) -> None:
    """Put a data set where torchvision's class of that name finds it below a folder.

    Args:
        folder: to write into.
        dataset: "MNIST" or "CIFAR10".
        parts: the published examples, as from `DataSource.fetch`.
        examples: of the training examples, how many at most; None for all.
    """
    train, test = (parts["val", "train"], parts["test",])
    train = train[0][:examples], train[1][:examples]
    if dataset == "MNIST":
        raw = folder / dataset / "raw"
        raw.mkdir(parents=True)
        for prefix, (images, labels) in (("train", train), ("t10k", test)):
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(_idx(images))
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(_idx(labels))
        return
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for number, start in enumerate(range(0, len(train[1]), 10_000), start=1):
        part = train[0][start : start + 10_000], train[1][start : start + 10_000]
        (batches / f"data_batch_{number}").write_bytes(_batch(part))
    (batches / "test_batch").write_bytes(_batch(test))
    names = [str(label) for label in range(10)]  # nothing here reads them
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def _idx(array: NDArray[Any]) -> bytes:
    """The IDX format: two zero bytes, type 8 (uint8), the number of dimensions, the sizes, the data."""
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def _batch(part: Arrays) -> bytes:
    """One file of the Python version of CIFAR-10."""
    images, labels = part
    return pickle.dumps({"data": images.reshape(len(images), -1), "labels": labels.tolist()})

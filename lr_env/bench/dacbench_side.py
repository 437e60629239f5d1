"""Runs inside DACBench's virtual environment: times its SGD environment on request.

This file knows nothing of lr_env, which that environment does not have. It is run by `serve.py`; see
`lr_env.bench.dacbench` for the other side.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from torch import library as operators


def import_torchvision() -> Any:
    """The real torchvision, whose compiled operators need not load.

    The published Linux wheels are built for CUDA: beside a CPU torch their C++ library finds no CUDA and is left out,
    and the import then stops where it describes two operators that do not exist. They are for object detection.
    Declaring them is enough: data sets and transforms are plain Python.
    """
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    for library in Path(folders[0]).glob("_C*.so") if folders else ():
        try:
            torch.ops.load_library(str(library))
        except OSError:
            declared = operators.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declarations.append(declared)  # a library that is let go of takes its declarations with it
    import torchvision  # pyright: ignore[reportMissingImports]

    return torchvision


_declarations: list[operators.Library] = []


class Side:
    """DACBench's environment for one child, in each of its two modes.

    Args:
        folder: holds the data set.
        dataset: torchvision's name of it.
        network: a file that describes the network, or the name of one that DACBench ships.
        batch_size: training examples in a batch.
        lr: learning rate.
    """

    def __init__(self, folder: str, dataset: str, network: str, batch_size: int, lr: float) -> None:
        torch.set_num_threads(1)
        datasets = import_torchvision().datasets
        from dacbench.benchmarks import SGDBenchmark  # pyright: ignore[reportMissingImports]
        from dacbench.envs import SGDInstance  # pyright: ignore[reportMissingImports]
        from dacbench.envs.env_utils import sgd_utils  # pyright: ignore[reportMissingImports]

        batches = Path(folder) / "cifar-10-batches-py"
        if batches.is_dir():  # written by lr_env, so that they are not the files that torchvision knows
            datasets.CIFAR10.train_list = _listed(batches, "data_batch_*")
            datasets.CIFAR10.test_list = _listed(batches, "test_batch")
            (meta,) = _listed(batches, "batches.meta")
            datasets.CIFAR10.meta = {**datasets.CIFAR10.meta, "md5": meta[1]}
        self.lr = lr
        self.modes = {}
        for epoch_mode in (True, False):
            benchmark = SGDBenchmark()
            benchmark.config.epoch_mode = epoch_mode
            benchmark.config["instance_set"] = {
                0: SGDInstance(
                    model=sgd_utils.get_model_constructor("from_file", [network]),
                    optimizer_type="AdamW",
                    optimizer_params={},
                    dataset_path=folder,
                    dataset_name=dataset,
                    batch_size=batch_size,
                    fraction_of_dataset=1,
                    train_validation_ratio=0.8,
                    seed=0,
                )
            }
            self.modes[epoch_mode] = benchmark.get_environment()

    def describe(self) -> dict[str, Any]:
        """What is trained: parameters, steps an epoch, and validation examples after a decision, counted."""
        env = self.modes[False]
        env.reset()
        seen = 0

        def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: Any) -> None:
            nonlocal seen
            seen += 0 if module.training else len(inputs[0])

        hook = env.model.register_forward_hook(count)
        env.step(self.lr)
        hook.remove()
        return {
            "parameters": sum(p.numel() for p in env.model.parameters()),
            "epoch_steps": len(env.train_loader),
            "validated": seen,
            "optimizer": type(env.optimizer).__name__,
        }

    def turn(self, epoch_mode: bool, decisions: int) -> dict[str, Any]:
        """Time so many steps of the environment, after a reset that is timed apart."""
        env = self.modes[epoch_mode]
        start = time.perf_counter()
        env.reset()
        reset_seconds = time.perf_counter() - start
        if not epoch_mode:
            env.step(self.lr)  # the first one changes nothing, since there is no gradient yet
        start = time.perf_counter()
        for _ in range(decisions):
            _, _, _, truncated, _ = env.step(self.lr)
            if truncated:
                raise RuntimeError("the run crashed, or was longer than an episode")
        seconds = time.perf_counter() - start
        steps = decisions * (len(env.train_loader) if epoch_mode else 1)
        return {"steps": steps, "seconds": seconds, "reset_seconds": reset_seconds}


def _listed(folder: Path, pattern: str) -> list[list[str]]:
    """Files and their MD5, which torchvision checks at every start."""
    return [[path.name, hashlib.md5(path.read_bytes()).hexdigest()] for path in sorted(folder.glob(pattern))]

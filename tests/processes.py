"""Work in two processes that belong together, and a planner that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


@dataclass(frozen=True)
class Losses:
    """Its rate goes with the sum of the losses; those that are not new do not count."""

    name = "losses"
    needs = frozenset({"step", "train_loss", "val_loss"})
    may_be_missing = frozenset({"train_loss", "val_loss"})

    def start(self, run, seeds):
        return {}

    def with_budget(self, state, run):
        return state

    def plan(self, state, signals):
        losses = [np.nan_to_num(signals[name]) for name in ("train_loss", "val_loss")]
        return (0.5 + sum(losses)) / 16, state


def in_processes(work, folder, count=2):
    """What `work(rank, folder)` gives in each of several processes that belong together."""
    mp.spawn(_process, (work, str(folder), count), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _process(rank, work, folder, count):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(work(rank, folder), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def torchrun(work, *arguments, count=2):
    """What `work(*arguments)` gives in each of several processes that are started as `torchrun` does."""
    config = LaunchConfig(
        1,
        1,
        count,
        run_id="tests",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        start_method="spawn",
        max_restarts=0,
        monitor_interval=0.1,
    )
    results = elastic_launch(config, work)(*arguments)
    return [results[rank] for rank in range(count)]

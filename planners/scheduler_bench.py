"""Benchmark of `PlannerLR` for `lr_env.bench`: what it costs in a training loop of one's own."""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from lr_env.bench.measures import one_thread
from lr_env.bench.table import Bar, Figure
from lr_env.planner import Planner
from lr_env.tasks import TASKS
from planners.latent_ode.planner import LatentODE
from planners.schedules import Cosine
from planners.torch_scheduler import PlannerLR

TASK = TASKS["FashionLeNet5"]
SHARE = 1.0
"""Bar: percent of a training run."""

_VALIDATED = 10
"""Steps between two validation losses, which are made up: their cost is not that of the scheduler."""


def figures(rounds: int, quick: bool) -> tuple[list[Figure], list[str]]:
    """Measure the share of `observe` and `step` in a training of LeNet-5 on made-up images, by one thread."""
    steps = 40 if quick else 1000
    latent = LatentODE(model=TASK.name, mismatch="rescaled")
    cases: list[tuple[str, Planner, int, Bar | None]] = [
        ("a cosine", Cosine(0.05), max(1, steps // 100), ("<", SHARE)),
        ("latent-ode", latent, max(1, steps // 100), ("<", SHARE)),
        ("a cosine, a plan each step", Cosine(0.05), 1, None),
    ]
    with one_thread():
        return [_share(*case, steps, max(2, rounds // 3)) for case in cases], []


def _share(name: str, planner: Planner, segment: int, bar: Bar | None, steps: int, rounds: int) -> Figure:
    """Train anew in each round, and measure the wall time inside the scheduler."""
    shares, inside, whole = [], [], []
    for seed in range(rounds):
        torch.manual_seed(seed)
        network = TASK.network.build((1, 28, 28), 10)
        images, labels = torch.randn(TASK.batch_size, 1, 28, 28), torch.randint(0, 10, (TASK.batch_size,))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        began, took = time.perf_counter(), 0.0
        scheduler = PlannerLR(optimizer, planner, steps, segment)
        took += time.perf_counter() - began
        for step in range(steps):
            loss = cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            before = time.perf_counter()
            scheduler.observe(train_loss=loss)
            if step % _VALIDATED == _VALIDATED - 1:
                scheduler.observe(val_loss=loss)
            scheduler.step()
            took += time.perf_counter() - before
        whole.append(time.perf_counter() - began)
        inside.append(1000 * took)
        shares.append(100 * took / whole[-1])
    absolute = f"{statistics.median(inside):.0f} ms of {statistics.median(whole):.1f} s for {steps} steps"
    return Figure(f"PlannerLR on {name}: share of a training of LeNet-5, 1 thread", shares, "%", absolute, bar)

"""Runs in a process of its own, in lr_env's environment: a plain torch script with `torch.compile`.

It is run by `serve.py`; see `lr_env.bench.torch_compile` for the other side.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from lr_env.bench.plain import PlainLoop
from lr_env.tasks import TASKS
from lr_env.tasks.data import load


class Side:
    """One network in training, every step of which is compiled.

    Args:
        task: name of the task.
        segments: how many segments a turn has.
        device: where.
        threads: CPU threads that share an operation.
    """

    def __init__(self, task: str, segments: int, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        short = replace(TASKS[task], budget=segments * TASKS[task].segment)
        self.data, self.device = load(short.data, device), torch.device(device)
        self.loop = PlainLoop(short, self.data, self.device, 0, compiled=True)

    def describe(self) -> dict[str, Any]:
        """Train and validate two segments, compiled and not.

        Returns:
            Seconds that the first compiled segment took longer than the second; the signals of both kinds, (2, 3) each,
            see `PlainLoop.segment`.
        """
        rate = self.loop.task.lr_start
        times, compiled = [time.perf_counter()], []
        for _ in range(2):
            compiled.append(self.loop.segment(rate))
            times.append(time.perf_counter())
        plain = PlainLoop(self.loop.task, self.data, self.device, 0)
        return {
            "warm_up": 2 * times[1] - times[0] - times[2],
            "compiled": compiled,
            "plain": [plain.segment(rate) for _ in range(2)],
        }

    def turn(self) -> dict[str, Any]:
        """Time a turn."""
        return {"steps": self.loop.task.budget, "seconds": self.loop.seconds()}

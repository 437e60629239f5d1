"""Add a task with your own network and another optimizer, and train 8 children at once under 8 learning rates.

python examples/own_task.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tyro
from torch import nn

import lr_env
from lr_env import TASKS
from lr_env.optimizers import AdamW


@dataclass(frozen=True)
class DigitsCNN:
    """A small convolutional network for the 8x8 digits."""

    channels: int = 8

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Return the module; its inputs are flat, (64,)."""
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, self.channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * self.channels, num_classes),
        )


@dataclass
class Args:
    budget: int = 500
    """Optimizer steps in a run."""


def main(args: Args) -> None:
    task = replace(
        TASKS["DigitsMLP"],
        name="DigitsCNN",
        network=DigitsCNN(),
        optimizer=AdamW(weight_decay=0.01),
        budget=args.budget,
        tuning_range=(1e-4, 1e-1),
    )
    rates = np.geomspace(*task.tuning_range, num=8)
    envs = lr_env.LRVectorEnv(task, num_envs=8, autoreset_mode="Disabled")
    envs.reset(seed=[0] * 8)  # the same child eight times, under eight constant rates
    for _ in range(task.num_segments):
        *_, infos = envs.step(rates)
    for lr, loss in zip(rates, infos["test_loss"], strict=True):
        print(f"learning rate {lr:.5f}  test loss {loss:.4f}")


if __name__ == "__main__":
    main(tyro.cli(Args))

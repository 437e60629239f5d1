"""Set the learning rate in your own code: halve it whenever the validation loss has not improved for some segments.

python examples/own_loop.py --task DigitsMLP --seed 0
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import tyro

import lr_env  # noqa: F401 (registers the environments)


@dataclass
class Args:
    task: str = "DigitsMLP"
    """Name of the task; `lr-env tasks` lists them."""
    seed: int = 0
    """Seed of the initial weights and the batches."""
    lr: float = 0.05
    """Initial learning rate."""
    patience: int = 5
    """Number of segments without a new best loss after which one more halves the rate."""


def main(args: Args) -> None:
    env = gymnasium.make(f"lr_env/{args.task}-v0")
    _, info = env.reset(seed=args.seed)
    lr, best, stalled, over = args.lr, info["val_loss"], 0, False
    while not over:
        _, _, terminated, truncated, info = env.step(lr)
        over = terminated or truncated
        stalled = 0 if info["val_loss"] < best else stalled + 1
        best = min(best, info["val_loss"])
        if stalled > args.patience:
            lr, stalled = lr / 2, 0
            print(f"step {info['step']:5.0f}  validation loss {info['val_loss']:.4f}  learning rate now {lr:.4g}")
    print(f"test loss {info['test_loss']:.4f}, test accuracy {info['test_accuracy']:.1%}")


if __name__ == "__main__":
    main(tyro.cli(Args))

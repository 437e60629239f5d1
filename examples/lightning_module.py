"""A planner in Lightning: one callback sets the rate, and goes with Lightning's checkpoints.

pip install lightning && python examples/lightning_module.py --planner wsd --peak 0.1
"""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl
import torch
import tyro
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lr_env.registry import make_planner
from lr_env.tasks.data import load
from planners.callbacks.lightning import PlannerCallback


@dataclass
class Args:
    planner: str = "wsd"
    """Who sets the learning rate; `lr-env planners` lists them."""
    peak: float = 0.1
    """Peak learning rate."""
    epochs: int = 3
    """Passes over the data, digits."""


class Digits(pl.LightningModule):
    """A linear classifier; `configure_optimizers` returns the optimizer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
        self.network(torch.zeros(1, 64))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.log("val_loss", cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(args: Args) -> None:
    splits = load("digits").splits
    train, val = (TensorDataset(splits[name].inputs, splits[name].labels) for name in ("train", "val"))
    callback = PlannerCallback(make_planner(args.planner, {"peak": args.peak}), segment=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=args.epochs, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(val, 512))
    print(f"validation loss {float(trainer.callback_metrics['val_loss']):.4f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Train a network in a loop of your own, with its learning rate set by any planner, and log it to TensorBoard.

python examples/own_training.py --planner cosine --peak 0.1 --log logs/cosine-0.1

Once some runs are logged, a model is fitted to them, and plans the next run:

lr-env import logs --name mine && lr-env fit --runs-of mine
python examples/own_training.py --planner latent-ode --model results/fit/mine/model.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch.nn.functional import cross_entropy

from lr_env.registry import make_planner
from lr_env.runs.options import parse_setting
from lr_env.tasks.data import load
from planners.torch_scheduler import PlannerLR


@dataclass
class Args:
    planner: str = "cosine"
    """Who sets the learning rate; `lr-env planners` lists them."""
    peak: float = 0.1
    """Peak learning rate of a schedule."""
    set: tuple[str, ...] = field(default=())
    """Other settings of the planner, e.g. warmup=0.2."""
    model: Path | None = None
    """Model file of the planner latent-ode, which has no peak."""
    data: str = "digits"
    """Data set: digits, fashion-mnist or cifar10."""
    steps: int = 1000
    """Optimizer steps."""
    every: int = 20
    """Optimizer steps between two validations, and between two plans."""
    batch: int = 64
    """Examples in a batch."""
    seed: int = 0
    """Seed of the initial weights and the batches."""
    log: Path | None = None
    """Folder for TensorBoard's files; without it nothing is logged."""


def network(inputs: int, classes: int) -> torch.nn.Module:
    """A small multilayer perceptron."""
    layers = (torch.nn.Linear(inputs, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU())
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(64, classes))


def main(args: Args) -> float:
    splits = load(args.data).splits
    (x, y), (val_x, val_y), (test_x, test_y) = ((splits[s].inputs, splits[s].labels) for s in ("train", "val", "test"))
    val_x, val_y = val_x[:2000], val_y[:2000]
    torch.manual_seed(args.seed)
    model = network(x[0].numel(), int(y.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.peak, momentum=0.9)
    settings = {"peak": args.peak} if args.model is None else {"model": str(args.model)}
    planner = make_planner(args.planner, settings | dict(map(parse_setting, args.set)))
    scheduler = PlannerLR(optimizer, planner, budget=args.steps, segment=args.every)  # the first added line

    @torch.no_grad()
    def loss_of(inputs: torch.Tensor, labels: torch.Tensor) -> float:
        return cross_entropy(model(inputs), labels).item()

    writer = None
    if args.log is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(args.log))
    scheduler.observe(val_loss=loss_of(val_x, val_y))  # optional: of the untrained network
    for step in range(1, args.steps + 1):
        batch = torch.randint(len(x), (args.batch,))
        loss = cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr = optimizer.param_groups[0]["lr"]
        scheduler.observe(train_loss=loss)  # the second one: whenever there is a number
        if step % args.every == 0:
            val_loss = loss_of(val_x, val_y)
            scheduler.observe(val_loss=val_loss)
            if writer is not None:
                for name, value in (("train/loss", loss.item()), ("val/loss", val_loss), ("lr", lr)):
                    writer.add_scalar(name, value, step)
        scheduler.step()  # where any other scheduler of torch has it
    if writer is not None:
        writer.close()
    final, test = loss_of(splits["val"].inputs, splits["val"].labels), loss_of(test_x, test_y)
    print(f"{planner.name} (seed {args.seed}): validation loss {final:.4f}, test loss {test:.4f}")
    return final


if __name__ == "__main__":
    main(tyro.cli(Args))

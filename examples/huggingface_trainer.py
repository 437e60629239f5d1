"""A planner in Hugging Face's Trainer: a small model of characters, trained by `use_planner` and `train`.

pip install transformers accelerate && python examples/huggingface_trainer.py --planner cosine-warmup --peak 0.003
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from lr_env.registry import make_planner
from planners.callbacks.huggingface import use_planner


@dataclass
class Args:
    planner: str = "cosine-warmup"
    """Who sets the learning rate; `lr-env planners` lists them."""
    peak: float = 0.003
    """Peak learning rate."""
    model: Path | None = None
    """Model file of the planner latent-ode, which has no peak."""
    text: Path = Path(__file__)
    """Text whose characters are learned; by default this program."""
    steps: int = 60
    """Optimizer steps."""
    seed: int = 0
    """Seed of the initial weights and the batches."""
    out: Path | None = None
    """Folder for checkpoints and trainer_state.json; none is kept without it."""


def main(args: Args) -> float:
    text = args.text.read_text()
    codes = {character: code for code, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([codes[character] for character in text])
    length = 32
    windows = [{"input_ids": w, "labels": w} for w in tokens[: len(tokens) // length * length].view(-1, length)]
    val = windows[::8]
    train = [window for index, window in enumerate(windows) if index % 8]
    torch.manual_seed(args.seed)
    shape = {"n_positions": length, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(codes), bos_token_id=0, eos_token_id=0, **shape))
    every = max(1, args.steps // 30)
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            str(args.out or scratch),
            max_steps=args.steps,
            per_device_train_batch_size=16,
            logging_steps=every,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps" if args.out else "no",
            save_steps=args.steps,
            save_total_limit=1,
            seed=args.seed,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, settings, train_dataset=train, eval_dataset=val)
        chosen = {"peak": args.peak} if args.model is None else {"model": str(args.model)}
        use_planner(trainer, make_planner(args.planner, chosen), segment=every)  # the added line
        trainer.train()
        loss = float(trainer.evaluate()["eval_loss"])
    print(f"validation loss {loss:.4f} after {args.steps} steps")
    return loss


if __name__ == "__main__":
    main(tyro.cli(Args))

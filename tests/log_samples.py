"""Small logs of one made training, as each tracker writes them: what is in them is known."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

STEPS, EVERY, EPOCH = 200, 10, 40
"""Optimizer steps, steps from one row of training to the next, and steps of an epoch."""


def rate(step: float, seed: int = 0) -> float:
    """The rate of a warm-up and a cosine."""
    return 0.1 * min(1.0, step / 50) * (0.55 + 0.45 * math.cos(math.pi * step / STEPS)) * (1 + seed / 8)


def loss(step: float, seed: int = 0) -> float:
    """The training loss."""
    return 0.3 + 2 / (1 + step / 20) + 0.01 * math.sin(step * 1.7 + seed)


def val_loss(step: float, seed: int = 0) -> float:
    """The validation loss."""
    return loss(step, seed) + 0.111


def training_steps() -> range:
    """The steps at which the training is logged."""
    return range(EVERY, STEPS + 1, EVERY)


def validation_steps() -> range:
    """The steps at which it is validated."""
    return range(EPOCH, STEPS + 1, EPOCH)


def write_csv(path: Path, rows: list[dict[str, Any]], **how: Any) -> None:
    """Write rows, of which not all have all names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n", **how)
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows(seed: int = 0, **names: str) -> list[dict[str, Any]]:
    """The training in rows; those of validation have the step and the validation loss.

    Args:
        seed: of the training.
        names: our name -> the tracker's.
    """
    called = {"step": "step", "lr": "lr", "train_loss": "train_loss", "val_loss": "val_loss", **names}
    table = []
    for step in training_steps():
        table.append({called["step"]: step, called["lr"]: rate(step, seed), called["train_loss"]: loss(step, seed)})
        if step in validation_steps():
            table.append({called["step"]: step, called["val_loss"]: val_loss(step, seed)})
    return table


def epoch_rows(first: int, **names: str) -> list[dict[str, Any]]:
    """The training in rows of an epoch each, counted from `first`."""
    called = {"epoch": "epoch", "lr": "lr", "train_loss": "train_loss", "val_loss": "val_loss", **names}
    return [
        {
            called["epoch"]: epoch + first,
            called["train_loss"]: loss(step),
            called["val_loss"]: val_loss(step),
            called["lr"]: rate(step),
        }
        for epoch, step in enumerate(validation_steps())
    ]


def huggingface(path: Path, until: int = STEPS, seed: int = 0) -> None:
    """A trainer_state.json, or that of a checkpoint."""
    history = []
    for row in rows(seed, lr="learning_rate", train_loss="loss", val_loss="eval_loss"):
        if row["step"] <= until:
            history.append({"epoch": row["step"] / EPOCH, **row})
    if until == STEPS:
        history.append({"step": STEPS, "epoch": STEPS / EPOCH, "train_loss": 0.9, "train_runtime": 12.0})
    state = {"best_metric": None, "best_model_checkpoint": None, "global_step": until, "log_history": history}
    state |= {"max_steps": STEPS, "num_train_epochs": STEPS // EPOCH}
    path.write_text(json.dumps(state, indent=2))


def lightning(path: Path) -> None:
    """A metrics.csv, with rows of the rate's own."""
    table: list[dict[str, Any]] = []
    for step in training_steps():
        table.append({"epoch": "", "lr-AdamW": rate(step), "step": step, "train_loss": "", "val_loss": ""})
        table.append({"epoch": (step - 1) // EPOCH, "lr-AdamW": "", "step": step, "train_loss": loss(step)})
        if step in validation_steps():
            table.append({"epoch": (step - 1) // EPOCH, "step": step, "val_loss": val_loss(step)})
    write_csv(path, table)


def ultralytics(path: Path) -> None:
    """A results.csv with padded names, losses in three terms, and a rate of the biases that falls."""
    table = [
        {
            "epoch": epoch,
            **{f"train/{term}_loss": loss(step) / 3 for term in ("box", "cls", "dfl")},
            "metrics/mAP50(B)": 0.5,
            **{f"val/{term}_loss": val_loss(step) / 3 for term in ("box", "cls", "dfl")},
            **{"lr/pg0": 0.2 - rate(step), "lr/pg1": rate(step), "lr/pg2": rate(step)},
        }
        for epoch, step in enumerate(validation_steps())
    ]
    names = [f"{name:>22}" for name in table[0]]
    lines = [",".join(f"{value!r:>22}" for value in row.values()) for row in table]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")


def mmengine(path: Path) -> None:
    """A scalars.json, whose rows of validation count epochs, and whose "lr" is that of a group with a multiplier."""
    table = []
    for row in rows():
        if "val_loss" in row:
            table.append({"val/loss": row["val_loss"], "data_time": 0.1, "time": 0.2, "step": row["step"] // EPOCH})
        else:
            step, lr = row["step"], row["lr"]
            table.append(
                {"base_lr": lr, "lr": lr / 10, "data_time": 0.1, "loss": row["train_loss"], "loss_cls": 9.0}
                | {"time": 0.2, "epoch": 1 + (step - 1) // EPOCH, "iter": step, "step": step}
            )
    write_lines(path, table)


def llm_c(path: Path) -> None:
    """A main.log."""
    lines = []
    for row in rows():
        if "val_loss" in row:
            lines += [f"s:{row['step']} tel:{row['val_loss']:.6f}", f"s:{row['step']} eval:0.25"]
        else:
            lines.append(f"s:{row['step']} trl:{row['train_loss']:.6f} lr:{row['lr']:.8f} norm:1.00")
    path.write_text("\n".join(lines) + "\n")


def keras_history(path: Path) -> None:
    """The History of Keras as JSON."""
    table = epoch_rows(1, train_loss="loss", lr="learning_rate")
    path.write_text(json.dumps({name: [row[name] for row in table] for name in table[0]}))


def parquet(path: Path) -> None:
    """A table with a row a step, and columns that have nothing to do with it."""
    table = rows()
    names = ("step", "lr", "train_loss", "val_loss")
    columns: dict[str, Any] = {name: [row.get(name) for row in table] for name in names}
    pq.write_table(pa.table({**columns, "text": ["x"] * len(table)}), path)


SAMPLES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "csv": ("log.csv", lambda path: write_csv(path, rows())),
    "deit": (
        "log.txt",
        lambda path: write_lines(path, epoch_rows(0, lr="train_lr", val_loss="test_loss")),
    ),
    "detectron2": (
        "metrics.json",
        lambda path: write_lines(path, rows(step="iteration", train_loss="total_loss", val_loss="validation_loss")),
    ),
    "huggingface": ("trainer_state.json", huggingface),
    "json": ("history.json", keras_history),
    "json-lines": ("log.jsonl", lambda path: write_lines(path, rows())),
    "keras": (
        "training.csv",
        lambda path: write_csv(path, epoch_rows(0, train_loss="loss", lr="learning_rate")),
    ),
    "lightning": ("metrics.csv", lightning),
    "llamafactory": (
        "trainer_log.jsonl",
        lambda path: write_lines(
            path,
            [
                {"total_steps": STEPS, **row}
                for row in rows(step="current_steps", lr="learning_rate", train_loss="loss", val_loss="eval_loss")
            ],
        ),
    ),
    "llm.c": ("main.log", llm_c),
    "mmengine": ("scalars.json", mmengine),
    "parquet": ("log.parquet", parquet),
    "timm": ("summary.csv", lambda path: write_csv(path, epoch_rows(0, val_loss="eval_loss"))),
    "ultralytics": ("results.csv", ultralytics),
}
"""Format -> name of a file, and what writes it."""


def write_samples(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write a log of each text format, and give the formats and files."""
    for name, (file, write) in SAMPLES.items():
        path = folder / name / file
        path.parent.mkdir(parents=True)
        write(path)
        yield name, path

"""The learning-rate range test: raise the rate through a short run, and see where the loss falls and where it rises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.children import EXACT, Backend, Children, Numerics
from lr_env.drawing import COLOURS, caption, log_scale, new_figure, plain, save
from lr_env.errors import UserError
from lr_env.replacing import replacing
from lr_env.tasks import Task

Floats = NDArray[np.float64]

_CHUNK = 10  # steps between two looks at whether anything is left to train
_FALLEN = 0.05
"""Share of the fall of the loss after which it counts as falling."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Attributes:
        task: name.
        seeds: of the children.
        lr: rate of each step, (steps,).
        losses: training loss of each step, nats per example, (seeds, steps); NaN once a child has exploded.
        smooth: mean over the children of the losses, smoothed, (steps,); infinite once one has exploded.
    """

    task: str
    seeds: tuple[int, ...]
    lr: Floats
    losses: Floats
    smooth: Floats

    @property
    def lr_max(self) -> float:
        """The largest rate up to which the smoothed loss still fell: where it is lowest (Lmax of arXiv:2407.07613)."""
        return float(self.lr[int(np.argmin(self.smooth))])

    @property
    def lr_steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest along the log of the rate (Smith, arXiv:1506.01186)."""
        end = int(np.argmin(self.smooth)) + 1
        if end < 3:
            return float(self.lr[0])
        slope = np.gradient(self.smooth[:end], np.log(self.lr[:end]))
        return float(self.lr[int(np.argmin(slope))])

    @property
    def lr_min(self) -> float:
        """The rate at which the loss has begun to fall: a twentieth of its whole fall is done."""
        low = int(np.argmin(self.smooth))
        wanted = self.smooth[0] - _FALLEN * (self.smooth[0] - self.smooth[low])
        return float(self.lr[int(np.argmax(self.smooth[: low + 1] <= wanted))])

    def summary(self) -> dict[str, Any]:
        """The three rates, and how they were found."""
        rates = {"lr_min": self.lr_min, "lr_steepest": self.lr_steepest, "lr_max": self.lr_max}
        return {"task": self.task, "seeds": list(self.seeds), "steps": len(self.lr), **rates}

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write range-test.json and range-test.png into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {**self.summary(), **made, "lr": self.lr.tolist(), "loss": _json(self.smooth)}
        with replacing(folder / "range-test.json") as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        with replacing(folder / "range-test.png") as path:
            self.draw(path)

    def draw(self, path: Path) -> None:
        """The losses over the rate, and the three rates."""
        figure = new_figure(8, 4.5, f"{self.task}: learning-rate range test")
        axes = figure.subplots()
        plain(axes)
        for losses in self.losses:
            axes.plot(self.lr, losses, color="#bbbbbb", linewidth=0.6)
        shown = np.where(np.isfinite(self.smooth), self.smooth, np.nan)
        axes.plot(self.lr, shown, color=COLOURS[0], linewidth=2)
        for name, colour in (("lr_min", COLOURS[2]), ("lr_steepest", COLOURS[4]), ("lr_max", COLOURS[1])):
            rate = getattr(self, name)
            axes.axvline(rate, color=colour, linewidth=1.4, label=f"{name} {rate:.3g}")
        low, first = float(np.nanmin(shown)), float(shown[0])
        axes.set_ylim(max(0.0, low - 0.2 * (first - low)), first + 0.5 * max(first - low, 1e-3))
        log_scale(axes, "x")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss [nats/example]")
        caption(axes, f"{len(self.seeds)} children; grey: each step of each; blue: their smoothed mean")
        axes.legend(frameon=False, fontsize=9)
        save(figure, path)


def range_test(
    task: Task,
    seeds: Sequence[int],
    low: float,
    high: float,
    steps: int = 300,
    *,
    smoothing: float = 0.9,
    device: str = "cpu",
    backend: str | Backend = "auto",
    numerics: Numerics = EXACT,
) -> RangeTest:
    """Train children of their own while the rate rises evenly in its log (Smith, arXiv:1506.01186); nothing is kept.

    Args:
        task: what is trained.
        seeds: of the children.
        low: first rate.
        high: last rate.
        steps: optimizer steps.
        smoothing: weight of the past in the exponential average of the losses.
        device: see `lr_env.Children`.
        backend: likewise.
        numerics: likewise.

    Raises:
        UserError: rates that are not in order or outside the task's range, too few steps, or a loss that explodes at
            the first rate.
    """
    least, most = task.lr_range
    if not least <= low < high <= most:
        where = f"within the task's range, {least:g} to {most:g}"
        raise UserError(f"rates {low:g}:{high:g}: give LOW below HIGH, {where}")
    if steps < 2 * _CHUNK:
        raise UserError(f"steps {steps}: a range test needs at least {2 * _CHUNK}")
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing {smoothing:g}: it must be at least 0 and below 1")
    steps -= steps % _CHUNK
    lr = np.geomspace(low, high, steps)
    short = replace(task, budget=steps, segment=_CHUNK)
    children = Children(short, seeds, device, backend, numerics=numerics)
    bound = 10 * np.nanmax(children.first_batch_loss(range(len(seeds))))
    losses = np.full((len(seeds), steps), np.nan)
    live = list(range(len(seeds)))
    for start in range(0, steps, _CHUNK):
        part = slice(start, start + _CHUNK)
        children.train(np.tile(lr[part], (len(seeds), 1)), live)
        losses[:, part] = children.step_losses
        live = [row for row in live if (losses[row, part] <= bound).all()]  # false for NaN, too
        if not live:
            break
    losses[~(losses <= bound)] = np.nan
    exploded = np.asarray(np.isnan(losses).any(0))
    if exploded[0]:
        raise UserError(f"{task.name} explodes at the first rate, {low:g}: begin lower")
    exploded = np.maximum.accumulate(exploded)
    return RangeTest(task.name, tuple(seeds), lr, losses, _smooth(losses.mean(0), exploded, smoothing))


def _smooth(losses: Floats, exploded: NDArray[np.bool_], weight: float) -> Floats:
    """Exponential average without the bias of its start; infinite where something has exploded."""
    smooth = np.full(len(losses), np.inf)
    average = 0.0
    for number, loss in enumerate(losses[~exploded], 1):
        average = weight * average + (1 - weight) * loss
        smooth[number - 1] = average / (1 - weight**number)
    return smooth


def _json(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]

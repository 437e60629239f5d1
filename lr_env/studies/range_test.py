"""The learning-rate range test: raise the rate through a short run, and see where the loss falls and where it rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.children import AUTO, Children, Execution
from lr_env.errors import UserError, refuse_duplicates
from lr_env.files import json_number
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.document import Document, Figure, Reported, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import seeds_text
from lr_env.report.plotting import COLOURS, caption, log_scale, new_figure, own_style, plain, save
from lr_env.report.written import write_report
from lr_env.runs.resumable import Resumable
from lr_env.tasks import Task

Floats = NDArray[np.float64]

_CHUNK = 10  # steps between two checks of whether anything is left to train
_FALLEN = 0.05
"""Share of the fall of the loss after which it counts as falling."""

_START = 10
"""The first of so many parts of the steps counts as the start: one batch says little, and a fall that begins in it may
have begun before."""

MEANINGS = {
    "lr_min": "the loss begins to fall",
    "lr_steepest": "it falls fastest along the log of the rate",
    "lr_max": "up to there the mean loss still falls",
}
"""Name of a rate that the test finds -> its meaning."""

MOST_STEPS = 100_000
_MOST_LOSSES = 10**8  # of all children and steps together, which are kept in memory


@dataclass(frozen=True)
class RangeTestResult(Reported):
    """The result of a range test.

    Attributes:
        task: name.
        seeds: of the children.
        lr: rate of each step, (steps,).
        losses: training loss of each step, nats per example, (seeds, steps); NaN once a child has exploded.
        smooth: mean over the children of the losses, smoothed, (steps,); infinite once one has exploded.
        smoothing: weight of the past in the exponential average.
        backend: that the children were trained by.
    """

    task: str
    seeds: tuple[int, ...]
    lr: Floats
    losses: Floats
    smooth: Floats
    smoothing: float = 0.9
    backend: str = ""

    @property
    def lr_max(self) -> float:
        """The largest rate up to which the smoothed loss still fell: where it is lowest (Lmax of arXiv:2407.07613)."""
        return float(self.lr[self._lowest])

    @property
    def lr_steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest along the log of the rate (Smith, arXiv:1506.01186)."""
        return float(self.lr[self._steepest])

    @property
    def lr_min(self) -> float:
        """The rate at which the loss has begun to fall for good: a twentieth of its whole fall is done."""
        return float(self.lr[self._begin])

    @property
    def lr_max_of_children(self) -> Floats:
        """`lr_max` of each child's own losses, (seeds,): how far it depends on seeds, and on noise."""
        exploded = np.logical_or.accumulate(np.isnan(self.losses), axis=1)
        smooth = [_smooth(*one, self.smoothing) for one in zip(self.losses, exploded, strict=True)]
        return self.lr[np.argmin(smooth, axis=1)]

    @property
    def falls(self) -> bool:
        """Whether the fall of the smoothed loss from its start to its lowest is more than noise."""
        low, starting = self._lowest, self._starting
        if low < starting:
            return False
        error = np.sqrt(self._weights(low) + 1 / starting)  # of the lowest and of the start
        return bool(self._first - self.smooth[low] > self._noise(slice(0, low + 1)) * error)

    @property
    def rises(self) -> bool:
        """Whether the smoothed loss rises after its lowest by more than noise, or a child explodes."""
        low = self._lowest
        if np.isinf(self.smooth[-1]):
            return True
        rise = self.smooth[low:].max() - self.smooth[low]
        return bool(rise > self._noise(slice(low, None)) * np.sqrt(self._weights(low)))

    @property
    def rates(self) -> dict[str, float]:
        """The rates that the losses support, of the three, by name."""
        supported = {
            "lr_min": self.falls and self._begin >= self._starting,
            "lr_steepest": self.falls and self._steepest >= self._starting,
            "lr_max": self.falls and self.rises,
        }
        return {name: getattr(self, name) for name, is_supported in supported.items() if is_supported}

    @property
    def remarks(self) -> list[str]:
        """What to change to find the rates that the losses do not support."""
        low, high = f"{self.lr[0]:.3g}", f"{self.lr[-1]:.3g}"
        if not self.falls:
            if not self.rises:
                return [f"the loss does not change beyond its noise: end higher than {high}, or give more steps"]
            if self._lowest < self._starting:
                return [f"the loss rises from the start: begin lower than {low}"]
            return ["the loss does not fall beyond its noise before it rises: give more steps or seeds"]
        remarks = []
        if "lr_min" not in self.rates:
            remarks.append(f"the loss falls from the start: begin lower than {low} to see where it begins to")
        if not self.rises:
            remarks.append(f"the loss does not rise again beyond its noise: end higher than {high}, or give more steps")
        return remarks

    @property
    def _lowest(self) -> int:
        """The step at which the smoothed loss is lowest."""
        return int(np.argmin(self.smooth))

    @property
    def _steepest(self) -> int:
        """The step at which the smoothed loss falls fastest, once it has begun to fall."""
        begin, end = self._begin, self._lowest + 1
        if end - begin < 3:
            return begin
        return begin + int(np.argmin(np.gradient(self.smooth[begin:end], np.log(self.lr[begin:end]))))

    @property
    def _begin(self) -> int:
        """The first step from which on a small part of the whole fall is done."""
        low = self._lowest
        above = np.flatnonzero(self.smooth[:low] > self._first - _FALLEN * (self._first - self.smooth[low]))
        return int(above[-1]) + 1 if len(above) else 0

    @property
    def _starting(self) -> int:
        """Number of steps that count as the start."""
        return max(1, len(self.lr) // _START)

    @property
    def _first(self) -> float:
        """Mean loss of the start."""
        return float(np.nanmean(self.losses[:, : self._starting]))

    def _weights(self, step: int) -> float:
        """Sum of the squared weights of the exponential average at a step: its variance over that of a loss."""
        past, whole = self.smoothing, self.smoothing ** (step + 1)
        return (1 - past) / (1 + past) * (1 + whole) / (1 - whole)

    def _noise(self, part: slice) -> float:
        """The range that the mean losses of so many steps could have by chance alone, nats per example.

        Of normal numbers few range over more than 2 sqrt(2 log(count)) standard deviations. These are those of the
        differences between neighbours, to which the slow change adds little.
        """
        means = self.losses.mean(0)[part]
        steps = np.diff(means[np.isfinite(means)])
        spread = float(np.sqrt(np.square(steps).mean() / 2)) if len(steps) else 0.0
        return spread * 2 * float(np.sqrt(2 * np.log(len(self.lr))))

    def to_json(self) -> dict[str, Any]:
        """The three rates, null where the losses do not support them, and how they were found."""
        rates = {name: self.rates.get(name) for name in ("lr_min", "lr_steepest", "lr_max")}
        children = {"lr_max_of_children": self.lr_max_of_children.tolist()} if "lr_max" in self.rates else {}
        made = {"seeds": list(self.seeds), "steps": len(self.lr), "backend": self.backend}
        return {"task": self.task, **made, **rates, **children, "remarks": self.remarks}

    def document(self) -> Document:
        """The rates, and what to change for those that were not found."""
        points = [f"{name:11} = {rate:.3g}: {MEANINGS[name]}" for name, rate in self.rates.items()]
        if "lr_max" in self.rates and len(self.seeds) > 1:
            each = self.lr_max_of_children
            points.append(
                f"lr_max of each child alone: {each.min():.3g} to {each.max():.3g}, median {np.median(each):.3g}"
            )
        points += self.remarks
        points.append(f"{seeds_text(len(self.seeds))}, {len(self.lr)} steps from {self.lr[0]:.3g} to {self.lr[-1]:.3g}")
        figure = Figure("range-test.png", "Training losses over the rate", self.draw, self._chart)
        return Document(self._title, (Text(points=tuple(points)), figure))

    @property
    def _title(self) -> str:
        return f"{self.task}: learning-rate range test"

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write range-test.json, summary.md, range-test.png and report.html into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            **self.to_json(),
            **made,
            "lr": self.lr.tolist(),
            "loss": [json_number(loss) for loss in self.smooth],
        }
        write_content(folder, "range-test", content)
        write_report(self.document(), folder, str(made.get("command", "")))

    def _chart(self) -> Chart:
        """The losses over the rate, and the rates that they support, as a chart."""
        texts = [f"seed {seed}" for seed in self.seeds]
        series = [
            Series("one step of a child", self.lr, self.losses, tone="quiet", texts=texts),
            Series("smoothed mean", self.lr, self.smooth),
        ]
        lines = {f"{name} {rate:.3g}": rate for name, rate in self.rates.items()}
        low, high = np.nanmin(self.losses), self._first
        loss = Axis("training loss [nats/example]", limits=(float(low), float(high + 0.5 * (high - low))))
        return Chart([Panel("Grey: each step of each child", Axis("learning rate", "log"), loss, series, lines)])

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw the losses over the rate, and the rates that they support, as a PNG."""
        figure = new_figure(8, 4.5, self._title)
        axes = figure.subplots()
        plain(axes)
        for losses in self.losses:
            axes.plot(self.lr, losses, color="#bbbbbb", linewidth=0.6)
        shown = np.where(np.isfinite(self.smooth), self.smooth, np.nan)
        axes.plot(self.lr, shown, color=COLOURS[0], linewidth=2)
        colours = {"lr_min": COLOURS[2], "lr_steepest": COLOURS[4], "lr_max": COLOURS[1]}
        for name, rate in self.rates.items():
            axes.axvline(rate, color=colours[name], linewidth=1.4, label=f"{name} {rate:.3g}")
        if "lr_max" in self.rates and len(self.seeds) > 1:
            each, light = self.lr_max_of_children, {"alpha": 0.12, "linewidth": 0, "label": "of each child alone"}
            axes.axvspan(each.min(), each.max(), color=colours["lr_max"], **light)
        low, start = float(np.nanmin(shown)), self.losses[:, : self._starting]
        span = max(self._first - low, float(np.nanmax(start) - np.nanmin(start)), 1e-3)
        top = self._first + 0.5 * span
        axes.set_ylim(max(0.0, min(low - 0.2 * span, float(np.nanmin(self.losses)))), top)
        log_scale(axes, "x")
        axes.set_xlim(self.lr[0], self.lr[-1])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss [nats/example]")
        cut = "; larger losses are cut off" if np.nanmax(self.losses) > top else ""
        caption(axes, f"{seeds_text(len(self.seeds))}; grey: each step of each child; blue: their smoothed mean{cut}")
        if self.rates:
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
    execution: Execution = AUTO,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> RangeTestResult:
    """Train fresh children while the rate rises evenly in its log (Smith, arXiv:1506.01186); no record is kept.

    Args:
        task: what is trained.
        seeds: of the children.
        low: first rate.
        high: last rate.
        steps: optimizer steps.
        smoothing: weight of the past in the exponential average of the losses.
        execution: how children are trained.
        checkpoint: file from which the same test goes on after a kill; None to keep none.
        checkpoint_seconds: wall time between two checkpoints.

    Raises:
        UserError: rates that are not in order or outside the task's range, too few or too many steps, bad seeds, or a
            loss that explodes at the first rate.
    """
    refuse_duplicates("seed", seeds)
    least, most = task.lr_range
    if not least <= low < high <= most:
        where = f"within the task's range, {least:g} to {most:g}"
        raise UserError(f"rates {low:g}:{high:g}: give LOW below HIGH, {where}")
    if steps < 2 * _CHUNK:
        raise UserError(f"steps {steps}: a range test needs at least {2 * _CHUNK}")
    if steps > MOST_STEPS or steps * len(seeds) > _MOST_LOSSES:
        raise UserError(
            f"steps {steps}: give at most {min(MOST_STEPS, _MOST_LOSSES // len(seeds)):,} with {seeds_text(len(seeds))}"
        )
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing {smoothing:g}: it must be at least 0 and below 1")
    lr = np.geomspace(low, high, steps)
    whole = np.pad(lr, (0, -steps % _CHUNK), mode="edge")  # chunks are trained whole; what is beyond is left out
    short = replace(task, budget=len(whole), segment=_CHUNK)
    study = {"seeds": list(seeds), "rates": [low, high], "steps": steps}
    work = Resumable(checkpoint, short, study, execution, len(seeds), checkpoint_seconds)
    children = Children(short, seeds, work.execution)
    bound = 10 * np.nanmax(children.first_batch_loss(range(len(seeds))))
    losses = np.full((len(seeds), len(whole)), np.nan)
    done, live = 0, list(range(len(seeds)))

    def restore(saved: Any) -> None:
        nonlocal done, live
        children.restore(saved["children"])
        done, live, losses[:] = saved["done"], saved["live"], saved["losses"]

    def all_of_it() -> dict[str, Any]:
        return {"children": children.snapshot(), "done": done, "live": live, "losses": losses}

    work.resume(restore)
    while live and done < len(whole):
        part = slice(done, done + _CHUNK)
        children.train(np.tile(whole[part], (len(seeds), 1)), live)
        losses[:, part] = children.step_losses
        live = [row for row in live if (losses[row, part] <= bound).all()]  # false for NaN, too
        done += _CHUNK
        work.offer(all_of_it)
    work.done()
    losses = losses[:, :steps]
    losses[~(losses <= bound)] = np.nan
    exploded = np.asarray(np.isnan(losses).any(0))
    if exploded[0]:
        raise UserError(f"{task.name} explodes at the first rate, {low:g}: begin lower")
    exploded = np.maximum.accumulate(exploded)
    smooth, trained_by = _smooth(losses.mean(0), exploded, smoothing), str(children.backend)
    return RangeTestResult(task.name, tuple(seeds), lr, losses, smooth, smoothing, trained_by)


def _smooth(losses: Floats, exploded: NDArray[np.bool_], weight: float) -> Floats:
    """Exponential average, corrected for the bias of its start; infinite where a child has exploded."""
    smooth = np.full(len(losses), np.inf)
    average = 0.0
    for number, loss in enumerate(losses[~exploded], 1):
        average = weight * average + (1 - weight) * loss
        smooth[number - 1] = average / (1 - weight**number)
    return smooth

"""How much a planner makes of the rate that it starts from, beside leaving that rate alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.compare import statistics as st
from lr_env.compare.statistics import Estimate
from lr_env.compare.table import run_scores
from lr_env.drawing import COLOURS, caption, log_scale, new_figure, plain, save
from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.registry import find_planner
from lr_env.replacing import replacing
from lr_env.rollout import rollout
from lr_env.tasks import Task

Floats = NDArray[np.float64]

CONSTANT = "constant"


@dataclass(frozen=True)
class Start:
    """Runs from one rate.

    Attributes:
        rate: where they start.
        runs: the planner's, one a seed.
        left_alone: those in which that rate is kept, on the same seeds.
    """

    rate: float
    runs: Sequence[RunRecord]
    left_alone: Sequence[RunRecord]

    @property
    def losses(self) -> Floats:
        """Test losses of the planner's runs, (seeds,), nats per example; infinite where one diverged."""
        return run_scores(self.runs, "test_loss")

    @property
    def constant_losses(self) -> Floats:
        """Those of the runs in which the rate is kept."""
        return run_scores(self.left_alone, "test_loss")


@dataclass(frozen=True)
class Starts:
    """What a planner makes of several rates.

    Attributes:
        task, planner: names.
        settings: of the planner, besides the rate.
        seeds: of the runs.
        starts: one a rate, in increasing order.
    """

    task: str
    planner: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    starts: tuple[Start, ...]

    @property
    def rows(self) -> list[tuple[str, Estimate, Estimate, Estimate]]:
        """For every rate, and for the mean over rates: its name and three estimates over seeds.

        They are mean test losses of the planner and of the rate that is kept, and their paired difference.
        """
        losses = np.array([[start.losses, start.constant_losses] for start in self.starts])
        names = [*(f"{start.rate:g}" for start in self.starts), "mean"]
        return [
            (name, st.mean_interval(ours), st.mean_interval(kept), st.paired_difference(ours, kept))
            for name, (ours, kept) in zip(names, [*losses, losses.mean(axis=0)], strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it."""

        def told(estimate: Estimate) -> list[float | None]:
            ends = (estimate.value, estimate.low, estimate.high)
            return [value if np.isfinite(value) else None for value in ends]

        return {
            "task": self.task,
            "planner": self.planner,
            "settings": dict(self.settings),
            "seeds": list(self.seeds),
            "starts": [
                {
                    "rate": name,
                    "test_loss": told(ours),
                    "test_loss_of_constant": told(kept),
                    "difference": told(difference),
                    "verdict": st.verdict(difference),
                }
                for name, ours, kept, difference in self.rows
            ],
        }

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write starts.json and starts.png."""
        with replacing(folder / "starts.json") as path:
            path.write_text(json.dumps({**self.to_json(), **made}, indent=2) + "\n", encoding="utf-8")
        with replacing(folder / "starts.png") as path:
            self.draw(path)

    def draw(self, path: Path) -> None:
        """Rates and validation losses from every start, beside those of the rate that is kept, as a PNG."""
        figure = new_figure(11.5, 4.4, f"{self.task}: {self.planner} from {len(self.starts)} rates")
        left, right = figure.subplots(1, 2)
        for axes, curve in ((left, "lr"), (right, "val_loss")):
            plain(axes)
            for number, start in enumerate(self.starts):
                colour = COLOURS[number % len(COLOURS)]
                for runs, dashes in ((start.runs, "-"), (start.left_alone, ":")):
                    steps, (low, middle, high) = _quartiles(runs, curve)
                    axes.plot(steps, middle, dashes, color=colour, linewidth=1.6)
                    if dashes == "-":
                        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot([], [], color=colour, label=f"from {start.rate:g}")
            log_scale(axes, "y")
            axes.set_xlabel("optimizer step")
        left.set_ylabel("learning rate")
        right.set_ylabel("validation loss [nats/example]")
        right.plot([], [], ":", color="#555555", label="that rate kept")
        right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
        caption(left, f"median and quartiles of {len(self.seeds)} seeds")
        save(figure, path)


def starts(
    task: Task,
    planner: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str, int], None] | None = None,
    **how: Any,
) -> Starts:
    """Run a planner from several rates, and each rate kept, on the same seeds; score test data once.

    Args:
        task: what is trained.
        planner: its name.
        rates: to start from; a planner's `peak`.
        seeds: of the runs.
        settings: of the planner, besides the rate.
        progress: told (what is going on, child steps done since the last call).
        how: device, backend and numerics, as for `rollout`.

    Raises:
        UserError: bad settings, or a rate outside the task's range.
    """
    kind, constant = find_planner(planner), find_planner(CONSTANT)
    own = dict(settings or {})
    if wrong := [name for name in own if name not in kind.__dataclass_fields__ or name == "peak"]:
        raise UserError(f"planner {planner!r} has no setting {wrong[0]!r} besides the rate: see `lr-env planners`")
    if not rates or not seeds:
        raise UserError("give at least one rate and one seed")
    planned = [(kind(peak=rate, **own), constant(peak=rate)) for rate in sorted(set(rates))]
    found = []
    for pair in planned:
        runs = []
        for setting in pair:
            runs.append(rollout(setting, task, seeds, score=("test",), **how))
            if progress:
                progress("running", len(seeds) * task.budget)
        found.append(Start(pair[0].peak, *runs))
    return Starts(task.name, planner, own, tuple(seeds), tuple(found))


def _quartiles(runs: Sequence[RunRecord], curve: str) -> tuple[Floats, Floats]:
    """Steps, (segments,), and quartiles, (3, segments), of a curve over those runs that go on."""
    longest = max(runs, key=lambda run: len(run.curves["step"]))
    steps = np.asarray(longest.curves["step"], dtype=np.float64)
    values = np.full((len(runs), len(steps)), np.nan)
    for row, run in enumerate(runs):
        values[row, : len(run.curves[curve])] = run.curves[curve]
    return steps, np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)

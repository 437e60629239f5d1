"""Schedules of different shape at equal cumulative learning rate (the claim of arXiv:2505.13457), against equal peaks.

A shape with factors f(t) in (0, 1] has the cumulative rate C = peak * sum f(t). If C is what counts, shapes matched in
C (peak = C / sum f) are best at one and the same C; if the largest rate is what counts, at one and the same peak. Only
the paper's abstract is public, which names the constant and gives no formula; this is the reading of it that concerns
shapes. The one that concerns the amount of data is in `scaling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.capabilities import FixedShape
from lr_env.errors import UserError
from lr_env.files import finite
from lr_env.records.store import Store
from lr_env.registry import find_planner
from lr_env.report.files import write_json_and_figure
from lr_env.report.plotting import caption, line_style, log_scale, new_figure, own_style, plain, save
from lr_env.stats.bootstrap import Seeds, bootstrap
from lr_env.studies.comparison.comparison import Job, run_job
from lr_env.studies.rate_sweep import Floats, RateSweep, check_sweep, one_shape, swept


@dataclass(frozen=True)
class Shape:
    """A sweep of one schedule.

    Attributes:
        planner: its name.
        mean_factor: mean of its rates over a run, as a fraction of the peak.
        sweep: of mean rates: the cumulative rate over the steps of a run.
        at_peak: losses of runs at the best peak of the first shape, (seeds,); as in the sweep.
    """

    planner: str
    mean_factor: float
    sweep: RateSweep
    at_peak: Floats

    def regrets(self, row: int, seeds: Seeds | None = None) -> tuple[float, float]:
        """Mean losses at a mean rate of the sweep, by its number, and at that peak, less the lowest of the sweep."""
        mean, at_peak = self.sweep.mean(seeds), self.at_peak if seeds is None else self.at_peak[seeds]
        return float(mean[row] - mean.min()), float(at_peak.mean() - mean.min())


@dataclass(frozen=True)
class Matched:
    """What the sweeps say.

    Attributes:
        task: its name.
        steps: optimizer steps of a run.
        shapes: the first is the one from which the others take their rate.
    """

    task: str
    steps: int
    shapes: tuple[Shape, ...]

    def spreads(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """Standard deviations over shapes of the log of the best mean rate, and of the best peak."""
        best = np.log([shape.sweep.best(seeds) for shape in self.shapes])
        factors = np.log([shape.mean_factor for shape in self.shapes])
        return float(best.std(ddof=1)), float((best - factors).std(ddof=1))

    @property
    def row(self) -> int:
        """Number of the mean rate at which the first shape has its lowest mean loss."""
        return self.shapes[0].sweep.lowest

    def regrets(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """Mean regret of the other shapes at the first one's best cumulative rate, and at its best peak.

        Both are losses of runs. (Read between two rates of a sweep they would be wrong where the loss turns steep.)
        """
        found = np.array([shape.regrets(self.row, seeds) for shape in self.shapes[1:]])
        return float(found[:, 0].mean()), float(found[:, 1].mean())

    def disagreements(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """How far shapes differ at equal cumulative rates, and at equal peaks, while these are below every optimum.

        Standard deviation over shapes of the log of the mean loss, averaged over the rates that all shapes were swept
        at, up to the lowest best rate. With larger rates training is no longer limited by how little it moves.
        """
        found = []
        for mean_rates in self._below_optima:
            logs = np.log([shape.sweep.at(of, seeds) for shape, of in zip(self.shapes, mean_rates, strict=True)])
            found.append(float(logs.std(axis=0, ddof=1).mean()))
        return found[0], found[1]

    @cached_property
    def _below_optima(self) -> tuple[Floats, Floats]:
        """Mean rates of the shapes below every optimum, (shapes, 50): at equal cumulative rates, and at equal peaks."""

        def rates(factors: Floats) -> Floats:
            low = max(shape.sweep.rates[0] / factor for shape, factor in zip(self.shapes, factors, strict=True))
            high = min(shape.sweep.best() / factor for shape, factor in zip(self.shapes, factors, strict=True))
            return factors[:, None] * np.geomspace(low, max(low, high), 50)

        return rates(np.ones(len(self.shapes))), rates(np.array([shape.mean_factor for shape in self.shapes]))

    @property
    def spread_difference(self) -> tuple[float, float]:
        """95 % bootstrap interval over seeds of the first spread less the second."""
        return self._intervals[0]

    @property
    def regret_difference(self) -> tuple[float, float]:
        """95 % bootstrap interval over seeds of the first mean regret less the second."""
        return self._intervals[1]

    @property
    def disagreement_difference(self) -> tuple[float, float]:
        """95 % bootstrap interval over seeds of the first disagreement less the second."""
        return self._intervals[2]

    @property
    def unsure(self) -> list[str]:
        """Schedules of which the best rate may lie beyond the grid."""
        return [shape.planner for shape in self.shapes if shape.sweep.at_edge]

    @property
    def verdict(self) -> str:
        """What is more nearly the same for the best of each shape."""
        if self.unsure:
            # All shapes share a grid of mean rates: at its ends they would agree, whatever holds.
            return (
                "whether the best peak or the best cumulative rate is shared cannot be told: the best rate of "
                f"{', '.join(self.unsure)} may lie beyond the grid, give wider --rates"
            )
        low, high = self.spread_difference
        if high < 0:
            return "the best cumulative rate is more nearly the same for all shapes than the best peak"
        if low > 0:
            return "the best peak is more nearly the same for all shapes than the best cumulative rate"
        return "whether the best peak or the best cumulative rate is more nearly the same for all shapes cannot be told"

    @cached_property
    def _intervals(self) -> list[tuple[float, float]]:
        def differences(seeds: Seeds) -> list[float]:
            return [float(np.subtract(*of(seeds))) for of in (self.spreads, self.regrets, self.disagreements)]

        return bootstrap(differences, self.shapes[0].sweep.losses.shape[1])

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        spreads, regrets, disagreements = self.spreads(), self.regrets(), self.disagreements()
        return {
            "task": self.task,
            "steps": self.steps,
            "verdict": self.verdict,
            "spread_of_log_best_mean_rate": spreads[0],
            "spread_of_log_best_peak": spreads[1],
            "spread_difference_interval": list(self.spread_difference),
            "regret_at_equal_cumulative_rate": regrets[0],
            "regret_at_equal_peak": regrets[1],
            "regret_difference_interval": list(self.regret_difference),
            "disagreement_at_equal_cumulative_rate": disagreements[0],
            "disagreement_at_equal_peak": disagreements[1],
            "disagreement_difference_interval": list(self.disagreement_difference),
            "shapes": [
                {
                    "planner": shape.planner,
                    "mean_factor": shape.mean_factor,
                    "losses_at_peak_of_first": [finite(loss) for loss in shape.at_peak.tolist()],
                    **shape.sweep.to_json(),
                }
                for shape in self.shapes
            ],
        }

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write cumulative.json and cumulative.png."""
        write_json_and_figure(folder, "cumulative", {**self.to_json(), **made}, self.draw)

    @own_style()
    def draw(self, path: Path) -> None:
        """Losses of every shape over the cumulative rate and over the peak, as a PNG."""
        figure = new_figure(11.5, 4.6, f"{self.task}: schedules at equal cumulative rate, and at equal peak")
        axes = figure.subplots(1, 2, sharey=True)
        spreads, hollow = self.spreads(), " (hollow: may lie beyond the grid)" if self.unsure else ""
        losses = np.concatenate([shape.sweep.mean() for shape in self.shapes])
        losses = losses[np.isfinite(losses)]
        for panel, (where, name, spread) in enumerate(
            zip(axes, ("cumulative rate (sum over the run)", "peak rate"), spreads, strict=True)
        ):
            plain(where)
            for rank, shape in enumerate(self.shapes):
                factor = 1 / shape.mean_factor if panel else float(self.steps)
                mean = shape.sweep.mean()
                where.plot(
                    factor * shape.sweep.rates,
                    np.where(np.isfinite(mean), mean, np.nan),
                    marker="o",
                    markersize=3,
                    label=shape.planner,
                    **line_style(rank),
                )
                best = shape.sweep.best()
                colour = line_style(rank)["color"]
                face = "white" if shape.sweep.at_edge else colour
                height = np.exp(np.interp(np.log(best), np.log(shape.sweep.rates), np.log(shape.sweep.mean())))
                where.plot([factor * best], [height], "D", markersize=7, color=colour, markerfacecolor=face, zorder=40)
            log_scale(where, "x")
            log_scale(where, "y")
            where.set_xlabel(name)
            caption(where, f"diamonds: best of each{hollow}; they spread by a factor of {np.exp(spread):.2f} (1 SD)")
        axes[0].set_ylim(losses.min() * 0.95, np.percentile(losses, 75))
        axes[0].set_ylabel("validation loss [nats/example]")
        axes[1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
        save(figure, path)


def cumulative(
    job: Job,
    store: Store,
    name: str,
    *,
    fresh: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> Matched:
    """Sweep schedules over the same cumulative rates.

    Args:
        job: of schedules, the first of which lends its rate to the others; `rates` are mean rates over a run.
        store: where the records are kept.
        name: of the experiments in the store, one for each schedule.
        fresh: forget what was done before.
        progress: see `run_job`.

    Raises:
        UserError: fewer than two schedules or tuning seeds, a planner that is no schedule, or a peak outside the
            task's range.
    """
    if len(job.planners) < 2:
        raise UserError("give at least two schedules to match, e.g. --planners constant cosine")
    for planner in job.planners:
        check_sweep(job, planner)
    factors = {planner: mean_factor(planner, job) for planner in job.planners}
    parts = {planner: _part(job, planner, factors[planner]) for planner in job.planners}
    for part in parts.values():
        part.check_rates()
    sweeps = []
    for planner, part in parts.items():
        result = run_job(part, store, f"{name}-{planner}", fresh=fresh, progress=progress)
        peaks = swept(part, result.tuning)
        sweeps.append(replace(peaks, rates=peaks.rates * factors[planner]))
    first = sweeps[0]
    peak = float(first.rates[first.lowest] / factors[job.planners[0]])
    shapes = []
    for (planner, part), sweep in zip(parts.items(), sweeps, strict=True):
        check = replace(part, rates=(peak,))
        result = run_job(check, store, f"{name}-{planner}-peak", fresh=fresh, progress=progress)
        shapes.append(Shape(planner, factors[planner], sweep, swept(check, result.tuning).losses[0]))
    return Matched(job.task.name, job.task.budget, tuple(shapes))


def mean_factor(planner: str, job: Job) -> float:
    """Mean of a schedule's rates over a run of the job, as a fraction of its peak.

    Raises:
        UserError: it is no schedule: its rates react to training, or are drawn.
    """
    if not isinstance(find_planner(planner), FixedShape):
        raise UserError(f"planner {planner!r} is no fixed schedule: only those have a cumulative rate known beforehand")
    (setting,) = replace(job, rates=job.rates[:1], settings=one_shape(job, planner)).candidates(planner)
    factors: Floats = setting.factors(job.task.num_segments)  # type: ignore[attr-defined]
    return float(factors.mean())


def _part(job: Job, planner: str, factor: float) -> Job:
    """The job of one schedule, over peaks."""
    peaks = tuple(rate / factor for rate in job.rates)
    try:
        return replace(job, planners=(planner,), rates=peaks, settings=one_shape(job, planner))
    except UserError as error:
        raise UserError(f"planner {planner!r} at equal cumulative rate: {error}; give other --rates") from None

"""Schedules of different shapes at equal cumulative learning rate (the claim of arXiv:2505.13457), and at equal peak.

A shape with factors f(t) in (0, 1] has the cumulative rate C = peak * sum f(t). If C is what counts, shapes matched in
C (peak = C / sum f) are best at one and the same C; if the largest rate is what counts, at one and the same peak. Only
the paper's abstract is public, which names the constant and gives no formula; this is its reading for shapes. Its
reading for amounts of data is in `data_scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.capabilities import FixedShape
from lr_env.errors import UserError
from lr_env.files import json_numbers
from lr_env.registry import find_planner
from lr_env.report.chart import Axis, Chart, Panel
from lr_env.report.document import Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.plotting import caption, line_style, log_scale, new_figure, own_style, plain, save
from lr_env.report.written import write_report
from lr_env.runs.lab import Lab
from lr_env.stats.intervals import Seeds, bootstrap
from lr_env.studies.comparison.comparison import ComparisonPlan, run_comparison
from lr_env.studies.rate_sweep import (
    EDGE_COLUMN,
    Floats,
    RateSweep,
    check_sweep,
    fixed_shape_settings,
    sweep_from_records,
)


@dataclass(frozen=True)
class SweptSchedule:
    """A sweep of one schedule.

    Attributes:
        planner: name of the schedule.
        mean_factor: mean of its rates over a run, as a fraction of the peak.
        sweep: over mean rates, which are cumulative rates divided by the steps of a run.
        at_peak: losses of runs at the best peak of the first shape, (seeds,); as in the sweep.
    """

    planner: str
    mean_factor: float
    sweep: RateSweep
    at_peak: Floats

    def regrets(self, index: int, seeds: Seeds | None = None) -> tuple[float, float]:
        """Mean losses at the mean rate of that index, and at the first shape's best peak, less the lowest mean loss."""
        mean, at_peak = self.sweep.mean(seeds), self.at_peak if seeds is None else self.at_peak[seeds]
        return float(mean[index] - mean.min()), float(at_peak.mean() - mean.min())


@dataclass(frozen=True)
class CumulativeRateResult(Reported):
    """The result: a sweep of each shape.

    Attributes:
        task: its name.
        steps: optimizer steps of a run.
        shapes: the others take their rate from the first.
    """

    task: str
    steps: int
    shapes: tuple[SweptSchedule, ...]

    def spreads(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """Standard deviations over shapes of the log of the best mean rate, and of the best peak."""
        best = np.log([shape.sweep.best(seeds) for shape in self.shapes])
        factors = np.log([shape.mean_factor for shape in self.shapes])
        return float(best.std(ddof=1)), float((best - factors).std(ddof=1))

    @property
    def reference_index(self) -> int:
        """Index of the mean rate at which the first shape has its lowest mean loss."""
        return self.shapes[0].sweep.lowest

    def regrets(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """Mean regret of the other shapes at the first one's best cumulative rate, and at its best peak.

        Both are losses of runs. (Read between two rates of a sweep they would be wrong where the loss turns steep.)
        """
        regrets = np.array([shape.regrets(self.reference_index, seeds) for shape in self.shapes[1:]])
        return float(regrets[:, 0].mean()), float(regrets[:, 1].mean())

    def disagreements(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """How far shapes differ at equal cumulative rates, and at equal peaks, while these are below every optimum.

        Standard deviation over shapes of the log of the mean loss, averaged over the rates that all shapes were swept
        at, up to the lowest best rate. With larger rates training is no longer limited by how little it moves.
        """
        disagreements = []
        for mean_rates in self._below_optima:
            logs = np.log(
                [shape.sweep.interpolate(of, seeds) for shape, of in zip(self.shapes, mean_rates, strict=True)]
            )
            disagreements.append(float(logs.std(axis=0, ddof=1).mean()))
        return disagreements[0], disagreements[1]

    @cached_property
    def _below_optima(self) -> tuple[Floats, Floats]:
        """Mean rates of the shapes below every optimum, (shapes, 50): at equal cumulative rates, and at equal peaks."""

        def rates(factors: Floats) -> Floats:
            low = max(shape.sweep.rates[0] / factor for shape, factor in zip(self.shapes, factors, strict=True))
            high = min(shape.sweep.best() / factor for shape, factor in zip(self.shapes, factors, strict=True))
            return factors[:, None] * np.geomspace(low, max(low, high), 50)

        return rates(np.ones(len(self.shapes))), rates(np.array([shape.mean_factor for shape in self.shapes]))

    @property
    def at_grid_edge(self) -> list[str]:
        """Schedules whose best rate may lie beyond the grid."""
        return [shape.planner for shape in self.shapes if shape.sweep.at_edge]

    @property
    def verdict(self) -> str:
        """Whether the best sums of rates or the best peaks are more alike, in words."""
        if self.at_grid_edge:
            # All shapes share a grid of mean rates: at its ends they would agree, whatever holds.
            return (
                "whether the best peak or the best cumulative rate is shared cannot be told: the best rate of "
                f"{', '.join(self.at_grid_edge)} may lie beyond the grid, give wider --rates"
            )
        low, high = self.differences[0]
        if high < 0:
            return "the best cumulative rate is more nearly the same for all shapes than the best peak"
        if low > 0:
            return "the best peak is more nearly the same for all shapes than the best cumulative rate"
        return "whether the best peak or the best cumulative rate is more nearly the same for all shapes cannot be told"

    @cached_property
    def differences(self) -> list[tuple[float, float]]:
        """95 % bootstrap intervals over seeds of the first spread, regret and disagreement less the second ones."""

        def differences(seeds: Seeds) -> list[float]:
            return [float(np.subtract(*of(seeds))) for of in (self.spreads, self.regrets, self.disagreements)]

        return bootstrap(differences, self.shapes[0].sweep.losses.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The whole result, with the losses of every run."""
        spreads, regrets, disagreements = self.spreads(), self.regrets(), self.disagreements()
        spread_interval, regret_interval, disagreement_interval = map(list, self.differences)
        return {
            "task": self.task,
            "steps": self.steps,
            "verdict": self.verdict,
            "spread_of_log_best_mean_rate": spreads[0],
            "spread_of_log_best_peak": spreads[1],
            "spread_difference_interval": spread_interval,
            "regret_at_equal_cumulative_rate": regrets[0],
            "regret_at_equal_peak": regrets[1],
            "regret_difference_interval": regret_interval,
            "disagreement_at_equal_cumulative_rate": disagreements[0],
            "disagreement_at_equal_peak": disagreements[1],
            "disagreement_difference_interval": disagreement_interval,
            "shapes": [
                {
                    "planner": shape.planner,
                    "mean_factor": shape.mean_factor,
                    "losses_at_peak_of_first": json_numbers(shape.at_peak.tolist()),
                    **shape.sweep.to_json(),
                }
                for shape in self.shapes
            ],
        }

    def document(self) -> Document:
        """The best rates of each shape, and how far shapes agree on the sum of rates and on the peak."""
        first, index = self.shapes[0].planner, self.reference_index
        columns: list[Column[SweptSchedule]] = [
            Column("schedule", lambda shape: shape.planner, rank=0, words=True),
            Column("mean/peak", lambda shape: shape.mean_factor, "{:.3f}".format, 0, head="mean\n/peak"),
            Column("best peak", lambda s: s.sweep.best() / s.mean_factor, "{:.4g}".format, 0, head="best\npeak"),
            Column("best sum of rates", self._best_sum, "{:.4g}".format, 0, head="best sum\nof rates"),
            Column("validation loss", lambda s: s.sweep.mean().min(), "{:.4f}".format, 0, head="validation\nloss"),
            Column(
                f"with the sum of {first}",
                lambda s: s.sweep.mean()[index],
                "{:.4f}".format,
                0,
                head=f"with the sum\nof {first}",
            ),
            Column("with its peak", lambda s: s.at_peak.mean(), "{:.4f}".format, 0, head="with its\npeak"),
            EDGE_COLUMN,
        ]
        (spread, of_peaks), (regret, at_peak) = self.spreads(), self.regrets()
        apart, apart_at_peaks = self.disagreements()
        spread_interval, regret_interval, apart_interval = self.differences
        texts = (
            f"spread of the best over shapes: sum of rates {spread:.2f}, peak {of_peaks:.2f} (standard deviations of "
            f"the log; {_difference_text(spread - of_peaks, spread_interval, 2)})",
            f"loss given away by taking {first}'s best: its sum {regret:.4f}, its peak {at_peak:.4f} "
            f"({_difference_text(regret - at_peak, regret_interval, 4)})",
            f"below every optimum, losses of shapes differ by {100 * apart:.1f} % at equal sums, by "
            f"{100 * apart_at_peaks:.1f} % at equal peaks "
            f"({_difference_text(apart - apart_at_peaks, apart_interval, 1, scale=100)})",
            f"{self.verdict}.",
        )
        caption = "Losses over the cumulative rate, and over the peak"
        figure = Figure("cumulative.png", caption, self.draw, self._chart)
        return Document(self._title, (Table(self.shapes, columns), *map(Text, texts), figure))

    def _best_sum(self, shape: SweptSchedule) -> float:
        return shape.sweep.best() * self.steps

    @property
    def _title(self) -> str:
        return f"{self.task}: schedules at equal cumulative rate, and at equal peak"

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write cumulative.json, summary.md, cumulative.png and report.html."""
        write_content(folder, "cumulative", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))

    def _chart(self) -> Chart:
        """Losses of every shape over the cumulative rate and over the peak, as a chart."""
        panels = []
        for name, of_peak, spread in zip(("cumulative rate (sum over the run)", "peak rate"), (False, True),
                                         self.spreads(), strict=True):  # fmt: skip
            series = []
            for style, shape in enumerate(self.shapes):
                scale = 1 / shape.mean_factor if of_peak else float(self.steps)
                series += shape.sweep.series(shape.planner, style, scale)
            title = f"Over the {name.partition(' (')[0]}; the best spread by a factor of {np.exp(spread):.2f} (1 SD)"
            loss = Axis("validation loss [nats/example]", "log")
            panels.append(Panel(title, Axis(name, "log"), loss, series))
        return Chart(panels)

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw losses of every shape over the cumulative rate and over the peak, as a PNG."""
        figure = new_figure(11.5, 4.6, self._title)
        axes = figure.subplots(1, 2, sharey=True)
        spreads, hollow = self.spreads(), " (hollow: may lie beyond the grid)" if self.at_grid_edge else ""
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


def cumulative(plan: ComparisonPlan, lab: Lab) -> CumulativeRateResult:
    """Sweep schedules over the same cumulative rates, and run each at the first one's best peak.

    Args:
        plan: of schedules; the others take their rate from the first. `rates` are mean rates over a run.
        lab: where the runs are recorded: one experiment for each schedule.

    Raises:
        UserError: fewer than two schedules or tuning seeds, a planner that is no schedule, or a peak outside the
            task's range.
    """
    if len(plan.planners) < 2:
        raise UserError("give at least two schedules to match, e.g. --planners constant cosine")
    for planner in plan.planners:
        check_sweep(plan, planner)
    factors = {planner: mean_factor(planner, plan) for planner in plan.planners}
    parts = {planner: _part(plan, planner, factors[planner]) for planner in plan.planners}
    for part in parts.values():
        part.check_rates()
    sweeps = []
    for planner, part in parts.items():
        result = run_comparison(part, lab.part(planner))
        peaks = sweep_from_records(part, result.tuning)
        sweeps.append(replace(peaks, rates=peaks.rates * factors[planner]))
    first = sweeps[0]
    peak = float(first.rates[first.lowest] / factors[plan.planners[0]])
    shapes = []
    for (planner, part), sweep in zip(parts.items(), sweeps, strict=True):
        check = replace(part, rates=(peak,))
        result = run_comparison(check, lab.part(f"{planner}-peak"))
        shapes.append(
            SweptSchedule(planner, factors[planner], sweep, sweep_from_records(check, result.tuning).losses[0])
        )
    return CumulativeRateResult(plan.task.name, plan.task.budget, tuple(shapes))


def _difference_text(difference: float, interval: tuple[float, float], decimals: int, scale: float = 1.0) -> str:
    value, low, high = (f"{scale * number:+.{decimals}f}" for number in (difference, *interval))
    return f"difference {value}, 95 % interval {low} to {high}"


def mean_factor(planner: str, plan: ComparisonPlan) -> float:
    """Mean of a schedule's rates over a run of the plan, as a fraction of its peak.

    Raises:
        UserError: it is no schedule: its rates react to training, or are drawn.
    """
    if not isinstance(find_planner(planner), FixedShape):
        raise UserError(f"planner {planner!r} is no fixed schedule: only those have a cumulative rate known beforehand")
    (setting,) = replace(plan, rates=plan.rates[:1], settings=fixed_shape_settings(plan, planner)).candidates(planner)
    factors: Floats = setting.factors(plan.task.num_segments)  # type: ignore[attr-defined]
    return float(factors.mean())


def _part(plan: ComparisonPlan, planner: str, factor: float) -> ComparisonPlan:
    """The plan of one schedule, whose rates are peaks."""
    peaks = tuple(rate / factor for rate in plan.rates)
    try:
        return replace(plan, planners=(planner,), rates=peaks, settings=fixed_shape_settings(plan, planner))
    except UserError as error:
        raise UserError(f"planner {planner!r} at equal cumulative rate: {error}; give other --rates") from None

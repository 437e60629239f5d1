"""ScalingResult of the best learning rate with the amount of data (arXiv:2505.13457), from sweeps on nested subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.files import json_numbers
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.document import Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.plotting import caption, line_style, log_scale, new_figure, own_style, plain, save
from lr_env.report.written import write_report
from lr_env.runs.lab import Lab
from lr_env.stats import intervals as st
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
from lr_env.tasks import Task

FIXED = ("steps", "epochs")
LAWS: Mapping[str, Mapping[float, str]] = {
    "epochs": {
        -1.0: "the sum of rates over the run is constant (A), or rate times data size is (C)",
        0.0: "the sum of rates over the data size is constant (B)",
    },
    "steps": {
        0.0: "the sum of rates over the run is constant (A), or rate times data size over the passes is (C)",
        1.0: "the sum of rates over the data size is constant (B)",
    },
}
"""What is held fixed between subsets -> exponent of the best rate in the data size -> the law that predicts it."""


@dataclass(frozen=True)
class Subset:
    """A sweep of rates on a part of the training data.

    Attributes:
        size: training examples.
        budget: optimizer steps of a run.
        sweep: of peak rates.
    """

    size: int
    budget: int
    sweep: RateSweep


@dataclass(frozen=True)
class ScalingResult(Reported):
    """The result: sweeps on subsets, and the rate extrapolated from them.

    Attributes:
        task, planner: names.
        fixed: "steps" or "epochs": what runs on different subsets share.
        subsets: from the smallest to the largest, which is all of the data.
        predicted_losses: of the runs at the extrapolated rate, (seeds,).
        tried: that rate, clipped to the task's range.
    """

    task: str
    planner: str
    fixed: str
    subsets: tuple[Subset, ...]
    predicted_losses: Floats
    tried: float

    def fit(self, seeds: Seeds | None = None) -> tuple[float, float]:
        """Exponent p and offset a of log best rate = a + p log size, on the parts of the data only."""
        parts = self.subsets[:-1]
        logs = np.log([[part.size, part.sweep.best(seeds)] for part in parts])
        p, a = np.polyfit(logs[:, 0], logs[:, 1], 1)
        return float(p), float(a)

    @property
    def exponent(self) -> float:
        """Exponent p, from all seeds."""
        return self.fit()[0]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of p over the seeds, which the rates and the subsets share.

        It leaves out how coarse the grid is, and whether a power law holds.
        """
        return self._intervals[0]

    @property
    def predicted(self) -> float:
        """The best rate on all data, extrapolated from the subsets."""
        return predict(self.fit(), self.subsets[-1].size)

    @property
    def predicted_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the extrapolated rate."""
        return self._intervals[1]

    @property
    def regret(self) -> st.Estimate:
        """Loss at the extrapolated rate less the lowest mean loss of the full sweep.

        Nats per example, paired over the seeds. The lowest is picked by the same losses, which favours it.
        """
        full = self.subsets[-1].sweep
        return st.paired_difference(self.predicted_losses, full.losses[full.lowest])

    @property
    def at_grid_edge(self) -> list[int]:
        """Sizes of the subsets whose best rate may lie beyond the grid."""
        return [part.size for part in self.subsets if part.sweep.at_edge]

    @property
    def compatible(self) -> list[str] | None:
        """The laws whose exponent lies in the interval; None where the sweeps cannot tell."""
        low, high = self.interval
        if self.at_grid_edge or high - low < 1e-9:
            return None
        return [f"p = {p:+g}: {law}" for p, law in LAWS[self.fixed].items() if low <= p <= high]

    @property
    def verdict(self) -> str:
        """The laws in words, or why none can be told."""
        if self.at_grid_edge:
            sizes = ", ".join(f"{size:,}" for size in self.at_grid_edge)
            return f"no law can be told: the best rate for {sizes} examples may lie beyond the grid, give wider --rates"
        if self.compatible is None:
            return "no law can be told: all seeds agree on the same rates of the grid, give a finer one"
        laws = "; ".join(self.compatible) or "none of the candidate laws"
        return f"with {self.fixed} fixed, compatible with: {laws}"

    @cached_property
    def _intervals(self) -> list[tuple[float, float]]:
        def exponent_and_rate(seeds: Seeds) -> tuple[float, float]:
            fit = self.fit(seeds)
            return fit[0], predict(fit, self.subsets[-1].size)

        return bootstrap(exponent_and_rate, self.subsets[0].sweep.losses.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The whole result, with the losses of every run."""
        return {
            "task": self.task,
            "planner": self.planner,
            "fixed": self.fixed,
            "exponent": self.exponent,
            "exponent_interval": list(self.interval),
            "compatible": self.compatible,
            "verdict": self.verdict,
            "predicted_rate": self.predicted,
            "predicted_rate_interval": list(self.predicted_interval),
            "best_rate_of_full_sweep": self.subsets[-1].sweep.best(),
            "regret": self.regret.to_json(),
            "tried_rate": self.tried,
            "predicted_losses": json_numbers(self.predicted_losses.tolist()),
            "subsets": [{"size": part.size, "budget": part.budget, **part.sweep.to_json()} for part in self.subsets],
        }

    def document(self) -> Document:
        """The best rate of each subset, the law, and how good the extrapolation is."""
        columns: list[Column[Subset]] = [
            Column("examples", lambda part: part.size, "{:,}".format, 0),
            Column("steps", lambda part: part.budget, "{:,}".format, 0),
            Column("best rate", lambda part: part.sweep.best(), "{:.4g}".format, 0),
            Column("validation loss", lambda part: part.sweep.mean().min(), "{:.4f}".format, 0),
            EDGE_COLUMN,
        ]
        (low, high), (lowest, highest), regret = self.interval, self.predicted_interval, self.regret
        best = self.subsets[-1].sweep.best()
        texts = (
            f"best rate ~ (training examples) ^ {self.exponent:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}",
            self.verdict,
            f"extrapolated to all data: {self.predicted:.4g} ({lowest:.3g} to {highest:.3g}), tried at "
            f"{self.tried:.4g}; the full sweep's best: {best:.4g}; to its lowest mean loss, which is picked by the "
            f"same runs, a regret of {regret.value:+.4f} nats/example, 95 % interval {regret.low:+.4f} to "
            f"{regret.high:+.4f}",
        )
        caption = "Losses over the rate, and the best rate over the amount of data"
        figure = Figure("scaling.png", caption, self.draw, self._chart)
        return Document(self._title, (Table(self.subsets, columns), *map(Text, texts), figure))

    @property
    def _title(self) -> str:
        return f"{self.task}: best {self.planner} rate and amount of data, {self.fixed} fixed"

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write scaling.json, summary.md, scaling.png and report.html."""
        write_content(folder, "scaling", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))

    def _chart(self) -> Chart:
        """Losses over the rate for each subset, and the best rate over the data size, as a chart."""
        sizes = [part.size for part in self.subsets]
        best = [part.sweep.best() for part in self.subsets]
        losses = [
            series for style, part in enumerate(self.subsets) for series in part.sweep.series(f"{part.size:,}", style)
        ]
        fit, (low, high) = self.fit(), self.interval
        rates = [
            Series("fit", sizes, [predict(fit, size) for size in sizes], style=0),
            Series("subsets", sizes[:-1], best[:-1], "points", style=0),
            Series("all data", sizes[-1:], best[-1:], "points", style=1, marker="diamond"),
        ]
        text = f"Exponent {self.exponent:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}"
        return Chart(
            [
                Panel(f"Mean of {self.subsets[0].sweep.losses.shape[1]} seeds, by number of training examples; a star: "
                      "the lowest", Axis("peak rate", "log"), Axis("validation loss [nats/example]", "log"), losses),
                Panel(text, Axis("training examples", "log"), Axis("best peak rate", "log"), rates),
            ]
        )  # fmt: skip

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw losses over the rate for each subset, and the best rate over the data size, as a PNG."""
        figure = new_figure(11, 4.4, self._title)
        left, right = figure.subplots(1, 2)
        for rank, part in enumerate(self.subsets):
            plain(left)
            mean = part.sweep.mean()
            shown = np.where(np.isfinite(mean), mean, np.nan)
            left.plot(part.sweep.rates, shown, marker="o", markersize=3, label=f"{part.size:,}", **line_style(rank))
            left.axvline(part.sweep.best(), **{**line_style(rank), "linewidth": 0.8, "linestyle": ":"})
        means = np.concatenate([part.sweep.mean() for part in self.subsets])
        means = means[np.isfinite(means)]
        left.set_ylim(means.min() * 0.95, np.percentile(means, 85))
        log_scale(left, "x")
        left.set_xlabel("peak rate")
        left.set_ylabel("validation loss [nats/example]")
        left.legend(frameon=False, fontsize=9, title="training examples")
        caption(left, f"mean of {self.subsets[0].sweep.losses.shape[1]} seeds; dotted: the best rate")
        plain(right)
        sizes = np.array([part.size for part in self.subsets])
        right.plot(sizes[:-1], [part.sweep.best() for part in self.subsets[:-1]], "o", color="#0072B2", label="subsets")
        right.plot(sizes[-1:], [self.subsets[-1].sweep.best()], "D", color="#D55E00", label="all data")
        fit = self.fit()
        right.plot(sizes, [predict(fit, size) for size in sizes], "-", color="#0072B2", linewidth=1.2, label="fit")
        log_scale(right, "x")
        log_scale(right, "y")
        right.set_xlabel("training examples")
        right.set_ylabel("best peak rate")
        right.legend(frameon=False, fontsize=9)
        low, high = self.interval
        caption(right, f"exponent {self.exponent:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}")
        save(figure, path)


def predict(fit: tuple[float, float], size: float) -> float:
    """The best rate at a data size."""
    p, a = fit
    return float(np.exp(a + p * np.log(size)))


def scaling(plan: ComparisonPlan, lab: Lab, fractions: Sequence[float], fixed: str) -> ScalingResult:
    """Sweep a planner on nested subsets and on all data, and extrapolate the best rate.

    Args:
        plan: of one planner, with rates and tuning seeds; its task is the one of all data.
        lab: where the runs are recorded: one experiment for each subset.
        fractions: of the training data, at least three below 1. All of the data are added.
        fixed: "steps": all runs have the task's budget. "epochs": the budget shrinks with the data.

    Raises:
        UserError: too few subsets, a subset too small, or more than one planner.
    """
    if len(plan.planners) != 1:
        raise UserError("data scaling takes one planner")
    if fixed not in FIXED:
        raise UserError(f"fixed {fixed!r}: runs on different subsets share their 'steps' or their 'epochs'")
    fractions = sorted(set(fractions) - {1.0})
    if len(fractions) < 3 or not all(0 < fraction < 1 for fraction in fractions):
        raise UserError("give at least three different fractions above 0 and below 1, e.g. --fractions 0.1,0.25,0.5")
    planner = plan.planners[0]
    check_sweep(plan, planner)
    plan = replace(plan, settings=fixed_shape_settings(plan, planner))
    subsets = []
    for fraction in (*fractions, 1.0):
        task = part_of(plan.task, fraction, fixed)
        part = replace(plan, task=task)
        result = run_comparison(part, lab.part(repr(fraction), task))
        subsets.append(Subset(task.train_size, task.budget, sweep_from_records(part, result.tuning)))
    sweeps = ScalingResult(plan.task.name, planner, fixed, tuple(subsets), np.zeros(len(plan.tune_seeds)), np.nan)
    low, high = plan.task.lr_range
    rate = float(np.clip(sweeps.predicted, low, high))
    check = replace(plan, rates=(rate,))
    result = run_comparison(check, lab.part("predicted"))
    return replace(sweeps, predicted_losses=sweep_from_records(check, result.tuning).losses[0], tried=rate)


def part_of(task: Task, fraction: float, fixed: str) -> Task:
    """The task on a part of its training data.

    Raises:
        UserError: the part holds less than a batch.
    """
    budget = task.budget
    if fixed == "epochs":
        budget = max(task.segment, round(task.budget * fraction / task.segment) * task.segment)
    return replace(task, train_fraction=task.train_fraction * fraction, budget=budget)

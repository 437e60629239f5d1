"""Pictures of forecasts and of how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.report.plotting import caption, distinct_style, log_scale, new_figure, own_style, plain, save
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.description import Forecast, RunDescription
from planners.forecaster.forecaster import Prediction

_BAND = "#9db8d2"


def draw_forecast(run: RunDescription, forecast: Forecast, metric: str, path: Path) -> None:
    """Draw what was seen of a run, its forecast and the interval."""
    with own_style():
        figure = new_figure(8, 4.5, f"Forecast of {metric}")
        axes = figure.add_subplot()
        plain(axes)
        axes.fill_between(forecast.steps, forecast.low, forecast.high, color=_BAND, alpha=0.5, label="90 % interval")
        axes.plot(forecast.steps, forecast.median, color="#1f5a91", label="forecast")
        if len(run.steps):
            axes.plot(run.steps, run.values, color="#262626", marker=".", label="seen")
        log_scale(axes, "y")
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(metric)
        axes.legend(frameon=False)
        save(figure, path)


def draw_fan(curves: CurveSet, predicted: Mapping[int, Prediction], rows: Sequence[int], path: Path) -> None:
    """Draw some runs, each as forecast after each number of points: a row for each number, a column for each run."""
    with own_style():
        figure = new_figure(3.2 * len(rows), 2.6 * len(predicted), "Runs that were not fitted to, and their forecasts")
        grid = figure.subplots(len(predicted), len(rows), squeeze=False)
        share = np.arange(POINTS) / (POINTS - 1)
        for of_row, (points, prediction) in zip(grid, predicted.items(), strict=True):
            for axes, row in zip(of_row, rows, strict=True):
                plain(axes)
                later = slice(max(points - 1, 0), None)
                ends = [part[row, later] for part in (prediction.low, prediction.high, prediction.median)]
                axes.fill_between(share[later], ends[0], ends[1], color=_BAND, alpha=0.5)
                axes.plot(share[later], ends[2], color="#1f5a91")
                axes.plot(share, curves.values[row], color="#262626", linewidth=0.9, linestyle=":")
                axes.plot(share[:points], curves.values[row, :points], color="#262626")
                log_scale(axes, "y")
                caption(axes, f"{round(100 * points / (POINTS - 1))} % seen" if points else "nothing seen")
        for axes in grid[-1]:
            axes.set_xlabel("share of the budget")
        save(figure, path)


def draw_errors(errors: Mapping[str, Mapping[int, Floats]], path: Path) -> None:
    """Draw the mean absolute log error of each method at each point: one picture for each number of points seen."""
    seen = list(dict.fromkeys(points for of_method in errors.values() for points in of_method))
    with own_style():
        figure = new_figure(4.2 * len(seen), 3.6, "Error by horizon")
        grid = figure.subplots(1, len(seen), squeeze=False)[0]
        for axes, points in zip(grid, seen, strict=True):
            plain(axes)
            for number, (method, of_method) in enumerate(errors.items()):
                if points in of_method:
                    at = np.arange(points, POINTS) / (POINTS - 1)
                    axes.plot(at, of_method[points][points:], label=method, **_line(number))
            caption(axes, f"{round(100 * points / (POINTS - 1))} % seen" if points else "nothing seen")
            axes.set_xlabel("share of the budget")
        grid[0].set_ylabel("mean |log(forecast / value)|")
        grid[-1].legend(frameon=False, fontsize=8)  # most methods need a run that has begun
        save(figure, path)


def draw_reliability(levels: Floats, covered: Mapping[str, Floats], path: Path) -> None:
    """Draw how often the intervals of each level held the value: one line for each number of points seen."""
    with own_style():
        figure = new_figure(4.6, 4.4, "Reliability of the intervals")
        axes = figure.add_subplot()
        plain(axes)
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
        for number, (name, shares) in enumerate(covered.items()):
            axes.plot(levels, shares, marker=".", label=name, **_line(number))
        axes.set_xlabel("level of the interval")
        axes.set_ylabel("share of the values inside")
        axes.legend(frameon=False)
        save(figure, path)


def _line(number: int) -> dict[str, Any]:
    style = distinct_style(number)
    return {name: style[name] for name in ("color", "linestyle") if name in style}

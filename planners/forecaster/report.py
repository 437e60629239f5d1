"""The report on how good forecasts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.report.document import Block, Column, Document, Figure, Heading, Table, Text, in_files
from lr_env.report.files import draw_into, write_csv
from lr_env.report.markdown import write_markdown
from lr_env.stats.intervals import Estimate
from lr_env.words import counted
from planners.forecaster.combining import BEFORE, can_forecast
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.evaluation import Evaluation, floor_of
from planners.forecaster.pictures import draw_errors, draw_fan, draw_reliability
from planners.forecaster.window import log_ratios

_LEVELS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])

_DRAWN = ("auto", "blend", "ode", "boosting", "nearest", "ensemble", "last-value")
"""Methods in the picture of errors."""


@dataclass(frozen=True)
class Row:
    """A method after a number of points seen.

    Attributes:
        points: number of points seen.
        method: its name.
        scores: means over splits.
        worse: how much larger its mean absolute percentage error is than that of "auto", paired; None where unknown.
    """

    points: int
    method: str
    scores: Mapping[str, float]
    worse: Estimate | None

    @property
    def seen(self) -> str:
        """Share of the budget that was seen."""
        return f"{round(100 * self.points / (POINTS - 1))} %"


def rows_of(evaluation: Evaluation) -> list[Row]:
    """A row for each method and number of points seen."""
    summary = evaluation.summary()
    return [
        Row(points, method, scores, evaluation.paired(method, "auto", points, "mape"))
        for (method, points), scores in sorted(summary.items(), key=lambda item: item[0][1])
    ]


def _score(name: str, head: str, digits: int = 3, rank: int = 1) -> Column[Row]:
    def value(row: Row) -> float | None:
        found = row.scores.get(name, np.nan)
        return float(found) if np.isfinite(found) else None

    return Column(head, value, lambda number: f"{number:.{digits}f}", rank=rank, csv=name)


def table_of(rows: Sequence[Row]) -> Table[Row]:
    """The rows as a table."""
    columns: list[Column[Row]] = [
        Column("seen", lambda row: row.seen, rank=0, csv="seen"),
        Column("method", lambda row: row.method, rank=0, csv="method", words=True),
        _score("mape", "MAPE", 4, rank=0),
        Column(
            "minus auto's",
            lambda row: row.worse,
            lambda worse: f"{worse.value:+.4f} [{worse.low:+.4f}, {worse.high:+.4f}]",
            rank=2,
            csv="mape_minus_auto",
            interval=True,
        ),
        _score("median_ape", "median APE", 4, rank=4),
        _score("log_mae", "log MAE", rank=1),
        _score("tau", "tau", rank=0),
        _score("mape_moving", "MAPE moving", 4, rank=3),
        _score("coverage", "coverage", rank=2),
        _score("interval_score", "interval score", rank=5),
    ]
    meanings = {
        "seen": "share of the budget that was seen of each run",
        "method": "see the README's section on forecasts; `auto` is the default",
        "MAPE": "mean over runs of the mean |forecast / value - 1| over all later points",
        "minus auto's": "the same minus that of the default, paired over splits, with 95 % intervals",
        "median APE": "its median over runs",
        "log MAE": "mean |log(forecast / value)|",
        "tau": "Kendall's tau of forecast and true last values",
        "MAPE moving": "of runs whose last value is more than 5 % from the last one seen",
        "coverage": "share of the values inside the 90 % intervals",
        "interval score": "of the logarithms (Gneiting & Raftery 2007), lower is better",
    }
    return Table(rows, columns, meanings)


def document_of(
    evaluation: Evaluation, curves: CurveSet, held_out: str, sources: Sequence[str], command: str
) -> Document:
    """The report.

    Args:
        evaluation: scores of all methods.
        curves: all of them.
        held_out: what the scores are of, as a phrase.
        sources: of the curves.
        command: that it was made with.
    """
    rows = rows_of(evaluation)
    table = table_of(rows)
    splits = max(len(of_splits) for of_splits in evaluation.results.values())
    usable = curves.rows(curves.usable)
    what = (
        f"{counted(len(usable), 'curve')} of {counted(len(set(usable.configurations)), 'configuration')} and "
        f"{counted(len(set(usable.tasks)), 'task')}, {held_out} ({counted(splits, 'split')}); fitted in "
        f"{evaluation.seconds.mean():.0f} s of CPU time each"
    )
    blocks: list[Block] = [Text(what), table, *in_files(Heading("Columns"), table.column_legend())]
    floors = {points: floor_of(usable, points) for points in dict.fromkeys(row.points for row in rows)}
    lines = tuple(
        f"{round(100 * points / (POINTS - 1))} % seen: MAPE {floor['mape']:.3f}, tau {floor['tau']:.3f} "
        f"({int(floor['pairs'])} pairs)"
        for points, floor in floors.items()
        if floor is not None
    )
    if lines:
        blocks += in_files(Heading("Another seed as the forecast: how far luck goes"), Text(points=lines))
    blocks += in_files(
        Heading("Pictures"),
        Figure("fan.png", "Forecasts of runs that were not fitted to"),
        Figure("errors.png", "Error by horizon"),
        Figure("reliability.png", "Reliability of the intervals"),
        Heading("How it was made"),
        Text(f"`{command}`"),
        Text(f"Curves: {', '.join(sources)}"),
    )
    return Document("Forecasts of learning curves", tuple(blocks))


def write_report(
    evaluation: Evaluation, document: Document, folder: Path, seen: Sequence[int], methods: Sequence[str]
) -> None:
    """Write README.md, scores.csv and the pictures into a folder."""
    table = next(block for block in document.blocks if isinstance(block, Table))
    write_markdown(document, folder / "README.md")
    write_csv(table, folder / "scores.csv")
    forecaster, test = evaluation.forecaster, evaluation.test
    able = test.rows(can_forecast(test, 0)) if 0 in seen else test
    able = able if len(able) else test
    seen = [points for points in seen if can_forecast(able, points).any()]
    predicted = {points: forecaster.predict(able, points) for points in seen}
    order = np.argsort(able.values[:, -1])
    rows = order[np.linspace(0, len(order) - 1, min(4, len(order))).astype(int)].tolist()
    draw_into(folder / "fan.png", lambda path: draw_fan(able, predicted, rows, path))
    errors: dict[str, dict[int, Floats]] = {}
    for method in (name for name in _DRAWN if name in methods):
        for points in seen:
            if points or method in BEFORE:
                median = forecaster.median(able, points, method)
                error = np.abs(log_ratios(able.values, np.ones(len(able))) - np.log(np.maximum(median, 1e-12)))
                count = np.isfinite(error).sum(0)
                mean = np.nansum(error, axis=0) / np.maximum(count, 1)
                errors.setdefault(method, {})[points] = np.where(count, mean, np.nan)
    draw_into(folder / "errors.png", lambda path: draw_errors(errors, path))
    covered = _covered(evaluation, able, seen)
    draw_into(folder / "reliability.png", lambda path: draw_reliability(_LEVELS, covered, path))


def _covered(evaluation: Evaluation, test: CurveSet, seen: Sequence[int]) -> dict[str, Floats]:
    """Share of the values inside intervals of each level: the 90 % ones, scaled as a Laplace distribution's."""
    covered: dict[str, Any] = {}
    for points in seen:
        prediction = evaluation.forecaster.predict(test, points)
        later = slice(points, None)
        truth, middle = np.log(test.values[:, later]), np.log(prediction.median[:, later])
        ends = [np.log(part[:, later]) for part in (prediction.low, prediction.high)]
        half = np.where(truth < middle, middle - ends[0], ends[1] - middle)
        ratio = np.abs(truth - middle) / half
        scale = np.log(1 - _LEVELS) / np.log(1 - 0.9)
        known = np.isfinite(ratio)
        covered[f"{round(100 * points / (POINTS - 1))} % seen"] = np.array([(ratio[known] <= s).mean() for s in scale])
    return covered

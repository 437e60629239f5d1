"""How good the planners of tuners are on many tasks, by the number of runs that each tuner had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import json_number
from lr_env.report.document import Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import estimate_text
from lr_env.report.plotting import TEXT, caption, distinct_style, new_figure, own_style, save
from lr_env.report.written import write_report
from lr_env.stats.intervals import LEVEL, Estimate, mean_interval
from lr_env.stats.two_way import Mean, holm
from lr_env.studies.tuning_across.procedure import Selected
from lr_env.words import counted

Floats = NDArray[np.float64]

WORST = 1.0
"""Largest regret of a planner on a task, as a log ratio: a run that diverged does not outweigh all other tasks."""


@dataclass(frozen=True)
class TaskAnswers:
    """What tuners selected on one task.

    Attributes:
        task: its name.
        answers: one for each tuner, number of runs and repeat.
    """

    task: str
    answers: tuple[Selected, ...]

    @cached_property
    def regrets(self) -> Mapping[tuple[str, int], float]:
        """(Label, runs) -> log of the mean final loss over the lowest on the task, at most `WORST`; mean of repeats."""
        with np.errstate(divide="ignore"):
            losses = [(a, float(np.log(np.mean(a.losses)))) for a in self.answers]
        best = min(loss for _, loss in losses)
        groups: dict[tuple[str, int], list[float]] = {}
        for answer, loss in losses:
            regret = min(loss - best, WORST) if np.isfinite(best) else 0.0
            groups.setdefault((answer.label, answer.runs), []).append(regret)
        return {key: float(np.mean(values)) for key, values in groups.items()}


@dataclass(frozen=True)
class Comparison:
    """The regret of one answer less that of another one.

    Attributes:
        one: its label, and the number of runs.
        other: the same of the other one.
        difference: mean over tasks.
        p_value: of a two-sided test that it is 0, adjusted for the comparisons that are made beside it.
        margin: largest difference that does not matter.
    """

    one: tuple[str, int]
    other: tuple[str, int]
    difference: Mean
    p_value: float
    margin: float

    @property
    def verdict(self) -> str:
        """What can be said; better or worse where the interval is clear of 0, and the adjusted p-value below 5 %."""
        interval, told = self.difference.interval(), self.p_value < 1 - LEVEL
        if told and interval.high < 0:
            return "better"
        if told and interval.low > 0:
            return "worse"
        if interval.high < self.margin:
            return f"not worse by {self.margin:g}"
        return f"not told apart, up to {max(interval.high, interval.low, key=abs):+.3f}"

    def text(self) -> str:
        """One line."""
        interval = self.difference.interval()
        return (
            f"{self.one[0]} after {counted(self.one[1], 'run')} less {self.other[0]} after {self.other[1]}: "
            f"{interval.value:+.3f}, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}, "
            f"p {self.p_value:.2g}: {self.verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "one": list(self.one),
            "other": list(self.other),
            "difference": self.difference.interval().to_json(),
            "p_holm": json_number(self.p_value),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class TuningAcrossResult(Reported):
    """Regrets of tuners on tasks of a family.

    Attributes:
        family: name of the task family.
        split: of its tasks.
        tasks: one for each task.
        seeds: that the planners were run on.
        score: "val" or "test": what the losses are of.
        against: pairs of (label, runs), (label, runs) that are compared.
        margin: largest difference of regrets that does not matter.
    """

    family: str
    split: str
    tasks: tuple[TaskAnswers, ...]
    seeds: tuple[int, ...]
    score: str
    against: tuple[tuple[tuple[str, int], tuple[str, int]], ...] = ()
    margin: float = 0.0

    @property
    def labels(self) -> list[str]:
        """Tuners and planners, in the order in which they were named."""
        return list(dict.fromkeys(label for label, _ in self.tasks[0].regrets))

    @property
    def runs(self) -> list[int]:
        """Numbers of runs, rising."""
        return sorted({runs for _, runs in self.tasks[0].regrets})

    def regrets(self, label: str, runs: int) -> Floats | None:
        """Regret on each task, (tasks,); None where the tuner selected nothing then."""
        if (label, runs) not in self.tasks[0].regrets:
            return None
        return np.array([task.regrets[label, runs] for task in self.tasks])

    def regret(self, label: str, runs: int) -> Estimate | None:
        """Mean regret over tasks, and its interval."""
        values = self.regrets(label, runs)
        return None if values is None else mean_interval(values)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The comparisons that were asked for; a task is the unit."""
        differences = [self.regrets(*one) - self.regrets(*other) for one, other in self.against]  # type: ignore[operator]
        count = len(self.tasks)
        means = [Mean(float(d.mean()), float(d.std(ddof=1) / np.sqrt(count)), count - 1) for d in differences]
        adjusted = holm({str(place): mean.p_value for place, mean in enumerate(means)})
        return [
            Comparison(*pair, mean, adjusted[str(place)], self.margin)
            for place, (pair, mean) in enumerate(zip(self.against, means, strict=True))
        ]

    def to_json(self) -> dict[str, Any]:
        """The whole result."""
        return {
            "family": self.family,
            "split": self.split,
            "seeds": list(self.seeds),
            "score": self.score,
            "regrets": [
                {"label": label, "runs": runs, "regret": estimate.to_json()}
                for label in self.labels
                for runs in self.runs
                if (estimate := self.regret(label, runs)) is not None
            ],
            "margin": self.margin,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "tasks": [
                {
                    "task": task.task,
                    "answers": [
                        {"label": a.label, "runs": a.runs, "repeat": a.repeat, "losses": list(a.losses)}
                        for a in task.answers
                    ],
                }
                for task in self.tasks
            ],
        }

    def document(self) -> Document:
        """A table of regrets, the comparisons, and a chart."""
        text = lambda e: "" if e is None else estimate_text(e, decimals=3)  # noqa: E731
        rows = [(label, *(self.regret(label, runs) for runs in self.runs)) for label in self.labels]
        columns: list[Column[Any]] = [
            Column("tuner", itemgetter(0), rank=0),
            *(
                Column(
                    counted(runs, "run"),
                    itemgetter(place + 1),
                    text,
                    0,
                    head=counted(runs, "run").replace(" ", "\n"),
                    interval=True,
                )
                for place, runs in enumerate(self.runs)
            ),
        ]
        of = "test" if self.score == "test" else "validation"
        seeds = counted(len(self.seeds), "seed")
        note = (
            f"{len(self.tasks)} tasks of {self.family} ({self.split}), {seeds}. Regret: log of the mean final {of} "
            f"loss over the lowest on the task, at most {WORST:g}; mean over tasks, ± half of a 95 % interval."
        )
        figure = Figure("regrets.png", "Regret by the number of runs", self.draw)
        return Document(self._title, (Table(rows, columns), Text(note), *self._comparisons(), figure))

    def _comparisons(self) -> list[Text]:
        if not self.comparisons:
            return []
        note = (
            f"Differences of regrets; p-values are adjusted for {counted(len(self.comparisons), 'comparison')} (Holm)."
        )
        return [Text(note), Text(points=tuple(comparison.text() for comparison in self.comparisons))]

    @property
    def _title(self) -> str:
        return f"{self.family}: tuners on {len(self.tasks)} tasks ({self.split})"

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write regrets.json, summary.md and regrets.png."""
        write_content(folder, "regrets", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw the regret of each tuner over the number of runs, as a PNG."""
        figure = new_figure(8.5, 4.6, self._title)
        axes = figure.subplots()
        place = {runs: number for number, runs in enumerate(self.runs)}
        for number, label in enumerate(self.labels):
            points = [(place[runs], e) for runs in self.runs if (e := self.regret(label, runs)) is not None]
            at, values = [x for x, _ in points], [e.value for _, e in points]
            style = distinct_style(number)
            axes.plot(at, values, marker="o", markersize=4, label=label, **style)
            axes.fill_between(
                at,
                [e.low for _, e in points],
                [e.high for _, e in points],
                color=style["color"],
                alpha=0.1,
                linewidth=0,
            )
        axes.set_xticks(list(place.values()), [str(runs) for runs in place])
        axes.set_xlabel("runs of the task", fontsize=11, color=TEXT)
        axes.set_ylabel("regret [log loss]", fontsize=11, color=TEXT)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
        caption(axes, "mean over tasks and its 95 % interval")
        save(figure, path)

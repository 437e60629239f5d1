"""Result of a tuning-budget study: losses and regrets over the number of tuning runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import json_numbers
from lr_env.objectives import VAL_LOSS, Objective
from lr_env.planner import Planner, planner_settings
from lr_env.records.record import RunRecord
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.curve_chart import rows_panel
from lr_env.report.document import Code, Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.plotting import Axes, caption, distinct_style, log_scale, new_figure, own_style, plain, save
from lr_env.report.written import write_report
from lr_env.stats import intervals as st
from lr_env.stats.two_way import Mean, holm, two_way_difference
from lr_env.studies.tuning_budget.exchange import Exchange
from lr_env.words import counted, sentence

Floats = NDArray[np.float64]

MOST_CURVES = 12
"""Curves that can be told apart in one figure."""


@dataclass(frozen=True, eq=False)
class TunedPlanner:
    """A planner that a tuner chose, and its final runs.

    Attributes:
        label: name of the tuner, or of the tuner's variant.
        runs: tuning runs after which it was chosen.
        repeat: number of the tuner's repeat, from 0.
        planner: with its chosen settings.
        final_runs: one for each seed.
        objective: what it was chosen for.
        child_steps: optimizer steps of the runs that it was chosen from.
        note: what the tuner tells of it.
    """

    label: str
    runs: int
    repeat: int
    planner: Planner
    final_runs: tuple[RunRecord, ...]
    objective: Objective = VAL_LOSS
    child_steps: int = 0
    note: str = ""

    def losses(self, selected: bool = False) -> Floats:
        """What is reported of each run, or what settings are selected by, (seeds,); infinite where it diverged."""
        of_run = self.objective.selected if selected else self.objective.reported
        return np.array([of_run(run) for run in self.final_runs])


@dataclass(frozen=True, eq=False)
class BudgetCurve(Reported):
    """The planners that several tuners chose after several numbers of tuning runs.

    Attributes:
        task: its name.
        tuners: names, in the order of the report.
        budgets: numbers of tuning runs.
        seeds: of the final runs of all planners.
        answers: the tuned planners.
        reference_search: label of the tuned planner that regret is relative to; if empty, it is relative to the one
            with the lowest mean validation loss.
        margin: largest difference of losses that does not matter, in their unit; 0 for none.
        exchange: losses of a tuner's schedules with other budgets; None where losses are not told as steps.
    """

    task: str
    tuners: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    answers: tuple[TunedPlanner, ...]
    reference_search: str = ""
    margin: float = 0.0
    exchange: Exchange | None = None

    def renamed(self, names: Mapping[str, str]) -> BudgetCurve:
        """The same with other labels: those of planners for those of the tuners that all of them have."""
        answers = tuple(replace(answer, label=names.get(answer.label, answer.label)) for answer in self.answers)
        return replace(self, tuners=tuple(names.get(tuner, tuner) for tuner in self.tuners), answers=answers)

    @property
    def objective(self) -> Objective:
        """What the planners were chosen for."""
        return self.answers[0].objective

    @property
    def labels(self) -> list[str]:
        """Labels of the tuned planners, without the reference search."""
        labels = dict.fromkeys(answer.label for answer in self.answers)
        return [label for label in labels if label != self.reference_search]

    @cached_property
    def best(self) -> TunedPlanner:
        """The tuned planner that regret is relative to."""
        among = [answer for answer in self.answers if answer.label == self.reference_search] or self.answers

        def diverged_and_mean(answer: TunedPlanner) -> tuple[int, float]:
            losses = answer.losses(selected=True)
            finished = np.isfinite(losses)
            return int((~finished).sum()), float(losses[finished].mean()) if finished.any() else np.inf

        return min(among, key=diverged_and_mean)

    def losses(self, label: str, runs: int, selected: bool = False) -> Floats:
        """Losses of each repeat on each seed, (repeats, seeds); see `TunedPlanner.losses`."""
        repeats = sorted(self._answers(label, runs), key=lambda answer: answer.repeat)
        return np.array([answer.losses(selected) for answer in repeats])

    def mean_loss(self, label: str, runs: int) -> st.Estimate:
        """Mean loss, with an interval over repeats and seeds; infinite where a run diverged."""
        losses = self.losses(label, runs)
        return two_way_difference(losses, np.zeros_like(losses)).interval()

    def _answers(self, label: str, runs: int) -> list[TunedPlanner]:
        return [answer for answer in self.answers if (answer.label, answer.runs) == (label, runs)]

    def regret(self, label: str, runs: int, selected: bool = False) -> st.Estimate:
        """Mean loss less that of `best` on the same seeds, with an interval over repeats and seeds."""
        losses = self.losses(label, runs, selected)
        return two_way_difference(losses, np.broadcast_to(self.best.losses(selected), losses.shape)).interval()

    def difference(self, label: str, other: str, runs: int) -> Mean:
        """Difference of two mean losses: over repeats, which share their tuning seeds, and over seeds."""
        return two_way_difference(self.losses(label, runs), self.losses(other, runs))

    def adjusted(self, runs: int) -> dict[str, float]:
        """P-values of the differences to the first tuner, adjusted for their number: label -> p-value."""
        first, *others = self.labels
        return holm({label: self.difference(label, first, runs).p_value for label in others})

    def to_json(self) -> dict[str, Any]:
        """The whole result, with the losses of every run."""
        return {
            "task": self.task,
            "seeds": list(self.seeds),
            "score": self.objective.reported_as.replace(" ", "_"),
            **({} if self.exchange is None else {"in_steps": self.exchange.to_json()}),
            "ceiling": {
                "answer": self.best.label,
                "runs": self.best.runs,
                **_of_planner(self.best),
                "losses": json_numbers(self.best.losses().tolist()),
            },
            "curves": [
                {
                    "answer": label,
                    "runs": runs,
                    "regret": self.regret(label, runs).to_json(),
                    "validation_regret": self.regret(label, runs, selected=True).to_json(),
                    "loss": self.mean_loss(label, runs).to_json(),
                    **self._in_steps(label, runs),
                    **{f"to_{self.labels[0]}": self._to_first(label, runs)},
                    "repeats": [
                        {
                            **_of_planner(answer),
                            "losses": json_numbers(answer.losses().tolist()),
                            "validation_losses": json_numbers(answer.losses(selected=True).tolist()),
                            "child_steps": answer.child_steps,
                            **({"note": answer.note} if answer.note else {}),
                        }
                        for answer in self._answers(label, runs)
                    ],
                }
                for label in self.labels
                for runs in self.budgets
            ],
        }

    def _in_steps(self, label: str, runs: int) -> dict[str, Any]:
        """The share of the budget after which the schedules of `exchange` have the same loss."""
        if self.exchange is None:
            return {}
        return {"in_steps": self.exchange.steps(self._to_exchanged(label, runs)).to_json()}

    def _to_exchanged(self, label: str, runs: int) -> Mean:
        assert self.exchange is not None
        return two_way_difference(self.losses(label, runs), self.losses(self.exchange.label, self.budgets[-1]))

    def _to_first(self, label: str, runs: int) -> dict[str, Any]:
        """The difference to the first tuner, with what is said of it."""
        difference = self.difference(label, self.labels[0], runs)
        return {
            "difference": difference.interval().to_json(),
            "p_holm": json_numbers([self.adjusted(runs).get(label, np.nan)])[0],
            "verdict": difference.told(self.margin) if label != self.labels[0] else None,
        }

    def table(self, cell: Callable[[str, int], st.Estimate], labels: Sequence[str]) -> Table[Any]:
        """A row for each of some labels, the best at the largest number of runs first, a column for each number."""
        estimates = {(label, runs): cell(label, runs) for label in labels for runs in self.budgets}
        decimals = decimals_of(estimates.values())
        last = self.budgets[-1]
        rows = sorted(labels, key=lambda label: np.nan_to_num(estimates[label, last].value, nan=np.inf))
        text = partial(estimate_text, decimals=decimals, sign=True)
        columns: list[Column[str]] = [Column("tuned planner", str, rank=0, words=True)]
        for runs in self.budgets:
            value = partial(lambda runs, label: estimates[label, runs], runs)
            columns.append(Column(f"{runs} runs", value, text, 0, interval=True))
        return Table(rows, columns)

    def _means(self) -> Table[Any]:
        """After the largest number of runs: the mean loss of each, what it is worth in steps, and what was spent."""
        last, repeats = self.budgets[-1], len(self.losses(self.labels[0], self.budgets[-1]))
        means = {label: self.mean_loss(label, last) for label in self.labels}
        text = partial(estimate_text, decimals=decimals_of(means.values()))
        rows = sorted(means, key=lambda label: np.nan_to_num(means[label].value, nan=np.inf))

        def diverged(label: str) -> int:
            return int(np.isinf(self.losses(label, last)).sum())

        def steps(label: str) -> int:
            return round(sum(answer.child_steps for answer in self._answers(label, last)) / repeats)

        columns: list[Column[str]] = [
            Column("tuned planner", str, rank=0, words=True),
            Column(self.objective.reported_as, means.__getitem__, text, 0, csv="loss", interval=True),
            Column("diverged", diverged, str if any(map(diverged, rows)) else None, 1),
            Column("tuning runs", lambda label: last, rank=2),
            Column("child steps", steps, "{:,}".format, 2, csv="child_steps"),
        ]
        if (exchange := self.exchange) is not None:
            told = Column[str](
                f"steps of {exchange.label}", lambda label: exchange.text(self._to_exchanged(label, last)), rank=1,
                csv="in_steps", words=True,
            )  # fmt: skip
            columns.insert(3, told)
        return Table(rows, columns)

    @property
    def _margin_text(self) -> str:
        return f"; differences below {self.margin:g} do not matter" if self.margin else ""

    def _differences(self, labels: Sequence[str]) -> Table[Any]:
        """Differences to the first tuner, and at the largest number of runs what is said of them."""
        first, last = self.labels[0], self.budgets[-1]
        table = self.table(lambda label, runs: self.difference(label, first, runs).interval(), labels)
        adjusted = self.adjusted(last)

        def said(label: str) -> str:
            difference = self.difference(label, first, last)
            told = difference.told(self.margin)
            if told != "not told apart":
                return told
            most = max(map(abs, (difference.interval().low, difference.interval().high)))
            return f"not told apart, up to {most:.2g}" if np.isfinite(most) else told

        p_value: Column[str] = Column(f"p after {last} runs", adjusted.__getitem__, "{:.2g}".format, 1, csv="p_holm")
        verdict: Column[str] = Column(f"after {last} runs", said, rank=0, csv="verdict", words=True)
        return Table(table.rows, [*table.columns, p_value, verdict])

    def document(self, provenance: Mapping[str, Any] | None = None) -> Document:
        """The report: regrets, the command of its `provenance`, and in files the differences to the first tuner."""
        best, repeats = self.best, len(self.losses(self.labels[0], self.budgets[0]))
        first, *others = self.labels
        differences = (
            Text(
                f"Less the loss of {first}, repeat by repeat and seed by seed; below 0 is better. The p-values are "
                f"adjusted for {counted(len(others), 'comparison')} (Holm){self._margin_text}:"
            ),
            self._differences(others),
        )
        exchanged = (
            f" Beside it, after which share of the budget the schedules of {self.exchange.label} have the same loss."
            if self.exchange
            else ""
        )
        return Document(
            f"What tuning runs buy on {self.task}",
            (
                Text(
                    f"{sentence(self.objective.reported_as)} on {self.task} above {best.losses().mean():.4f} "
                    f"{self.objective.unit}, which {best.label} reaches after {best.runs} runs: mean of "
                    f"{seeds_text(len(self.seeds))} and {repeats} repeats of the whole procedure, 95 % intervals over "
                    "both."
                ),
                self.table(self.regret, self.labels),
                Text(f"The {self.objective.reported_as} itself after {self.budgets[-1]} runs.{exchanged}"),
                self._means(),
                *self._notes(),
                *(differences if others else ()),
                Figure("budget.png", "Regret over the number of tuning runs", self.draw, self._chart),
                *([Code(provenance["command"])] if provenance else []),
            ),
        )

    def _notes(self) -> list[Text]:
        """What tuners tell of what they know, in each repeat."""
        last = [answer for answer in self.answers if answer.runs == self.budgets[-1] and answer.note]
        by_label = {label: [answer.note for answer in last if answer.label == label] for label in self.labels}
        return [Text(f"{label}: {'; '.join(notes)}.") for label, notes in by_label.items() if notes]

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write budget.json, summary.md, budget.png and report.html."""
        write_content(folder, "budget", {**self.to_json(), **provenance})
        write_report(self.document(provenance), folder)

    def _chart(self) -> Chart:
        """Regret over the number of runs, as a chart."""
        caption = f"mean and 95 % interval over repeats; 0 is {self.best.label} after {self.best.runs} runs"
        if len(self.budgets) == 1:
            runs = self.budgets[0]
            regrets = {label: self.regret(label, runs) for label in self.labels}
            order = sorted(regrets, key=lambda label: np.nan_to_num(regrets[label].value, nan=np.inf))
            return Chart([rows_panel(f"After {runs} runs: {caption}", self._regret_text, order,
                                     [(regrets[label], "strong") for label in order], lines={" ": 0.0})])  # fmt: skip
        series = []
        for style, label in enumerate(self.labels):
            regrets = [self.regret(label, runs) for runs in self.budgets]
            low, high = [e.low for e in regrets], [e.high for e in regrets]
            values = [e.value for e in regrets]
            look: dict[str, Any] = {"style": style, "group": label}
            series.append(Series(label, list(self.budgets), values, **look))
            series.append(Series(label, list(self.budgets), values, "points", low, high, **look))
        return Chart([Panel(caption, Axis("tuning runs", "log"), Axis(self._regret_text), series)])

    @property
    def _regret_text(self) -> str:
        return f"regret, {self.objective.reported_as} [{self.objective.unit}]"

    @own_style()
    def draw(self, path: Path) -> None:
        """Regret over the number of runs, as a PNG, or a row for each of many answers."""
        rows = len(self.budgets) == 1 or len(self.labels) > MOST_CURVES
        height = 1.6 + 0.22 * len(self.labels) if rows else 4.8
        figure = new_figure(7.5, height, f"{self.task}: what tuning runs buy")
        axes = figure.subplots()
        plain(axes)
        (self._draw_rows if rows else self._draw_curves)(axes)
        save(figure, path)

    def _draw_curves(self, axes: Axes) -> None:
        values = []
        for number, label in enumerate(self.labels):
            regrets = [self.regret(label, runs) for runs in self.budgets]
            at = np.array(self.budgets) * 1.02 ** (number - len(self.labels) / 2)
            style = distinct_style(number)
            halves = [_half(estimate) for estimate in regrets]
            axes.errorbar(at, [e.value for e in regrets], yerr=halves, marker="o", markersize=3, label=label, **style)
            values += [estimate.value for estimate in regrets]
        axes.axhline(0, color="#888888", linewidth=0.8)
        log_scale(axes, "x")
        axes.set_yscale("symlog", linthresh=_middle(values))
        axes.set_xlabel("tuning runs")
        axes.set_ylabel(self._regret_text)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        caption(axes, f"mean and 95 % interval over repeats; 0 is {self.best.label} after {self.best.runs} runs")

    def _draw_rows(self, axes: Axes) -> None:
        runs = self.budgets[-1]
        regrets = {label: self.regret(label, runs) for label in self.labels}
        order = sorted(regrets, key=lambda label: np.nan_to_num(regrets[label].value, nan=np.inf), reverse=True)
        for row, label in enumerate(order):
            if np.isfinite(value := regrets[label].value):
                axes.errorbar([value], [row], xerr=[_half(regrets[label])], marker="o", markersize=3, color="#0072b2")
            else:
                axes.annotate("diverged", (1, row), xycoords=("axes fraction", "data"), ha="right", va="center")
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=_middle([estimate.value for estimate in regrets.values()]))
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_xlabel(self._regret_text)
        best = self.best
        caption(axes, f"after {runs} runs: mean and 95 % interval; 0: {best.label} after {best.runs}")


def _half(estimate: st.Estimate) -> float:
    """Half the width of the interval; 0 where there is none."""
    return estimate.half_width if np.isfinite(estimate.half_width) else 0.0


def _middle(regrets: Sequence[float]) -> float:
    """Limit up to which an axis is linear, so that outliers do not press the others together."""
    sizes = [abs(value) for value in regrets if np.isfinite(value) and value]
    return float(np.median(sizes)) if sizes else 1.0


def _of_planner(answer: TunedPlanner) -> dict[str, Any]:
    return {"planner": answer.planner.name, "settings": planner_settings(answer.planner)}

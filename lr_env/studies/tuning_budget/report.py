"""What a budget curve says: losses and regrets over the number of tuning runs, with intervals over repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import finite, write_text
from lr_env.planner import Planner, planner_settings
from lr_env.records.record import RunRecord, run_key
from lr_env.report.files import write_json_and_figure
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.plotting import Axes, caption, distinct_style, log_scale, new_figure, own_style, plain, save
from lr_env.stats import intervals as st

Floats = NDArray[np.float64]

LOSS = "test_loss"
"""What answers are judged by; it chooses nothing."""

SEEN = "final_val_loss"
"""What is chosen by."""

MOST_CURVES = 12
"""Answers that can be told apart as curves in one figure."""

_REGRET = "regret, test loss [nats/example]"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a procedure answered, and how that did.

    Attributes:
        label: name of the answer.
        runs: after so many tuning runs.
        repeat: of the procedure, from 0.
        planner: the answer.
        ends: its runs, one for each seed.
    """

    label: str
    runs: int
    repeat: int
    planner: Planner
    ends: tuple[RunRecord, ...]

    def losses(self, score: str = LOSS) -> Floats:
        """By seed, (seeds,); infinite where a run diverged."""
        return np.array([run.end(score) for run in self.ends])


@dataclass(frozen=True, eq=False)
class BudgetCurve:
    """Answers of several tuners after several budgets.

    Attributes:
        task: its name.
        tuners: names, the order of which is kept.
        budgets: numbers of tuning runs.
        seeds: that all answers were run on.
        answers: all of them.
        ceiling: name of the answer that regret is told to; if empty, that with the lowest mean validation loss is.
    """

    task: str
    tuners: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    answers: tuple[Answer, ...]
    ceiling: str = ""

    @property
    def labels(self) -> list[str]:
        """Names of the answers, but for the ceiling's."""
        return [label for label in dict.fromkeys(answer.label for answer in self.answers) if label != self.ceiling]

    @cached_property
    def best(self) -> Answer:
        """What regret is told to."""
        among = [answer for answer in self.answers if answer.label == self.ceiling] or self.answers

        def ended(answer: Answer) -> tuple[int, float]:
            losses = answer.losses(SEEN)
            known = np.isfinite(losses)
            return int((~known).sum()), float(losses[known].mean()) if known.any() else np.inf

        return min(among, key=ended)

    def means(self, label: str, runs: int, score: str = LOSS) -> Floats:
        """Mean loss over the seeds of each repeat, (repeats,)."""
        own = [answer for answer in self.answers if (answer.label, answer.runs) == (label, runs)]
        return np.array([answer.losses(score).mean() for answer in sorted(own, key=lambda answer: answer.repeat)])

    def regret(self, label: str, runs: int, score: str = LOSS) -> st.Estimate:
        """Mean loss less that of `best` on the same seeds, with an interval over the repeats of the procedure.

        There is no interval where all repeats answer the same.
        """
        means = self.means(label, runs, score)
        answers = {run_key(a.ends[0]) for a in self.answers if (a.label, a.runs) == (label, runs)}
        means = means[:1] if len(answers) == 1 else means
        return st.paired_difference(means, np.full_like(means, self.best.losses(score).mean()))

    def difference(self, label: str, other: str, runs: int) -> st.Estimate:
        """Of the mean losses of two, with an interval over repeats, which share their tuning seeds."""
        return st.paired_difference(self.means(label, runs), self.means(other, runs))

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "task": self.task,
            "seeds": list(self.seeds),
            "score": LOSS,
            "ceiling": {
                "answer": self.best.label,
                "runs": self.best.runs,
                **_of_planner(self.best),
                "losses": [finite(loss) for loss in self.best.losses().tolist()],
            },
            "curves": [
                {
                    "answer": label,
                    "runs": runs,
                    "regret": self.regret(label, runs).to_json(),
                    "validation_regret": self.regret(label, runs, SEEN).to_json(),
                    **{f"to_{self.labels[0]}": self.difference(label, self.labels[0], runs).to_json()},
                    "repeats": [
                        {
                            **_of_planner(answer),
                            "losses": [finite(loss) for loss in answer.losses().tolist()],
                            "validation_losses": [finite(loss) for loss in answer.losses(SEEN).tolist()],
                        }
                        for answer in self.answers
                        if (answer.label, answer.runs) == (label, runs)
                    ],
                }
                for label in self.labels
                for runs in self.budgets
            ],
        }

    def text(self) -> str:
        """The table of regrets, the best first at the largest budget, as Markdown."""
        return self._table(self.regret)

    def differences_text(self) -> str:
        """The table of differences to the first answer, the best first; empty if there is no other."""
        first, *others = self.labels
        return self._table(lambda label, runs: self.difference(label, first, runs), others) if others else ""

    def _table(self, cell: Callable[[str, int], st.Estimate], labels: Sequence[str] | None = None) -> str:
        wanted = self.labels if labels is None else labels
        found = {(label, runs): cell(label, runs) for label in wanted for runs in self.budgets}
        decimals = decimals_of(found.values())
        lines = [
            "| answer | " + " | ".join(f"{runs} runs" for runs in self.budgets) + " |",
            "|---" + "|---:" * len(self.budgets) + "|",
        ]
        last = self.budgets[-1]
        for label in sorted(wanted, key=lambda label: np.nan_to_num(found[label, last].value, nan=np.inf)):
            cells = (estimate_text(found[label, runs], decimals, sign=True) for runs in self.budgets)
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def heading(self) -> str:
        """What the table tells."""
        best, repeats = self.best, len(self.means(self.labels[0], self.budgets[0]))
        return (
            f"Test loss on {self.task} above {best.losses().mean():.4f} nats/example, which {best.label} reaches after "
            f"{best.runs} runs: mean of {seeds_text(len(self.seeds))} and {repeats} repeats of the whole procedure, "
            "95 % intervals over the repeats."
        )

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write budget.json, budget.png and summary.md."""
        parts = [f"# What tuning runs buy on {self.task}", self.heading(), self.text()]
        if differences := self.differences_text():
            parts += [f"Less the loss of {self.labels[0]}, repeat by repeat; below 0 is better:", differences]
        write_text(folder / "summary.md", "\n\n".join([*parts, f"`{made['command']}`"]) + "\n")
        write_json_and_figure(folder, "budget", {**self.to_json(), **made}, self.draw)

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
            found = [self.regret(label, runs) for runs in self.budgets]
            at = np.array(self.budgets) * 1.02 ** (number - len(self.labels) / 2)
            style = distinct_style(number)
            halves = [_half(estimate) for estimate in found]
            axes.errorbar(at, [e.value for e in found], yerr=halves, marker="o", markersize=3, label=label, **style)
            values += [estimate.value for estimate in found]
        axes.axhline(0, color="#888888", linewidth=0.8)
        log_scale(axes, "x")
        axes.set_yscale("symlog", linthresh=_middle(values))
        axes.set_xlabel("tuning runs")
        axes.set_ylabel(_REGRET)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        caption(axes, f"mean and 95 % interval over repeats; 0 is {self.best.label} after {self.best.runs} runs")

    def _draw_rows(self, axes: Axes) -> None:
        runs = self.budgets[-1]
        found = {label: self.regret(label, runs) for label in self.labels}
        order = sorted(found, key=lambda label: np.nan_to_num(found[label].value, nan=np.inf), reverse=True)
        for row, label in enumerate(order):
            if np.isfinite(value := found[label].value):
                axes.errorbar([value], [row], xerr=[_half(found[label])], marker="o", markersize=3, color="#0072b2")
            else:
                axes.annotate("diverged", (1, row), xycoords=("axes fraction", "data"), ha="right", va="center")
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=_middle([estimate.value for estimate in found.values()]))
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_xlabel(_REGRET)
        best = self.best
        caption(axes, f"after {runs} runs: mean, 95 % interval over repeats; 0 is {best.label} after {best.runs}")


def _half(estimate: st.Estimate) -> float:
    """Half of the interval; 0 where there is none."""
    return estimate.half_width if np.isfinite(estimate.half_width) else 0.0


def _middle(regrets: Sequence[float]) -> float:
    """Up to where an axis is linear, so that those far off do not press the others together."""
    known = [abs(value) for value in regrets if np.isfinite(value) and value]
    return float(np.median(known)) if known else 1.0


def _of_planner(answer: Answer) -> dict[str, Any]:
    return {"planner": answer.planner.name, "settings": planner_settings(answer.planner)}

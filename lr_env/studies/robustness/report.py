"""Result of a robustness study: regrets of tuned planners under shifted conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import json_numbers, write_text
from lr_env.objectives import VAL_LOSS, Objective
from lr_env.planner import Planner, planner_settings
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.document import Code, Column, Document, Figure, Reported, Table, Text
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.written import write_report
from lr_env.stats import intervals as st
from lr_env.words import sentence

TUNED = "as tuned"
"""The condition that planners were tuned under."""


@dataclass(frozen=True, eq=False)
class RobustnessResult(Reported):
    """Test losses of tuned planners under each condition, beside those of a schedule tuned for it.

    Attributes:
        task: its name.
        seeds: of the runs.
        losses: condition -> label of the tuned planner -> test loss by seed.
        oracles: condition -> (schedule tuned for it, its test loss by seed).
        planners: label -> tuned planner.
        left_out: condition -> why the task cannot be put under it.
        objective: what planners were tuned for, and are judged by.
    """

    task: str
    seeds: tuple[int, ...]
    losses: Mapping[str, Mapping[str, NDArray[np.float64]]]
    oracles: Mapping[str, tuple[Planner, NDArray[np.float64]]]
    planners: Mapping[str, Planner]
    left_out: Mapping[str, str] = field(default_factory=dict)
    objective: Objective = VAL_LOSS

    def regret(self, condition: str, answer: str) -> st.Estimate:
        """Test loss above that of the schedule tuned for the condition, paired over seeds."""
        return st.paired_difference(self.losses[condition][answer], self.oracles[condition][1])

    def mean_regret(self, answer: str) -> st.Estimate:
        """Mean over the conditions but `TUNED`, with an interval over seeds, which the conditions share."""
        others = [condition for condition in self.losses if condition != TUNED]
        losses = np.mean([self.losses[condition][answer] for condition in others], axis=0)
        best = np.mean([self.oracles[condition][1] for condition in others], axis=0)
        return st.paired_difference(losses, best)

    def to_json(self) -> dict[str, Any]:
        """The whole result, with the losses of every run."""
        return {
            "task": self.task,
            "seeds": list(self.seeds),
            "planners": {
                name: {"planner": planner.name, "settings": planner_settings(planner)}
                for name, planner in self.planners.items()
            },
            "mean_regrets": {name: self.mean_regret(name).to_json() for name in self.planners},
            "conditions": {
                condition: {
                    "tuned_for_it": {
                        "planner": oracle.name,
                        "settings": planner_settings(oracle),
                        "losses": json_numbers(best.tolist()),
                    },
                    "answers": {
                        name: {
                            "regret": self.regret(condition, name).to_json(),
                            "losses": json_numbers(self.losses[condition][name].tolist()),
                        }
                        for name in self.planners
                    },
                }
                for condition, (oracle, best) in self.oracles.items()
            },
        }

    def table(self) -> Table[Any]:
        """Regrets, the lowest mean first."""
        means = {name: self.mean_regret(name) for name in self.planners}
        regrets = {(c, name): self.regret(c, name) for c in self.losses for name in self.planners}
        decimals = decimals_of([*regrets.values(), *means.values()])
        rows = sorted(means, key=lambda name: np.nan_to_num(means[name].value, nan=np.inf))
        text = partial(estimate_text, decimals=decimals, sign=True)

        def mean(name: str) -> st.Estimate | str:
            return "some diverged" if any(self._diverged(c, name) for c in self.losses) else means[name]

        def under(condition: str, name: str) -> st.Estimate | str:
            return self._diverged(condition, name) or regrets[condition, name]

        def shown(value: st.Estimate | str) -> str:
            return value if isinstance(value, str) else text(value)

        columns: list[Column[str]] = [Column("tuned planner", str, rank=0, words=True)]
        columns.append(Column("mean", mean, shown, 0))
        columns += [Column(condition, partial(under, condition), shown, 0) for condition in self.losses]
        return Table(rows, columns)

    def document(self, provenance: Mapping[str, Any] | None = None) -> Document:
        """The report, with the command of its `provenance`."""
        return Document(
            f"{self.task}: robustness under shifted conditions",
            (
                Text(
                    f"{sentence(self.objective.reported_as)} on {self.task}, in {self.objective.unit}, above that of "
                    "the WSD schedule that was tuned for the condition: mean of "
                    f"{seeds_text(len(self.seeds))}, paired, 95 % intervals. All planners were tuned on the task as it "
                    "is, where regret is relative to the tuned planner with the lowest "
                    f"{self.objective.selected_by}, {self.oracles[TUNED][0].name}; the mean is over the other "
                    "conditions."
                ),
                *(Text(f"Without {name!r}: {why}") for name, why in self.left_out.items()),
                self.table(),
                Figure("", "Regrets under each condition", chart=self._chart, place="page"),
                *([Code(provenance["command"])] if provenance else []),
            ),
        )

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write conditions.json, summary.md and report.html."""
        write_text(folder / "conditions.json", json.dumps({**self.to_json(), **provenance}, indent=1) + "\n")
        write_report(self.document(provenance), folder)

    def _chart(self) -> Chart:
        """Regrets of each tuned planner: the mean over conditions, and each condition."""
        means = {name: self.mean_regret(name) for name in self.planners}
        order = sorted(means, key=lambda name: np.nan_to_num(means[name].value, nan=np.inf))
        series = []
        for style, condition in enumerate(("mean", *self.losses)):
            regrets = [means[n] if condition == "mean" else self.regret(condition, n) for n in order]
            ends = [[e.low for e in regrets], [e.high for e in regrets]]
            values = [e.value for e in regrets]
            series.append(Series(condition, values, order, "points", *ends, bars="x", style=style, group=condition))
        title = "Mean over the conditions, and each condition; 95 % intervals"
        regret = f"regret, {self.objective.reported_as} [{self.objective.unit}]"
        panel = Panel(title, Axis(regret), Axis("", "names", names=tuple(order)), series, {" ": 0.0})
        return Chart([panel], ["mean"])

    def _diverged(self, condition: str, name: str) -> str:
        """How many runs of a planner, or else of the schedule tuned for the condition, diverged; empty if none did."""
        of = f"of {len(self.seeds)}"
        if diverged := int(np.isinf(self.losses[condition][name]).sum()):
            return f"{diverged} {of} diverged"
        tuned = int(np.isinf(self.oracles[condition][1]).sum())
        return f"{tuned} {of} of the tuned one diverged" if tuned else ""

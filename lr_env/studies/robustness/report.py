"""Result of a robustness study: regrets of tuned planners under shifted conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import json_numbers, write_text
from lr_env.planner import Planner, planner_settings
from lr_env.report.document import Code, Document, Table, Text, plain_table
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.markdown import write_markdown
from lr_env.stats import intervals as st

TUNED = "as tuned"
"""The condition that planners were tuned under."""


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """Test losses of tuned planners under each condition, beside those of a schedule tuned for it.

    Attributes:
        task: its name.
        seeds: of the runs.
        losses: condition -> label of the tuned planner -> test loss by seed.
        oracles: condition -> (schedule tuned for it, its test loss by seed).
        planners: label -> tuned planner.
        left_out: condition -> why the task cannot be put under it.
    """

    task: str
    seeds: tuple[int, ...]
    losses: Mapping[str, Mapping[str, NDArray[np.float64]]]
    oracles: Mapping[str, tuple[Planner, NDArray[np.float64]]]
    planners: Mapping[str, Planner]
    left_out: Mapping[str, str] = field(default_factory=dict)

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
        rows = []
        for name in sorted(means, key=lambda name: np.nan_to_num(means[name].value, nan=np.inf)):
            diverged = [self._diverged(condition, name) for condition in self.losses]
            mean = "some diverged" if any(diverged) else estimate_text(means[name], decimals, sign=True)
            cells = (
                text or estimate_text(regrets[condition, name], decimals, sign=True)
                for condition, text in zip(self.losses, diverged, strict=True)
            )
            rows.append((name, mean, *cells))
        return plain_table(("tuned planner", "mean", *self.losses), rows)

    def document(self, provenance: Mapping[str, Any] | None = None) -> Document:
        """The report, with the command of its `provenance`."""
        return Document(
            f"{self.task}: robustness under shifted conditions",
            (
                Text(
                    f"Test loss on {self.task}, in nats/example, above that of the WSD schedule that was tuned for the "
                    f"condition: mean of {seeds_text(len(self.seeds))}, paired, 95 % intervals. All planners were "
                    "tuned on the task as it is, where regret is relative to the tuned planner with the lowest "
                    f"validation loss, {self.oracles[TUNED][0].name}; the mean is over the other conditions."
                ),
                *(Text(f"Without {name!r}: {why}") for name, why in self.left_out.items()),
                self.table(),
                *([Code(provenance["command"])] if provenance else []),
            ),
        )

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write conditions.json and summary.md."""
        write_text(folder / "conditions.json", json.dumps({**self.to_json(), **provenance}, indent=1) + "\n")
        write_markdown(self.document(provenance), folder / "summary.md")

    def _diverged(self, condition: str, name: str) -> str:
        """How many runs of a planner, or else of the schedule tuned for the condition, diverged; empty if none did."""
        of = f"of {len(self.seeds)}"
        if diverged := int(np.isinf(self.losses[condition][name]).sum()):
            return f"{diverged} {of} diverged"
        tuned = int(np.isinf(self.oracles[condition][1]).sum())
        return f"{tuned} {of} of the tuned one diverged" if tuned else ""

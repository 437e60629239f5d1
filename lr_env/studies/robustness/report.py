"""What planners lose off the path that they were tuned on, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.files import finite, write_text
from lr_env.planner import Planner, planner_settings
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.stats import intervals as st

TUNED = "as tuned"
"""The task as it was when planners were tuned."""


@dataclass(frozen=True, eq=False)
class OffThePath:
    """What planners lose under each condition.

    Attributes:
        task: its name.
        seeds: of the runs.
        losses: condition -> name of the answer -> test loss by seed.
        oracles: condition -> (planner, test loss by seed) that was tuned for it.
        planners: name of the answer -> planner.
    """

    task: str
    seeds: tuple[int, ...]
    losses: Mapping[str, Mapping[str, NDArray[np.float64]]]
    oracles: Mapping[str, tuple[Planner, NDArray[np.float64]]]
    planners: Mapping[str, Planner]

    def regret(self, condition: str, answer: str) -> st.Estimate:
        """Test loss above that of the schedule that was tuned for the condition, paired over seeds."""
        return st.paired_difference(self.losses[condition][answer], self.oracles[condition][1])

    def mean_regret(self, answer: str) -> st.Estimate:
        """Mean over the conditions but `TUNED`, with an interval over seeds, which the conditions share."""
        others = [condition for condition in self.losses if condition != TUNED]
        own = np.mean([self.losses[condition][answer] for condition in others], axis=0)
        best = np.mean([self.oracles[condition][1] for condition in others], axis=0)
        return st.paired_difference(own, best)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
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
                        "losses": [finite(loss) for loss in best.tolist()],
                    },
                    "answers": {
                        name: {
                            "regret": self.regret(condition, name).to_json(),
                            "losses": [finite(loss) for loss in self.losses[condition][name].tolist()],
                        }
                        for name in self.planners
                    },
                }
                for condition, (oracle, best) in self.oracles.items()
            },
        }

    def text(self) -> str:
        """The table of regrets, the lowest mean first, as Markdown."""
        means = {name: self.mean_regret(name) for name in self.planners}
        regrets = {(c, name): self.regret(c, name) for c in self.losses for name in self.planners}
        decimals = decimals_of([*regrets.values(), *means.values()])
        lines = [
            "| answer | mean | " + " | ".join(self.losses) + " |",
            "|---|---:" + "|---:" * len(self.losses) + "|",
        ]
        for name in sorted(means, key=lambda name: np.nan_to_num(means[name].value, nan=np.inf)):
            of_each = {c: np.isinf([losses[name], self.oracles[c][1]]).sum(1) for c, losses in self.losses.items()}
            some = any(own or tuned for own, tuned in of_each.values())
            mean = "some diverged" if some else estimate_text(means[name], decimals, sign=True)
            cells = (
                f"{own} of {len(self.seeds)} diverged"
                if own
                else f"{tuned} of {len(self.seeds)} of the tuned one diverged"
                if tuned
                else estimate_text(regrets[condition, name], decimals, sign=True)
                for condition, (own, tuned) in of_each.items()
            )
            lines.append(f"| {name} | {mean} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def heading(self) -> str:
        """What the table tells."""
        return (
            f"Test loss on {self.task}, in nats/example, above that of the WSD schedule that was tuned for the "
            f"condition: mean of {seeds_text(len(self.seeds))}, paired, 95 % intervals. All planners were tuned on the "
            "task as it is, where regret is to the answer with the lowest validation loss, "
            f"{self.oracles[TUNED][0].name}; the mean is over the other conditions."
        )

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write conditions.json and summary.md."""
        write_text(folder / "conditions.json", json.dumps({**self.to_json(), **made}, indent=1) + "\n")
        parts = (f"# {self.task} off the path", self.heading(), self.text(), f"`{made['command']}`")
        write_text(folder / "summary.md", "\n\n".join(parts) + "\n")

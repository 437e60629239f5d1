"""How much a planner makes of the rate that it starts from, beside leaving that rate alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.capabilities import OwnOptimizer, fingerprint
from lr_env.children.autotune import choose_backend
from lr_env.children.children import check_seeds
from lr_env.children.numerics import EXACT
from lr_env.errors import UserError, refuse_duplicates
from lr_env.records.record import RunRecord
from lr_env.registry import check_settings, find_planner, has_peak, make_planner
from lr_env.report.curves import curve_of, draw_loss, draw_rate, log_axes, loss_limits, rate_limits
from lr_env.report.files import write_json_and_figure
from lr_env.report.formatting import seeds_text
from lr_env.report.plotting import TEXT, caption, colormaps, new_figure, own_style, save
from lr_env.rollout import rollout
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate
from lr_env.stats.paired_runs import run_scores
from lr_env.tasks import Task

Floats = NDArray[np.float64]

CONSTANT = "constant"


@dataclass(frozen=True)
class Start:
    """Runs from one rate.

    Attributes:
        rate: where they start.
        runs: the planner's, one a seed.
        left_alone: those in which that rate is kept, on the same seeds.
    """

    rate: float
    runs: Sequence[RunRecord]
    left_alone: Sequence[RunRecord]

    @property
    def losses(self) -> Floats:
        """Test losses of the planner's runs, (seeds,), nats per example; infinite where one diverged."""
        return run_scores(self.runs, "test_loss")

    @property
    def constant_losses(self) -> Floats:
        """Those of the runs in which the rate is kept."""
        return run_scores(self.left_alone, "test_loss")


@dataclass(frozen=True)
class Starts:
    """What a planner makes of several rates.

    Attributes:
        task, planner: names.
        settings: of the planner, besides the rate.
        seeds: of the runs.
        starts: one a rate, in increasing order.
        fingerprint: of what the planner depends on besides its settings, such as a policy.
        backend: that trained all children.
    """

    task: str
    planner: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    starts: tuple[Start, ...]
    fingerprint: str | None = None
    backend: str = ""

    @property
    def rows(self) -> list[tuple[str, Estimate, Estimate, Estimate]]:
        """For every rate, and for the mean over rates: its name and three estimates over seeds.

        They are mean test losses of the planner and of the rate that is kept, and their paired difference.
        """
        losses = np.array([[start.losses, start.constant_losses] for start in self.starts])
        names = [*(f"{start.rate:g}" for start in self.starts), "mean"]
        return [
            (name, st.mean_interval(ours), st.mean_interval(kept), st.paired_difference(ours, kept))
            for name, (ours, kept) in zip(names, [*losses, losses.mean(axis=0)], strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "task": self.task,
            "planner": self.planner,
            "settings": dict(self.settings),
            "fingerprint": self.fingerprint,
            "backend": self.backend,
            "seeds": list(self.seeds),
            "starts": [
                {
                    "rate": name,
                    "test_loss": ours.to_json(),
                    "test_loss_of_constant": kept.to_json(),
                    "difference": difference.to_json(),
                    "verdict": st.verdict(difference),
                }
                for name, ours, kept, difference in self.rows
            ],
        }

    def write(self, folder: Path, made: Mapping[str, Any]) -> None:
        """Write starts.json and starts.png."""
        write_json_and_figure(folder, "starts", {**self.to_json(), **made}, self.draw)

    @own_style()
    def draw(self, path: Path) -> None:
        """Rates and validation losses from every start, beside those of the rate that is kept, as a PNG.

        Runs that diverged are taken as in `lr_env.studies.comparison.figures.draw_curves`.
        """
        figure = new_figure(11.5, 4.4, f"{self.task}: {self.planner} from {len(self.starts)} rates")
        left, right = figure.subplots(1, 2)
        ours = [curve_of(f"from {start.rate:g}", start.runs) for start in self.starts]
        kept = [curve_of(f"{start.rate:g} kept", start.left_alone) for start in self.starts]
        end = max(float(curve.steps[-1]) for curve in (*ours, *kept))
        log_axes(left, (0.0, end), rate_limits([*ours, *kept]))
        log_axes(right, (0.0, end), loss_limits([*ours, *kept], 0.0))
        colours = colormaps["viridis"](np.linspace(0, 0.85, len(ours)))  # rates in their order, however many
        for colour, *pair in zip(colours, ours, kept, strict=True):
            for curve, dashes in zip(pair, ("-", ":"), strict=True):
                style = {"color": colour, "linestyle": dashes, "linewidth": 1.6}
                draw_rate(left, curve, style, band=dashes == "-")
                draw_loss(right, curve, style, band=dashes == "-")
            right.plot([], [], color=colour, label=pair[0].label)
        left.set_ylabel("learning rate", fontsize=11, color=TEXT)
        right.set_ylabel("validation loss [nats/example]", fontsize=11, color=TEXT)
        right.plot([], [], ":", color="#555555", label="that rate kept")
        right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
        caption(left, f"median and quartiles of {seeds_text(len(self.seeds))}")
        if any(curve.diverged for curve in (*ours, *kept)):
            caption(right, "a run that diverged is infinitely bad from there on; cross: where")
        save(figure, path)


def starts(
    task: Task,
    planner: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str, int], None] | None = None,
    **how: Any,
) -> Starts:
    """Run a planner from several rates, and each rate kept, on the same seeds; score test data once.

    Args:
        task: what is trained.
        planner: its name.
        rates: to start from; a planner's `peak`.
        seeds: of the runs.
        settings: of the planner, besides the rate.
        progress: told (what is going on, child steps done since the last call).
        how: device, backend and numerics, as for `rollout`.

    Raises:
        UserError: bad settings or seeds, a rate outside the task's range, or a planner with an optimizer of its own.
    """
    if isinstance(find_planner(planner), OwnOptimizer):
        raise UserError(
            f"planner {planner!r} brings an optimizer of its own, but rates are kept under the task's beside it: use "
            "`lr-env compare`"
        )
    if not has_peak(planner):
        raise UserError(f"planner {planner!r} has no rate that it starts from: take one that has a peak")
    check_seeds(seeds)
    refuse_duplicates("seed", seeds)
    own = dict(settings or {})
    check_settings(planner, own)
    if "peak" in own:
        raise UserError(f"planner {planner!r}: peak is the rate that is varied, give rates in its place")
    if not len(rates):  # which may be an array
        raise UserError("give at least one rate")
    planned = [
        (make_planner(planner, {**own, "peak": rate}), make_planner(CONSTANT, {"peak": rate}))
        for rate in sorted(set(rates))
    ]
    how = {"device": "cpu", "backend": "auto", "numerics": EXACT} | how
    if isinstance(how["backend"], str):  # one for all: by another, the same rates give other runs
        device, numerics, child_steps = how["device"], how["numerics"], 2 * len(planned) * len(seeds) * task.budget
        how["backend"] = choose_backend(
            how["backend"], task, len(seeds), device, torch.float32, numerics, child_steps=child_steps
        )
    found = []
    for rate, pair in zip(sorted(set(rates)), planned, strict=True):
        runs = []
        for setting in pair:
            runs.append(rollout(setting, task, seeds, score=("test",), **how))
            if progress:
                progress("running", len(seeds) * task.budget)
        found.append(Start(float(rate), *runs))
    return Starts(task.name, planner, own, tuple(seeds), tuple(found), fingerprint(planned[0][0]), str(how["backend"]))

"""The forecasts of a planner at its plans during a run, compared with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import Explainable, PlanForecast, fingerprint
from lr_env.children import LOOP, Execution
from lr_env.errors import UserError
from lr_env.files import json_number, json_numbers
from lr_env.planner import Planner
from lr_env.registry import find_planner, planner_names
from lr_env.report.plotting import MORE_COLOURS, caption, log_scale, new_figure, own_style, plain, save
from lr_env.rollout import PlannedRun, Rollout
from lr_env.runs.resumable import Resumable
from lr_env.tasks import Task

Floats = NDArray[np.float64]

_NAMED = 10
"""Plans that the legend names at most."""


@dataclass(frozen=True, eq=False)
class Explained:
    """A run and the planner's forecasts during it.

    Attributes:
        task: its name.
        planner: name of the planner.
        seed: of the run.
        segment: optimizer steps of a segment.
        lr: rates of the run, (segments,).
        val_loss: validation loss measured after each segment, nats per example, (segments,).
        final_val_loss: on the whole validation split at the end; NaN if the run diverged.
        beliefs: forecasts, one a plan.
    """

    task: str
    planner: str
    seed: int
    segment: int
    lr: Floats
    val_loss: Floats
    final_val_loss: float
    beliefs: Sequence[PlanForecast]

    def to_json(self) -> dict[str, Any]:
        """The run and, of each plan, the rates that were chosen and the losses that were predicted for them."""
        return {
            "planner": self.planner,
            "seed": self.seed,
            "segment": self.segment,
            "lr": json_numbers(self.lr.tolist()),
            "val_loss": json_numbers(self.val_loss.tolist()),
            "final_val_loss": json_number(self.final_val_loss),
            "plans": [
                {
                    "segment": belief.segment,
                    "considered": len(belief.rates),
                    "rates": json_numbers(belief.rates[0].tolist()),
                    "steps": json_numbers(belief.steps.tolist()),
                    "losses": json_numbers(belief.losses[:, 0].tolist()),
                    "note": belief.note,
                    "final_interval": belief.final_interval and list(belief.final_interval),
                }
                for belief in self.beliefs
                if len(belief.rates)
            ],
        }

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw plans and forecasts, a colour for each plan, over the run in black, as a PNG."""
        figure = new_figure(11, 4.6, f"{self.task}: what {self.planner} believed")
        left, right = figure.subplots(1, 2)
        steps = self.segment * (np.arange(len(self.lr)) + 1)
        for axes in (left, right):
            plain(axes)
            axes.set_xlabel("optimizer step")
        for number, belief in enumerate(self.beliefs):
            if not len(belief.rates):
                continue
            colour, at = MORE_COLOURS[number % (len(MORE_COLOURS) - 1)], belief.segment * self.segment
            ahead = at + self.segment * (np.arange(belief.rates.shape[1]) + 1)
            for row in belief.rates[1:]:
                left.plot(ahead, row, color=colour, linewidth=0.5, alpha=0.35)
            name = f"at step {at}" if number < _NAMED else None
            left.plot(ahead, belief.rates[0], color=colour, linewidth=1.4, label=name)
            of_models = belief.losses[:, 0]
            right.plot(belief.steps, of_models.mean(0), color=colour, linewidth=1.4)
            right.fill_between(belief.steps, of_models.min(0), of_models.max(0), color=colour, alpha=0.2, linewidth=0)
            if belief.final_interval is not None:
                place = steps[-1] * (1.02 + 0.08 * number / len(self.beliefs))
                right.plot([place] * 2, belief.final_interval, color=colour, linewidth=3.0, solid_capstyle="butt")
        right.plot(steps[-1], self.final_val_loss, "D", color="#000000", markersize=5, label="on the whole split")
        left.plot(steps, self.lr, color="#000000", linewidth=2.0, linestyle=(0, (4, 1.2)), label="played")
        right.plot(steps, self.val_loss, color="#000000", linewidth=0.9, label="measured on the subset")
        log_scale(right, "y")
        bars = [belief.final_interval for belief in self.beliefs if belief.final_interval is not None]
        known = np.concatenate([self.val_loss, [self.final_val_loss], np.ravel(bars)])
        known = known[np.isfinite(known)]
        if len(known):
            right.set_ylim(known.min() * 0.95, max(np.quantile(known, 0.9), known.min() * 1.2))
        left.set_ylabel("learning rate")
        right.set_ylabel("validation loss [nats/example]")
        left.legend(frameon=False, fontsize=8)
        right.legend(frameon=False, fontsize=8)
        caption(left, "bold: the plan, thin: others considered")
        caption(right, "line, band: mean and range of models; bars: 90 % of ends")
        save(figure, path)


def explained(
    planner: Planner,
    task: Task,
    seed: int,
    execution: Execution = LOOP,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> Explained:
    """Make a run and collect the planner's forecasts.

    Args:
        planner: one that has `explain`.
        task: what is trained.
        seed: of the run.
        execution: how the child is trained.
        checkpoint: file from which the same run goes on after a kill; None to keep none.
        checkpoint_seconds: wall time between two checkpoints.

    Raises:
        UserError: the planner cannot tell what it believes.
    """
    check_explains(planner, planner.name)
    run = PlannedRun(planner, seed)
    study = {"planner": planner.name, "settings": run.settings, "fingerprint": fingerprint(planner), "seed": seed}
    planners: dict[str, type] = {planner.name: type(planner)}
    work = Resumable(checkpoint, task, study, execution, 1, checkpoint_seconds, planners)
    rollout = Rollout(task, [run], score=("val",), execution=work.execution)
    lr, losses = [], []

    def restore(saved: Any) -> None:
        rollout.restore(saved["rollout"])
        lr.extend(saved["lr"])
        losses.extend(saved["losses"])

    work.resume(restore)
    while not rollout.done:
        for _, signals in rollout.advance():
            lr.append(signals["lr"])
            losses.append(signals["val_loss"])
        work.offer(lambda: {"rollout": rollout.snapshot(), "lr": lr, "losses": losses})
    work.done()
    beliefs = rollout.explain(0)
    final = rollout.record(0, "explained").scores.get("final_val_loss", np.nan)
    val_loss = np.array(losses, dtype=np.float64)
    return Explained(task.name, planner.name, seed, task.segment, np.array(lr), val_loss, float(final), beliefs)


def check_explains(planner: Planner | type[Planner], name: str) -> None:
    """Check that a planner, or its class, can explain its plans.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(planner, Explainable):
        able = [other for other in planner_names() if isinstance(find_planner(other), Explainable)]
        raise UserError(f"planner {name!r} does not tell what it believes (these do: {', '.join(able)})")

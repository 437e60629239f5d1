"""Fitting of a model to imported runs for `lr-env fit --runs-of`, and the report on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.records.readers.base import ImportedRun
from lr_env.report.files import write_json_and_figure
from planners.latent_ode.artifact import LR_RANGE, MEASURED, RUNS_OF, SEGMENT
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.data.imported import SAME_RATE, ImportedData, imported_data
from planners.latent_ode.fit_report import FITS, Report, check_kind
from planners.latent_ode.sweep.sweep import check_seed

SAME_LOSS = 1e-6
"""Runs end with the same loss if all its logs differ by less than this."""


@dataclass(frozen=True, eq=False)
class ImportedReport(Report):
    """The report on a model of imported runs.

    Attributes:
        data: what the model was fitted to.
        limit: what the model cannot know, as a sentence; empty where nothing in particular.
    """

    data: ImportedData | None = None
    limit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the content of fit.json."""
        assert self.data is not None
        return {
            **super().to_json(),
            "run_ids": list(self.data.run_ids),
            "notes": list(self.data.notes),
            "limit": self.limit,
        }

    def text(self) -> str:
        """Return what the model was fitted to, and the table of forecasts."""
        assert self.data is not None
        about, data, lines = self.fitted.about, self.data, super().text().splitlines()
        measured = {name: about[MEASURED].get(name, 0.0) for name in CHANNELS}
        channels = (f"{name} {f'{100 * share:.0f} %' if share else 'never'}" for name, share in measured.items())
        low, high = about[LR_RANGE]
        return "\n".join(
            [
                f"Runs of {about[RUNS_OF]!r}: {self.usable}, of which {int(data.whole.sum())} last for "
                f"{about['budget']:,} steps, with {len(data.schedules)} schedules and rates from {low:.3g} to "
                f"{high:.3g}.",
                f"A point each {data.segment:,} steps; measured there: {', '.join(channels)}.",
                *(f"{note}." for note in data.notes),
                *([self.limit] if self.limit else []),
                *lines,
            ]
        )

    def usage(self, file: Path) -> str:
        """Return the lines of Python that use the model in someone's own training."""
        about = self.fitted.about
        return "\n".join(
            [
                "from planners import LatentODE",
                "from planners.torch_scheduler import PlannerLR",
                f'planner = LatentODE(model="{file}")',
                f"scheduler = PlannerLR(optimizer, planner, budget={about['budget']}, segment={about[SEGMENT]})",
                "# after each optimizer step:",
                f"scheduler.observe({', '.join(f'{name}=...' for name in about[MEASURED])})  # what is at hand",
                "scheduler.step()",
            ]
        )

    def write(self, folder: Path) -> None:
        """Write model.safetensors, fit.json and fit.png into an existing folder; the runs stay in the store."""
        self.fitted.save(folder / "model.safetensors")
        write_json_and_figure(folder, "fit", self.to_json(), self.draw)


@isolating
def fit_imported(
    runs: Sequence[ImportedRun],
    name: str,
    *,
    budget: int | None = None,
    segment: int | None = None,
    members: int = 5,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> ImportedReport:
    """Fit a model to imported runs, all of one training task.

    Args:
        runs: the runs; only their rates, losses and accuracies are used.
        name: the name that they were imported under.
        budget: optimizer steps of a whole run, see `imported_data`.
        segment: optimizer steps between two points, see `imported_data`.
        members: members of the ensemble.
        seed: seed of the fit.
        about: provenance that is saved with the model.

    Raises:
        UserError: the runs do not show what a rate does, see `imported_data` and `limit_of`; or the fit diverged.
    """
    check_kind("controlled", members)
    check_seed(seed)
    data = imported_data(runs, budget, segment)
    limit, dataset = limit_of(data), data.dataset
    usable = set(data.run_ids)
    rates = np.concatenate([dataset.lr[row, :count] for row, count in enumerate(dataset.lengths)])
    about = {
        RUNS_OF: name,
        "budget": dataset.budget,
        "child_steps": sum(run.steps for run in runs if run.run_id in usable),
        SEGMENT: data.segment,
        LR_RANGE: [float(rates.min()), float(rates.max())],
        MEASURED: data.measured,
        **(about or {}),
    }
    report = FITS["controlled"](dataset, members, seed, about)
    fields = {name: getattr(report, name) for name in ("fitted", "history", "final", "forecasts", "usable", "diverged")}
    return ImportedReport(**fields, left_out=data.left_out, data=data, limit=limit)


def limit_of(data: ImportedData) -> str:
    """Say what runs cannot show because their schedules are too much alike; empty where they are not.

    Raises:
        UserError: all whole runs have the same schedule, so that no plan could differ from it, or end with the same
            loss, so that none could be better.
    """
    schedules, count = data.schedules, int(data.whole.sum())
    peaks = np.exp(schedules.max(1))
    if len(schedules) == 1:
        constant = np.ptp(schedules[0]) < SAME_RATE
        ends = np.exp(data.dataset.final[np.isfinite(data.dataset.final)])
        spread = f"{ends.min():.4g} to {ends.max():.4g}" if len(ends) else "unknown"
        raise UserError(
            f"all {count} whole runs have one {'constant rate' if constant else 'schedule, with the peak'} "
            f"{peaks[0]:.3g}: they show how such runs end (at {spread}), but not what another rate would do, so no "
            "model is written: log runs with other rates and schedules"
        )
    final = data.dataset.final[np.isfinite(data.dataset.final)]
    if len(final) > 1 and np.ptp(final) < SAME_LOSS:
        raise UserError(
            f"all {count} whole runs end with the validation loss {np.exp(final[0]):.4g}, so that no rate is better "
            "than another, and no model is written: if another number is the loss, import the runs anew with --names "
            "val_loss=NAME"
        )
    shapes = schedules - schedules.mean(1, keepdims=True)
    if np.abs(shapes - shapes[0]).max() < SAME_RATE:
        return (
            f"All {len(schedules)} schedules have one shape, with peaks from {peaks.min():.3g} to {peaks.max():.3g}: "
            "they show which peak is best, and other shapes are extrapolated; log runs with others to learn those."
        )
    return ""

"""Fitting of models for `lr-env fit`, and the report on how well they forecast the ends of held-out runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import OwnOptimizer
from lr_env.errors import UserError, unknown
from lr_env.files import json_number
from lr_env.isolation import isolating
from lr_env.objectives import VAL_LOSS, Objective, check_has_curve
from lr_env.records.record import RunRecord, run_key
from lr_env.records.tables import write_runs
from lr_env.registry import find_planner, setting_defaults
from lr_env.report.files import write_json_and_figure
from lr_env.report.plotting import TEXT, caption, distinct_style, new_figure, own_style, plain, save
from lr_env.runs.lab import Lab
from lr_env.signals import group_signal
from lr_env.tasks import Task
from planners.latent_ode.artifact import KINDS_OF, OBJECTIVE, RUNS_OF, FittedModel
from planners.latent_ode.channels import Floats
from planners.latent_ode.data.dataset import RunDataset, run_dataset
from planners.latent_ode.fitting.baselines import BASELINES, Quality, quality
from planners.latent_ode.fitting.fit import SHARES, Fitting, check_members
from planners.latent_ode.fitting.fit_artifact import ends_near_best, fit_artifact
from planners.latent_ode.generative.fit import CurveTensors, GenerativeFitting, decode_final_losses
from planners.latent_ode.model.dynamics import Sizes
from planners.latent_ode.model.early_stopping import LossHistory
from planners.latent_ode.sweep.sweep import Sweep, check_seed, sweep

__all__ = ["Report", "Sweep", "fit_records", "fit_sweep", "report"]

MODEL = "latent ODE"

PLANNERS = {"controlled": "latent-ode", "generative": "latent-ode-generative"}
"""Kind of model -> name of the planner that uses it."""


@dataclass(frozen=True, eq=False)
class Report:
    """A fitted model, and how well it forecasts the ends of runs.

    Each run is forecast by the member of the ensemble that held it out; baselines know the runs that this member was
    fitted to. Only runs that ended near the best count (see `ends_near_best`).

    Attributes:
        fitted: the model.
        history: losses during the fit.
        final: log final losses of the runs that count, (runs,).
        forecasts: method -> its forecasts of these, (shares, runs).
        usable, diverged: number of runs that the model was fitted to, and of those of them that diverged.
        left_out: reason for which runs were left out -> number of runs.
        records: the runs.
        task: settings of the task; empty if they are not known.
    """

    fitted: FittedModel
    history: LossHistory
    final: Floats
    forecasts: Mapping[str, Floats]
    usable: int
    diverged: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    records: tuple[RunRecord, ...] = ()
    task: Mapping[str, Any] = field(default_factory=dict)

    @property
    def qualities(self) -> dict[str, list[Quality]]:
        """Method -> quality of its forecasts after each of `SHARES`."""
        return {name: [quality(row, self.final) for row in rows] for name, rows in self.forecasts.items()}

    @property
    def planner(self) -> str:
        """Name of the planner that uses the model."""
        return PLANNERS[KINDS_OF[type(self.fitted.model)]]

    def to_json(self) -> dict[str, Any]:
        """Return the content of fit.json."""
        return {
            **self.fitted.about,
            "fingerprint": self.fitted.fingerprint,
            "usable_runs": self.usable,
            "diverged_runs": self.diverged,
            "left_out_runs": dict(self.left_out),
            "forecasts": [
                {
                    "method": name,
                    "share": share,
                    "error": json_number(q.error),
                    "rank": json_number(q.rank),
                    "runs": q.runs,
                }
                for name, qualities in self.qualities.items()
                for share, q in zip(SHARES, qualities, strict=True)
            ],
            "history": [
                {"phase": phase, "iteration": at, "loss": json_number(loss), "held_out": json_number(held_out)}
                for phase, at, loss, held_out in self.history
            ],
        }

    def text(self) -> str:
        """Return the table of forecasts."""
        left_out = [f"{count} {'run' if count == 1 else 'runs'}: {why}" for why, count in self.left_out.items()]
        fitted_to = f"Fitted to {self.usable} runs ({self.diverged} diverged)."
        lines = [f"Left out {'; '.join(left_out)}."] if left_out else []
        if not len(self.final):
            return "\n".join(
                [*lines, f"{fitted_to} No run that ended near the best was held out: forecasts are not measured."]
            )
        lines += [
            f"{fitted_to} Forecasts of the log final validation loss of {len(self.final)} runs held out,",
            "made after a share of the run: root mean square error, and rank correlation with the true losses.",
            f"{'':14}" + "".join(f"{f'after {100 * share:.0f} %':>16}" for share in SHARES),
        ]
        for name, qualities in self.qualities.items():
            lines.append(f"{name:14}" + "".join(f"{q.error:9.4f} {q.rank:+6.2f}" for q in qualities))
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write model.safetensors, runs.parquet, fit.json and fit.png into an existing folder."""
        self.fitted.save(folder / "model.safetensors")
        write_runs(self.records, folder / "runs.parquet", self.task)
        write_json_and_figure(folder, "fit", self.to_json(), self.draw)

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw errors over the share of the run that is over, and forecast against true losses, as a PNG."""
        about = self.fitted.about
        figure = new_figure(11, 4.4, f"{about.get('task', about.get(RUNS_OF, ''))}: forecasts of final losses")
        left, right = figure.subplots(1, 2)
        plain(left)
        for number, (name, qualities) in enumerate(self.qualities.items()):
            style = distinct_style(number)
            shares = [100 * share for share in SHARES]
            left.plot(shares, [q.error for q in qualities], marker="o", label=name, **style)
        left.set_yscale("log")
        left.set_xlabel("share of the run that is over [%]")
        left.set_ylabel("error of the log final loss")
        left.legend(frameon=False, fontsize=9)
        caption(left, f"root mean square over {len(self.final)} held-out runs")
        plain(right)
        ends = np.exp(self.final)
        for share, row in zip(SHARES, self.forecasts[MODEL], strict=True):
            right.plot(ends, np.exp(row), "o", markersize=3, label=f"after {100 * share:.0f} %")
        if len(ends):
            limits = [float(ends.min()), float(ends.max())]
            right.plot(limits, limits, "-", color="#888888", linewidth=0.8)
        unit = "" if RUNS_OF in about else " [nats/example]"  # no log says what its losses are
        right.set_xlabel(f"final validation loss{unit}", color=TEXT)
        right.set_ylabel(f"forecast of the {MODEL}", color=TEXT)
        right.legend(frameon=False, fontsize=9)
        caption(right, "line: perfect forecasts")
        save(figure, path)


Splits = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Pairs of the indices of held-out runs, and of the runs that their forecasts were fitted to."""


def report(dataset: RunDataset, fitted: FittedModel, history: LossHistory, splits: Splits, forecast: Floats) -> Report:
    """Compare the forecasts of a model with the truth, and with baselines.

    Args:
        dataset: runs of the sweep.
        fitted: the model that was fitted to them.
        history: losses during the fit.
        splits: which runs were held out; other runs do not count.
        forecast: log final losses by the model after each of `SHARES`, (shares, runs).
    """
    forecasts = {MODEL: forecast} | {name: np.full((len(SHARES), len(dataset)), np.nan) for name in BASELINES}
    held_out = np.zeros(len(dataset), dtype=bool)
    for rows, fitted_to in splits:
        held_out[rows] = True
        for name, baseline in BASELINES.items():
            runs, complete = dataset.select(rows), dataset.select(fitted_to)
            forecasts[name][:, rows] = [baseline(runs, complete, fitted.scales, share) for share in SHARES]
    counted = held_out & ends_near_best(dataset)
    return Report(
        fitted,
        tuple(history),
        dataset.final[counted],
        {name: rows[:, counted] for name, rows in forecasts.items()},
        len(dataset),
        int(dataset.diverged.sum()),
    )


def _controlled(dataset: RunDataset, members: int, seed: int, about: Mapping[str, Any]) -> Report:
    fitted, fit = fit_artifact(dataset, Fitting(sizes=Sizes(members=members), seed=seed), about)
    masks = [fit.held_out_member == member for member in range(members)]
    splits = [(np.flatnonzero(held_out), np.flatnonzero(~held_out)) for held_out in masks]
    return report(dataset, fitted, fit.history, splits, fit.forecast)


def _generative(dataset: RunDataset, members: int, seed: int, about: Mapping[str, Any]) -> Report:
    fitting = GenerativeFitting(seed=seed)
    fitted, fit = fit_artifact(dataset, fitting, about)
    fitted_to = np.setdiff1d(np.arange(len(dataset)), fit.held_out)
    curves = CurveTensors(dataset, fit.scales, fitting.nodes)
    forecast = decode_final_losses(fit.model, curves, fit.scales, SHARES)
    return report(dataset, fitted, fit.history, [(fit.held_out, fitted_to)], forecast)


FITS: Mapping[str, Callable[[RunDataset, int, int, Mapping[str, Any]], Report]] = {
    "controlled": _controlled,
    "generative": _generative,
}
"""Kind of model -> function that fits it, of (runs, members, seed, provenance)."""


def about_runs(task: Task, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what is saved with a model about the runs that it was fitted to."""
    objective = Objective.of(task)
    return {
        "task": task.name,
        "budget": task.budget,
        "optimizer": type(task.optimizer).__name__,
        "child_steps": sum(record.child_steps for record in records),
        **({OBJECTIVE: objective.to_json()} if objective != VAL_LOSS else {}),
    }


def usable_of(records: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[str, int]]:
    """Select the runs that show how the task's optimizer responds to its rate, and count the others by reason."""
    usable, left_out = [], Counter()
    for record in records:
        if why := _unusable(record):
            left_out[why] += 1
        else:
            usable.append(record)
    return usable, dict(left_out)


def _unusable(record: RunRecord) -> str:
    """Say why a run cannot be fitted to; empty if it can."""
    if record.status != "finished":
        return "not finished"
    if not record.curves:
        return "no curves"
    if _has_own_optimizer(record):
        return f"under the optimizer that {record.planner} brings along"
    if not record.diverged and len(record.curves.get("lr", (0, 0))) < 2:
        return "a single point"
    if any(name.startswith(group_signal("")) for name in record.curves):
        return "with a rate of its own for each group of parameters"
    return ""


def _has_own_optimizer(record: RunRecord) -> bool:
    """Check whether a planner of this package made the run with an optimizer of its own.

    A log of somebody else may have the planner's name, but not its settings: its run used the optimizer of the task.
    """
    try:
        kind = find_planner(record.planner)
    except UserError:
        return False
    return isinstance(kind, OwnOptimizer) and record.settings.keys() == setting_defaults(record.planner).keys()


@isolating
def fit_records(
    records: Sequence[RunRecord],
    task: Task,
    *,
    kind: str = "controlled",
    members: int = 5,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Report:
    """Fit a model to existing runs.

    Args:
        records: runs of the task, with curves; some may be shorter than its budget.
        task: the task.
        kind: kind of model, a name in `FITS`.
        members: members of the ensemble, for the kind "controlled".
        seed: seed of the fit.
        about: provenance that is saved with the model.

    Raises:
        UserError: there is no such kind or seed, too few runs are usable, or the fit diverged.
    """
    check_kind(kind, members)
    check_seed(seed)
    check_has_curve(Objective.of(task), "a model of training")
    usable, left_out = usable_of(records)
    usable = sorted(usable, key=run_key)  # the model does not depend on their order
    about = {**about_runs(task, usable), **(about or {})}
    try:
        seen = [Objective.of(task).as_loss(run) for run in usable]
        result = FITS[kind](run_dataset(seen, task.budget), members, seed, about)
    except UserError as error:
        reasons = "".join(f"; {count} left out: {why}" for why, count in left_out.items())
        raise UserError(f"{error}{reasons}") from error
    return replace(result, left_out=left_out, records=tuple(usable), task=task.settings())


def check_kind(kind: str, members: int, runs: int | None = None) -> None:
    """Check that there is such a kind of model, and that it may have so many members.

    Raises:
        UserError: there is not, or it may not, see `check_members`.
    """
    if kind not in FITS:
        raise unknown("kind of model", kind, FITS)
    if kind == "controlled":
        check_members(members, runs)


@isolating
def fit_sweep(
    settings: Sweep,
    lab: Lab,
    *,
    kind: str = "controlled",
    members: int = 5,
    about: Mapping[str, Any] | None = None,
) -> Report:
    """Run a sweep, or what is left of it, and fit a model to its runs.

    Args:
        settings: which runs.
        lab: the task, and where the runs are saved.
        kind: kind of model, a name in `FITS`.
        members: members of the ensemble, for the kind "controlled".
        about: provenance that is saved with the model.

    Raises:
        UserError: the sweep cannot run, see `planners.latent_ode.sweep.sweep.sweep`; there is no such kind; there are
            more members than runs; rates are outside the task's range; or the fit diverged.
    """
    check_kind(kind, members, settings.runs)
    check_has_curve(Objective.of(lab.task), "a model of training")
    low, high = lab.task.lr_range
    if not low <= settings.rates[0] < settings.rates[1] <= high:
        raise UserError(f"rates {settings.rates[0]:g}:{settings.rates[1]:g}: the task's range is {low:g} to {high:g}")
    records = sweep(settings, lab)
    about = {"sweep": asdict(settings), **(about or {})}
    return fit_records(records, lab.task, kind=kind, members=members, seed=settings.seed, about=about)

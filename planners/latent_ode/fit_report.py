"""How well a fitted model foresees the ends of runs that it was not fitted to, beside simple rivals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from lr_env.runs.study import Study
from numpy.typing import NDArray

from lr_env.capabilities import OwnOptimizer
from lr_env.errors import UserError, unknown
from lr_env.files import finite
from lr_env.isolation import isolating
from lr_env.records.record import RunRecord, run_key
from lr_env.records.tables import write_runs
from lr_env.registry import find_planner, setting_defaults
from lr_env.report.files import write_json_and_figure
from lr_env.report.plotting import TEXT, caption, distinct_style, new_figure, own_style, plain, save
from lr_env.tasks import Task
from planners.latent_ode.artifact import KINDS_OF, Trained
from planners.latent_ode.data.dataset import Floats, Series, series
from planners.latent_ode.fitting.baselines import RIVALS, Quality, quality
from planners.latent_ode.fitting.fit import SHARES, Fitting, check_members
from planners.latent_ode.fitting.fit_artifact import near_best, trained_on
from planners.latent_ode.generative.fit import Curves, GenerativeFitting, decoded_final
from planners.latent_ode.model.dynamics import Sizes
from planners.latent_ode.model.early_stopping import History
from planners.latent_ode.sweep.sweep import Sweep, check_seed, sweep

__all__ = ["Report", "Sweep", "fit_records", "fit_sweep", "report"]

MODEL = "latent ODE"

PLANNERS = {"controlled": "latent-ode", "generative": "latent-ode-generative"}
"""Kind of model -> planner."""


@dataclass(frozen=True, eq=False)
class Report:
    """A model and what it foresees.

    Each run is foreseen by the member of the ensemble that it was held out from; rivals know the runs that this member
    was fitted to. Only runs count that ended near the best (see `planners.latent_ode.data.schedule_library.TRUSTED`):
    it is there that plans lie, and the ends of the others are easy to tell apart.

    Attributes:
        trained: the model.
        history: of the fit, see `Fitted`.
        final: log final loss of the runs that count, (runs,).
        foreseen: method -> the same as it foresees them, (shares, runs).
        usable, diverged: runs that the model was fitted to, and how many of those diverged.
        left_out: why runs were left out -> how many were.
        records: the runs.
        task: what was trained, see `Task.settings`; empty if that is not known.
    """

    trained: Trained
    history: tuple[tuple[str, int, float, float], ...]
    final: Floats
    foreseen: Mapping[str, Floats]
    usable: int
    diverged: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    records: tuple[RunRecord, ...] = ()
    task: Mapping[str, Any] = field(default_factory=dict)

    @property
    def qualities(self) -> dict[str, list[Quality]]:
        """Method -> how good its forecasts are, for each of `SHARES`."""
        return {name: [quality(row, self.final) for row in rows] for name, rows in self.foreseen.items()}

    @property
    def planner(self) -> str:
        """Name of the planner that plays by it."""
        return PLANNERS[KINDS_OF[type(self.trained.model)]]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            **self.trained.about,
            "fingerprint": self.trained.fingerprint,
            "usable_runs": self.usable,
            "diverged_runs": self.diverged,
            "left_out_runs": dict(self.left_out),
            "forecasts": [
                {"method": name, "share": share, "error": finite(q.error), "rank": finite(q.rank), "runs": q.runs}
                for name, found in self.qualities.items()
                for share, q in zip(SHARES, found, strict=True)
            ],
            "history": [
                {"phase": phase, "iteration": at, "loss": finite(loss), "held_out": finite(held)}
                for phase, at, loss, held in self.history
            ],
        }

    def text(self) -> str:
        """The table of forecasts."""
        qualities = self.qualities
        left_out = [f"{count} {'run' if count == 1 else 'runs'}: {why}" for why, count in self.left_out.items()]
        lines = [
            *([f"Left out {'; '.join(left_out)}."] if left_out else []),
            f"Fitted to {self.usable} runs ({self.diverged} diverged). Error of the log of the final validation loss, "
            f"and rank correlation, on {len(self.final)} runs held out:",
            f"{'':14}" + "".join(f"{f'after {100 * share:.0f} %':>16}" for share in SHARES),
        ]
        for name, found in qualities.items():
            lines.append(f"{name:14}" + "".join(f"{q.error:9.4f} {q.rank:+6.2f}" for q in found))
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write model.safetensors, runs.parquet, fit.json and fit.png into a folder that is there."""
        self.trained.save(folder / "model.safetensors")
        write_runs(self.records, folder / "runs.parquet", self.task)
        write_json_and_figure(folder, "fit", self.to_json(), self.draw)

    @own_style()
    def draw(self, path: Path) -> None:
        """Errors over the share of the run that is over, and foreseen against true ends, as a PNG."""
        figure = new_figure(11, 4.4, f"{self.trained.about.get('task', '')}: how well ends of runs are foreseen")
        left, right = figure.subplots(1, 2)
        plain(left)
        for number, (name, found) in enumerate(self.qualities.items()):
            style = distinct_style(number)
            left.plot([100 * share for share in SHARES], [q.error for q in found], marker="o", label=name, **style)
        left.set_yscale("log")
        left.set_xlabel("share of the run that is over [%]")
        left.set_ylabel("error of the log final loss")
        left.legend(frameon=False, fontsize=9)
        caption(left, f"root mean square over {len(self.final)} runs held out")
        plain(right)
        ends = np.exp(self.final)
        for number, share in enumerate(SHARES):
            right.plot(
                ends, np.exp(self.foreseen[MODEL][number]), "o", markersize=3, label=f"after {100 * share:.0f} %"
            )
        if len(ends):
            limits = [float(ends.min()), float(ends.max())]
            right.plot(limits, limits, "-", color="#888888", linewidth=0.8)
        right.set_xlabel("final validation loss [nats/example]", color=TEXT)
        right.set_ylabel(f"foreseen by the {MODEL}", color=TEXT)
        right.legend(frameon=False, fontsize=9)
        caption(right, "line: foreseen exactly")
        save(figure, path)


Parts = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Numbers of runs that were held out, and of those that what foresees them was fitted to."""


def report(runs: Series, trained: Trained, history: History, parts: Parts, foreseen: Floats) -> Report:
    """See how well ends are foreseen.

    Args:
        runs: of the sweep.
        trained: what was fitted to them.
        history: of the fit.
        parts: runs that were held out from something; others do not count.
        foreseen: logs of the final losses by the model, after each of `SHARES`, (shares, runs).
    """
    told = {MODEL: foreseen} | {name: np.full((len(SHARES), len(runs)), np.nan) for name in RIVALS}
    judged = np.zeros(len(runs), dtype=bool)
    for held, known in parts:
        judged[held] = True
        for name, forecast in RIVALS.items():
            out, fitted_to = runs.take(held), runs.take(known)
            told[name][:, held] = [forecast(out, fitted_to, trained.scales, share) for share in SHARES]
    count = judged & near_best(runs)
    return Report(
        trained,
        tuple(history),
        runs.final[count],
        {name: rows[:, count] for name, rows in told.items()},
        len(runs),
        int(runs.diverged.sum()),
    )


def _controlled(runs: Series, members: int, seed: int, about: Mapping[str, Any]) -> Report:
    fitting = Fitting(sizes=Sizes(members=members), seed=seed)
    trained, fitted = trained_on(runs, fitting, about)
    of_members = [fitted.fold == member for member in range(members)]
    parts = [(np.flatnonzero(own), np.flatnonzero(~own)) for own in of_members]
    return report(runs, trained, fitted.history, parts, fitted.foreseen)


def _generative(runs: Series, members: int, seed: int, about: Mapping[str, Any]) -> Report:
    fitting = GenerativeFitting(seed=seed)
    trained, fitted = trained_on(runs, fitting, about)
    known = np.setdiff1d(np.arange(len(runs)), fitted.held_out)
    foreseen = decoded_final(fitted.model, Curves(runs, fitted.scales, fitting.nodes), fitted.scales, SHARES)
    return report(runs, trained, fitted.history, [(fitted.held_out, known)], foreseen)


FITS: Mapping[str, Callable[[Series, int, int, Mapping[str, Any]], Report]] = {
    "controlled": _controlled,
    "generative": _generative,
}
"""Kind of model -> fit of (runs, members, seed, how it was made)."""


def about_runs(task: Task, records: Sequence[RunRecord]) -> dict[str, Any]:
    """What a model's file says of the runs that it was fitted to."""
    return {
        "task": task.name,
        "budget": task.budget,
        "optimizer": type(task.optimizer).__name__,
        "child_steps": sum(record.child_steps for record in records),
    }


def usable_of(records: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[str, int]]:
    """Runs that tell how the task's optimizer answers to its rate, and why how many of the others do not."""
    kept, left_out = [], Counter()
    for record in records:
        if why := _unusable(record):
            left_out[why] += 1
        else:
            kept.append(record)
    return kept, dict(left_out)


def _unusable(record: RunRecord) -> str:
    """Why a run cannot be fitted to; empty if it can."""
    if record.status != "finished":
        return "not finished"
    if not record.curves:
        return "no curves"
    if _own_optimizer(record):
        return f"under the optimizer that {record.planner} brings along"
    if not record.diverged and len(record.curves.get("lr", (0, 0))) < 2:
        return "a single point"
    return ""


def _own_optimizer(record: RunRecord) -> bool:
    """Whether a planner of ours made a run, and brought an optimizer along.

    Logs of others may have its name, but not its settings, and are of the optimizer of the task.
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
    """Fit a model to runs that there are.

    Args:
        records: runs of the task, with curves; some of them may be shorter than its budget.
        task: what was trained.
        kind: of model, a name in `FITS`.
        members: of the ensemble, of the kind "controlled".
        seed: of the fit.
        about: how it is made, which is kept with the model.

    Raises:
        UserError: there is no such kind or seed, too few runs are usable, or the fit diverged.
    """
    check_kind(kind, members)
    check_seed(seed)
    usable, left_out = usable_of(records)
    kept = sorted(usable, key=run_key)  # the same model, wherever they were kept
    about = {**about_runs(task, kept), **(about or {})}
    try:
        found = FITS[kind](series(kept, task.budget), members, seed, about)
    except UserError as error:
        told = "".join(f"; {count} left out: {why}" for why, count in left_out.items())
        raise UserError(f"{error}{told}") from error
    return replace(found, left_out=left_out, records=tuple(kept), task=task.settings())


def check_kind(kind: str, members: int, runs: int | None = None) -> None:
    """See that there is such a kind of model, and that so many make an ensemble, see `check_members`.

    Raises:
        UserError: it is not so.
    """
    if kind not in FITS:
        raise unknown("kind of model", kind, FITS)
    if kind == "controlled":
        check_members(members, runs)


@isolating
def fit_sweep(
    wanted: Sweep,
    study: Study,
    *,
    kind: str = "controlled",
    members: int = 5,
    about: Mapping[str, Any] | None = None,
) -> Report:
    """Fit a model to the runs of a sweep, which is made, or what is left of it.

    Args:
        wanted: which runs.
        study: of what, and where it is kept.
        kind: of model, a name in `FITS`.
        members: of the ensemble, of the kind "controlled".
        about: how it is made, which is kept with the model.

    Raises:
        UserError: see `planners.latent_ode.sweep.sweep.sweep`; there is no such kind; there are more members than runs;
            rates are not the task's; or the fit diverged.
    """
    check_kind(kind, members, wanted.runs)
    low, high = study.task.lr_range
    if not low <= wanted.rates[0] < wanted.rates[1] <= high:
        raise UserError(f"rates {wanted.rates[0]:g}:{wanted.rates[1]:g}: the task's range is {low:g} to {high:g}")
    records = sweep(wanted, study)
    about = {"sweep": asdict(wanted), **(about or {})}
    return fit_records(records, study.task, kind=kind, members=members, seed=wanted.seed, about=about)

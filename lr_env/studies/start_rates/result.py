"""How much a planner gains from several start rates, compared with constant runs at these rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.capabilities import Forking, OwnOptimizer, fingerprint
from lr_env.children.meters import on_demand
from lr_env.errors import UserError, check_seeds
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import check_settings, find_planner, has_peak, make_planner
from lr_env.report.chart import Chart
from lr_env.report.curve_chart import PlannerRuns, curves_chart
from lr_env.report.curve_data import curve_of, loss_limits, rate_limits
from lr_env.report.curves import draw_loss, draw_rate, step_axes
from lr_env.report.document import Column, Document, Figure, Reported, Table, Text
from lr_env.report.files import write_content
from lr_env.report.formatting import decimals_of, estimate_text, seeds_text
from lr_env.report.plotting import TEXT, caption, colormaps, new_figure, own_style, save
from lr_env.report.written import write_report
from lr_env.rollout import PlannedRun
from lr_env.runs.lab import Lab
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate
from lr_env.stats.paired_runs import run_scores

Floats = NDArray[np.float64]

CONSTANT = "constant"


@dataclass(frozen=True)
class StartRate:
    """Runs from one start rate.

    Attributes:
        rate: the start rate.
        runs: of the planner, one a seed.
        constant_runs: runs at that rate, on the same seeds.
    """

    rate: float
    runs: Sequence[RunRecord]
    constant_runs: Sequence[RunRecord]

    @property
    def losses(self) -> Floats:
        """Test losses of the planner's runs, (seeds,), nats per example; infinite where one diverged."""
        return run_scores(self.runs, "test_loss")

    @property
    def constant_losses(self) -> Floats:
        """Test losses of the constant runs, likewise."""
        return run_scores(self.constant_runs, "test_loss")


@dataclass(frozen=True)
class StartRatesResult(Reported):
    """The result: a planner's runs from several start rates, and constant runs.

    Attributes:
        task, planner: names.
        settings: of the planner, besides the rate.
        seeds: of the runs.
        starts: one a rate, in increasing order.
        fingerprint: of what the planner depends on besides its settings, such as a policy.
        backend: that all children were trained by.
    """

    task: str
    planner: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    starts: tuple[StartRate, ...]
    fingerprint: str | None = None
    backend: str = ""

    @property
    def rows(self) -> list[tuple[str, Estimate, Estimate, Estimate]]:
        """For every rate, and for the mean over rates: its name and three estimates over seeds.

        They are the mean test losses of the planner and of the constant runs, and their paired difference.
        """
        losses = np.array([[start.losses, start.constant_losses] for start in self.starts])
        names = [*(f"{start.rate:g}" for start in self.starts), "mean"]
        return [
            (name, st.mean_interval(ours), st.mean_interval(constant), st.paired_difference(ours, constant))
            for name, (ours, constant) in zip(names, [*losses, losses.mean(axis=0)], strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """The whole result."""
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
                    "test_loss_of_constant": constant.to_json(),
                    "difference": difference.to_json(),
                    "verdict": st.verdict(difference),
                }
                for name, ours, constant, difference in self.rows
            ],
        }

    def document(self) -> Document:
        """Test losses from each start rate, beside those of constant runs."""
        text = partial(estimate_text, decimals=decimals_of([ours for _, ours, _, _ in self.rows]))
        columns: list[Column[tuple[str, Estimate, Estimate, Estimate]]] = [
            Column("start", itemgetter(0), rank=0),
            Column(f"test loss, {self.planner}", itemgetter(1), text, 0, head=f"test loss,\n{self.planner}"),
            Column("test loss, rate kept", itemgetter(2), text, 0, head="test loss,\nrate kept"),
            Column("paired difference", itemgetter(3), lambda e: f"{text(e, sign=True)} {st.verdict(e)}", 0),
        ]
        columns = [columns[0], *(replace(column, interval=True) for column in columns[1:])]
        note = f"{len(self.seeds)} seeds; nats/example; ± is half of a 95 % interval; not told apart where it "
        figure = Figure("starts.png", "Rates and validation losses", self.draw, self._chart)
        return Document(self._title, (Table(self.rows, columns), Text(note + "contains 0"), figure))

    @property
    def _title(self) -> str:
        return f"{self.task}: {self.planner} from {len(self.starts)} rates"

    def write(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write starts.json, summary.md, starts.png and report.html."""
        write_content(folder, "starts", {**self.to_json(), **provenance})
        write_report(self.document(), folder, str(provenance.get("command", "")))

    def _chart(self) -> Chart:
        """Rates and validation losses from every start rate, and of constant runs, as a chart."""
        ours = [PlannerRuns(f"from {start.rate:g}", start.runs, at % 7) for at, start in enumerate(self.starts)]
        kept = [PlannerRuns(f"{s.rate:g} kept", s.constant_runs, 14 + at % 7) for at, s in enumerate(self.starts)]
        return curves_chart([*ours, *kept])

    @own_style()
    def draw(self, path: Path) -> None:
        """Draw rates and validation losses from every start rate, beside those of constant runs, as a PNG.

        Runs that diverged are drawn as in `lr_env.studies.comparison.figures.draw_curves`.
        """
        figure = new_figure(11.5, 4.4, self._title)
        left, right = figure.subplots(1, 2)
        ours = [curve_of(f"from {start.rate:g}", start.runs) for start in self.starts]
        constant = [curve_of(f"{start.rate:g} kept", start.constant_runs) for start in self.starts]
        end = max(float(curve.steps[-1]) for curve in (*ours, *constant))
        step_axes(left, (0.0, end), rate_limits([*ours, *constant]))
        step_axes(right, (0.0, end), loss_limits([*ours, *constant], 0.0))
        colours = colormaps["viridis"](np.linspace(0, 0.85, len(ours)))  # rates in their order, however many
        for colour, *pair in zip(colours, ours, constant, strict=True):
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
        if any(curve.diverged for curve in (*ours, *constant)):
            caption(right, "a run that diverged is infinitely bad from there on; cross: where")
        save(figure, path)


def start_rates(
    lab: Lab,
    planner: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
) -> StartRatesResult:
    """Run a planner from several start rates, and constant runs at them, on the same seeds; score test data once.

    Args:
        lab: what is trained, and where the runs are recorded.
        planner: its name.
        rates: start rates, the planner's `peak`.
        seeds: of the runs.
        settings: of the planner, besides the rate.

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
    if not len(seeds):
        raise UserError("no seeds: give at least one")
    settings = dict(settings or {})
    check_settings(planner, settings)
    if "peak" in settings:
        raise UserError(f"planner {planner!r}: peak is the rate that is varied, give rates in its place")
    if not len(rates):  # which may be an array
        raise UserError("give at least one rate")
    from_rates = {float(rate): make_planner(planner, {**settings, "peak": float(rate)}) for rate in sorted(set(rates))}
    constant = {rate: make_planner(CONSTANT, {"peak": rate}) for rate in from_rates}
    both = [*from_rates.values(), *constant.values()]
    dependence = fingerprint(both[0])
    study = {
        "start_rates": {"planner": planner, "settings": settings, "rates": list(from_rates), "seeds": list(seeds)},
        **({"fingerprints": {planner: dependence}} if dependence else {}),
    }
    runs = {run_key(run): run for run in (PlannedRun(setting, seed) for setting in both for seed in seeds)}
    with lab.experiment(
        study,
        at_once=len(runs),
        runs=len(runs),
        planners={planner: find_planner(planner)},
        extra_signals=on_demand(both[0].needs),
        forks=isinstance(both[0], Forking),
    ) as experiment:
        experiment.run(list(runs.values()), "final", ("test",), lab.reporting("running"))
        records = {run_key(record): record for record in lab.store.runs(lab.name, "final", curves=True)}

    def records_of(setting: Planner) -> list[RunRecord]:
        return [records[run_key(PlannedRun(setting, seed))] for seed in seeds]

    starts = tuple(StartRate(rate, records_of(from_rates[rate]), records_of(constant[rate])) for rate in from_rates)
    backend = str(experiment.execution.resolved_backend)
    return StartRatesResult(lab.task.name, planner, settings, tuple(seeds), starts, dependence, backend)

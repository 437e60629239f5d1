"""Charts of curves: rates and validation losses over the optimizer step, and intervals in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lr_env.records.record import FINISHED, RunRecord
from lr_env.report.chart import Axis, Chart, Panel, Series, Tone
from lr_env.report.curve_data import Curve, curve_of, interval_limits, loss_limits, rate_limits
from lr_env.report.formatting import setting_text
from lr_env.stats.intervals import Estimate

MOST_NUMBERS = 600_000
"""Numbers of single runs in a page, as the curves of 30 planners on 20 seeds with 500 segments have; of longer curves
only some segments are drawn."""

STEP = Axis("optimizer step")
RATE = "learning rate"
LOSS = "validation loss [nats/example]"


@dataclass(frozen=True)
class PlannerRuns:
    """The runs of one planner, or of one setting, that are drawn in one colour.

    Attributes:
        name: of the planner.
        runs: with the curves `step`, `lr` and `val_loss`; some may not be finished.
        style: see `lr_env.report.chart.Series`.
    """

    name: str
    runs: Sequence[RunRecord]
    style: int = 0
    finished: list[RunRecord] = field(init=False)
    running: list[RunRecord] = field(init=False)

    def __post_init__(self) -> None:
        drawn = [run for run in self.runs if len(run.curves.get("step", ()))]
        object.__setattr__(self, "finished", [run for run in drawn if run.status == FINISHED])
        object.__setattr__(self, "running", [run for run in drawn if run.status != FINISHED])


def curves_chart(
    planners: Sequence[PlannerRuns],
    late: float = 0.0,
    highlighted: Sequence[str] | None = None,
    *,
    medians: bool = True,
) -> Chart:
    """A chart of the medians and quartiles of rates and losses, with every run behind them.

    Args:
        planners: the one with the lowest loss first.
        late: the part of a run, from its end, that has a panel of its own; 0 for none.
        highlighted: names of planners that are in colour at first; None for all.
        medians: whether to draw medians with single runs behind them, or single runs alone, which may have different
            settings.
    """
    every = _every(planners)
    curves = {of.name: curve_of(of.name, of.finished) for of in planners if of.finished}
    going = {of.name: curve_of(of.name, _cut(of.running)) for of in planners if of.running}
    rates, losses = [], []
    for of in reversed(planners):  # the best on top
        for record_kind, series in (("lr", rates), ("val_loss", losses)):
            series += _single_runs(of, record_kind, every, behind=medians)
            if not medians:
                continue
            for known, running in ((curves, False), (going, True)):
                if of.name in known:
                    series.append(_median(known[of.name], of, record_kind, running))
        if of.name in curves and len(curves[of.name].ends):
            losses.append(_ends(curves[of.name], of))
    shown = [*curves.values(), *going.values()]
    end = max(float(curve.steps[-1]) for curve in shown)
    n = max(curve.n for curve in shown)
    middle = "every run" if not medians else "median and quartiles" if n > 1 else "one run"
    panels = [
        Panel(f"Rates: {middle}", _steps(0.0, end), Axis(RATE, "log", rate_limits(shown)), rates),
        Panel(f"Losses: {middle}", _steps(0.0, end), Axis(LOSS, "log", loss_limits(shown, 0.0)), losses),
    ]
    if late:
        start = (1 - late) * end
        axis = Axis(LOSS, "log", loss_limits(shown, start))
        panels.append(Panel(f"The last {100 * late:.0f} % of the runs", _steps(start, end), axis, losses))
    details = "each seed" if every == 1 else f"each seed (at every {every}th segment)"
    return Chart(panels, highlighted, [of.name for of in planners], details)


def rows_panel(
    title: str,
    label: str,
    names: Sequence[str],
    estimates: Sequence[tuple[Estimate | None, Tone]],
    behind: Sequence[Series] = (),
    lines: Mapping[str, float] | None = None,
) -> Panel:
    """A panel with a row for each name: an estimate with its interval, and the points of `behind`.

    Args:
        title: of the panel.
        label: what the estimates are, with the unit.
        names: from the top down.
        estimates: of each name, and the tone it is drawn in; None where there is none.
        behind: further points.
        lines: see `lr_env.report.chart.Panel`.
    """
    series, tones = list(behind), list[Tone](dict.fromkeys(tone for _, tone in estimates))
    for tone in tones:
        rows = [(name, e) for name, (e, of) in zip(names, estimates, strict=True) if of == tone and e is not None]
        rows = [(name, e) for name, e in rows if np.isfinite(e.value)]
        if rows:
            of_rows = [e for _, e in rows]
            series.append(
                Series(
                    {"better": "better", "worse": "worse", "tie": "neither"}.get(tone, label),
                    [e.value for e in of_rows],
                    [name for name, _ in rows],
                    "points",
                    [e.low for e in of_rows],
                    [e.high for e in of_rows],
                    bars="x",
                    tone=tone,
                    texts=[f"95 % interval {e.low:.6g} to {e.high:.6g}" for e in of_rows],
                )
            )
    limits = interval_limits([e for e, _ in estimates if e is not None], list((lines or {}).values()))
    return Panel(title, Axis(label, limits=limits), Axis("", "names", names=tuple(names)), series, lines or {})


def _steps(low: float, high: float) -> Axis:
    margin = 0.02 * (high - low)
    return Axis(STEP.label, limits=(low - margin, high + margin))


def _every(planners: Sequence[PlannerRuns]) -> int:
    """The distance of the segments of single runs that are drawn."""
    lengths = [len(run.curves["step"]) for of in planners for run in (*of.finished, *of.running)]
    most = max(50, MOST_NUMBERS // (2 * len(lengths)))
    return int(np.ceil(max(lengths) / most))


def _cut(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs in flight, up to the segment that all of them have."""
    common = min(len(run.curves["step"]) for run in runs)
    return [replace(run, curves={name: of[:common] for name, of in run.curves.items()}) for run in runs]


def _median(curve: Curve, of: PlannerRuns, kind: str, running: bool) -> Series:
    low, middle, high = curve.lr if kind == "lr" else curve.loss
    many = curve.n > 1
    if np.isinf(high).any() and np.isfinite(middle).any():  # the band has an edge where quarter of the runs diverged
        high = np.where(np.isinf(high) & np.isfinite(middle), np.max(middle[np.isfinite(middle)]), high)
    return Series(
        curve.label,
        curve.steps,
        middle,
        "steps" if kind == "lr" else "line",
        low if many else None,
        high if many else None,
        style=of.style,
        group=of.name,
        running=running,
    )


def _single_runs(of: PlannerRuns, kind: str, every: int, *, behind: bool) -> list[Series]:
    """The single runs of a planner: finished ones, and those in flight."""
    series = []
    for runs, running in ((of.finished, False), (of.running, True)):
        if len(runs) < 1 + behind:
            continue
        longest = max(runs, key=lambda run: len(run.curves["step"])).curves["step"]
        at = np.unique(np.append(np.arange(every - 1, len(longest), every), len(longest) - 1))
        values = np.full((len(runs), len(at)), np.nan)
        for row, run in enumerate(runs):
            inside = at[at < len(run.curves[kind])]
            values[row, : len(inside)] = run.curves[kind][inside]
        series.append(
            Series(
                of.name,
                longest[at],
                values,
                "steps" if kind == "lr" else "line",
                style=of.style,
                group=of.name,
                behind=behind,
                texts=[
                    f"seed {run.seed}" if behind else f"{setting_text(run.settings)}, seed {run.seed}" for run in runs
                ],
                running=running,
            )
        )
    return series


def _ends(curve: Curve, of: PlannerRuns) -> Series:
    """Crosses where runs diverged, at the last loss that was a number."""
    at, last = curve.ends[:, 0], curve.ends[:, 1]
    height = np.where(np.isfinite(last), last, np.nanmax(np.where(np.isfinite(curve.loss[1]), curve.loss[1], np.nan)))
    name = f"{of.name}: a run diverged"
    return Series(name, at, height, "points", style=of.style, group=of.name, marker="cross")

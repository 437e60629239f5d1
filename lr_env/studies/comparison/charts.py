"""The charts of a comparison: curves, scores, and the sweep that a planner was tuned by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lr_env.objectives import VAL_LOSS, Objective
from lr_env.records.record import RunRecord, settings_key
from lr_env.report.chart import Axis, Chart, Panel, Scale, Series, Tone
from lr_env.report.curve_chart import PlannerRuns, curves_chart, rows_panel
from lr_env.report.curve_data import HIGHLIGHTED, diverged_label
from lr_env.report.formatting import seeds_text, setting_text
from lr_env.studies.comparison.summary import Summary

LATE = 0.25
"""The part of a run, from its end, that is drawn once more on a scale of its own."""


def comparison_curves(records: Sequence[RunRecord], order: Sequence[str] = ()) -> Chart:
    """Rates and validation losses of the final runs, of which some may not be finished.

    Args:
        records: with curves.
        order: names of planners, the best first; others follow.
    """
    names = list(dict.fromkeys([*order, *(record.planner for record in records)]))
    planners = [
        PlannerRuns(name, [record for record in records if record.planner == name], style)
        for style, name in enumerate(names)
    ]
    return curves_chart([of for of in planners if of.finished or of.running], LATE, names[:HIGHLIGHTED])


def scores_chart(summary: Summary, records: Sequence[RunRecord]) -> Chart:
    """Mean test losses, and paired differences to the best baseline, with their intervals; and each seed's."""
    rows, seeds = summary.rows, summary.seeds
    names = [diverged_label(row.planner, row.diverged, row.n) for row in rows]
    objective = summary.objective
    losses = {row.planner: losses_by_seed(records, row.planner, seeds, objective) for row in rows}
    tones: list[Tone] = ["strong" if row.to_baseline is None else row.to_baseline.tone for row in rows]
    gaps = [None if row.to_baseline is None else row.to_baseline.difference for row in rows]
    texts = [f"seed {seed}" for seed in seeds]

    def behind(of: Mapping[str, np.ndarray]) -> Series:
        values = np.concatenate([of[row.planner] for row in rows])
        places = [name for name in names for _ in seeds]
        return Series("one seed", values, places, "points", tone="quiet", behind=True, texts=texts * len(rows))

    with np.errstate(invalid="ignore"):
        differences = {planner: of - losses[summary.baseline] for planner, of in losses.items()}
    own = [name for name, gap in zip(names, gaps, strict=True) if gap is None]
    reference = [Series("the reference", [0.0], own, "points", tone="strong")]
    n = seeds_text(len(seeds))
    unit = f"[{objective.unit}]"
    return Chart(
        [
            rows_panel(
                f"Mean over {n}, 95 % interval",
                f"mean {objective.reported_as} {unit}",
                names,
                [(row.judged, tone) for row, tone in zip(rows, tones, strict=True)],
                [behind(losses)] if records else [],
            ),
            rows_panel(
                f"Paired difference to {summary.baseline}, 95 % interval; left of the line: lower loss",
                f"difference in {objective.reported_as} to {summary.baseline} {unit}",
                names,
                list(zip(gaps, tones, strict=True)),
                [*([behind(differences)] if records else []), *reference],
                {" ": 0.0},
            ),
        ]
    )


def losses_by_seed(
    records: Sequence[RunRecord], planner: str, seeds: Sequence[int], objective: Objective = VAL_LOSS
) -> np.ndarray:
    """Test losses of a planner's runs, (seeds,); infinite where one diverged, NaN where there is none.

    Another objective is in their place.
    """
    runs = {record.seed: record for record in records if record.planner == planner}
    return np.array([objective.reported(runs[seed]) if seed in runs else np.nan for seed in seeds])


def sweep_chart(tuning: Sequence[RunRecord], chosen: Mapping[str, object]) -> Chart:
    """The final validation losses of the settings that were tried, over each setting that was varied.

    Args:
        tuning: the runs of one planner's sweep.
        chosen: the setting that was chosen of it; empty where none was yet.
    """
    tried: dict[str, list[RunRecord]] = {}
    for run in tuning:
        tried.setdefault(settings_key(run.settings), []).append(run)
    varied, key = varied_settings([runs[0].settings for runs in tried.values()]), settings_key(chosen)
    return Chart([_sweep_panel(tried, name, key) for name in varied])


def varied_settings(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which some differ, the peak rate first; the first one where none does."""
    names = sorted(dict.fromkeys(name for of in tried for name in of), key=lambda name: name != "peak")
    varied = [name for name in names if len({settings_key({name: of.get(name)}) for of in tried}) > 1]
    return varied or names[:1]


def _sweep_panel(tried: Mapping[str, Sequence[RunRecord]], name: str, chosen: str) -> Panel:
    """Losses over one setting: seeds as points, their means, the chosen setting as a star, crosses for no loss."""
    values: dict[str, Any] = {key: runs[0].settings.get(name) for key, runs in tried.items()}
    scale = _scale(name, list(values.values()))
    order = list(tried) if scale == "names" else sorted(tried, key=lambda key: values[key])
    places = {key: setting_text({name: values[key]}) if scale == "names" else values[key] for key in order}
    texts = {key: setting_text(runs[0].settings) for key, runs in tried.items()}
    whole = {key: [run.scores["final_val_loss"] for run in tried[key] if has_loss(run)] for key in order}
    means = {key: float(np.mean(of)) for key, of in whole.items() if of and len(of) == len(tried[key])}
    losses = [loss for of in whole.values() for loss in of]

    def points(label: str, keys: Sequence[str], y: Sequence[float], said: Sequence[str], **look: Any) -> Series:
        return Series(label, [places[key] for key in keys], y, "points", texts=said, **look)

    def mean_points(label: str, keys: Sequence[str], **look: Any) -> Series:
        return points(label, keys, [means[key] for key in keys], [texts[key] for key in keys], **look)

    runs = [(key, run) for key in order for run in tried[key]]
    single = [(key, run) for key, run in runs if has_loss(run)]
    failed = [(key, run) for key, run in runs if run.diverged or run.pruned]
    seeds = [f"seed {run.seed}" for _, run in single]
    ends = [f"seed {run.seed}: {'diverged' if run.diverged else 'ended early'}, no loss" for _, run in failed]
    line = [Series("mean", [places[key] for key in means], list(means.values()))] if scale == "log" else []
    series = [
        *line,
        points("one run", [key for key, _ in single], losses, seeds, tone="tie", marker="open"),
        mean_points("mean of a setting", list(means)),
        mean_points("chosen", [key for key in means if key == chosen], style=1, marker="star"),
        points("no loss", [key for key, _ in failed], [max(losses, default=1.0)] * len(failed), ends, tone="worse",
               marker="cross"),
    ]  # fmt: skip
    low, high = (min(losses), max(float(np.quantile(losses, 0.8)), min(losses) * 1.05)) if losses else (0.1, 1.0)
    margin = (high / low) ** 0.08
    loss = Axis("final validation loss [nats/example]", "log", (low / margin, high * margin))
    title = f"Over {name}" + ("; a cross: diverged or ended early, no loss" if failed else "")
    names = tuple(dict.fromkeys(map(str, places.values()))) if scale == "names" else ()
    return Panel(title, Axis(name, scale, names=names), loss, [one for one in series if len(one.x)])


def _scale(name: str, values: Sequence[Any]) -> Scale:
    """The scale of a setting: peaks on a log scale, other numbers on a linear one, all else as names."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "names"
    return "log" if name == "peak" and min(values) > 0 else "linear"


def has_loss(run: RunRecord) -> bool:
    """Whether a run was whole, so that it has a loss on the whole validation split."""
    return not run.diverged and not run.pruned and "final_val_loss" in run.scores

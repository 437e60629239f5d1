"""A comparison as files and as a table in the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lr_env.files import write_text
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.tables import write_manifest, write_runs
from lr_env.report.files import draw_into
from lr_env.report.formatting import decimals_of, estimate_text, interval_text, number_text, seeds_text, setting_text
from lr_env.report.tables import Column, columns_grid, grid, meanings, print_columns
from lr_env.stats.intervals import Versus
from lr_env.studies.comparison.spent import MEANING
from lr_env.studies.comparison.summary import Row, Summary
from lr_env.studies.comparison.summary_csv import summary_csv
from lr_env.terminal import paragraph

LONGEST_SETTING = 26
"""Characters of a setting in the terminal; the files have all of it."""


def write_report(
    folder: str | os.PathLike[str],
    records: Sequence[RunRecord],
    tuning_records: Sequence[RunRecord],
    summary: Summary,
    manifest: Mapping[str, Any],
) -> None:
    """Write summary.md, summary.csv, runs.parquet, curves.png, scores.png and manifest.json.

    Every file is replaced as a whole or not at all, the figures last: see `lr_env.report.files`. The same comparison
    gives the same summary.csv, byte for byte, and the same runs.parquet, but for `commit`, `device`, `threads` and
    columns whose name ends in `_seconds`.

    Args:
        folder: where to; made if it is not there.
        records: the final runs, with curves.
        tuning_records: the runs that the settings were chosen from.
        summary: of `records`.
        manifest: how the comparison was made, of what JSON has; summary.md shows it in its order. `command`
            is shown as a command and `title`, if any, is the title of the page and of the figures.

    Raises:
        UserError: when the records have no curves.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = str(manifest["title"]) if "title" in manifest else _title(summary, manifest)
    task = manifest.get("task")
    known = task if isinstance(task, Mapping) and "optimizer" in task else {}
    write_runs([*tuning_records, *records], folder / "runs.parquet", known)
    write_text(folder / "summary.csv", summary_csv(summary))
    write_manifest(folder, manifest)
    write_text(folder / "summary.md", _markdown(summary, tuning_records, manifest, title))

    def curves(path: Path) -> None:
        from lr_env.studies.comparison.figures import (
            draw_curves,  # here, where a matplotlib that is broken costs no table
        )

        draw_curves(records, path, title)

    def scores(path: Path) -> None:
        from lr_env.studies.comparison.figures import draw_scores

        draw_scores(summary, path, title)

    draw_into(folder / "curves.png", curves)
    draw_into(folder / "scores.png", scores)


def print_summary(summary: Summary, console: Console) -> None:
    """Print the conclusion under the table, of which the console's width shows as many columns as fit."""
    missing = [name for name in print_columns(_columns(summary), console) if name not in ("n", "diverged")]
    diverged = "; div.: runs that diverged" if any(r.diverged for r in summary.rows) else ""
    tuned = "" if "tuning runs" in missing or not _spent(summary.rows) else f"; tuning runs: {MEANING}"
    paragraph(
        console,
        f"{seeds_text(len(summary.seeds))}; losses in nats/example; ± is half of a 95 % interval; tie: not told apart, "
        f"for the interval contains 0{diverged}{tuned}; only in the files: {', '.join(missing)}",
        "dim",
    )
    paragraph(console, summary.conclusion)


def _columns(summary: Summary) -> list[Column]:
    rows = summary.rows
    loss = decimals_of(r.test_loss for r in rows)
    setting = [r.setting for r in rows]
    short = [s if len(s) <= LONGEST_SETTING else s[: LONGEST_SETTING - 3] + "..." for s in setting]
    columns = [
        Column("planner", "who sets the learning rate", [r.planner for r in rows], 0, [_marked(r) for r in rows]),
        Column("setting", "chosen on validation data, see Tuning", setting, 3, short),
        Column("n", "runs, one a seed, the same seeds for every planner", [str(r.n) for r in rows]),
    ]
    if any(r.diverged for r in rows):
        meaning = "runs ended by a loss that exploded or was not finite; they count with an infinite loss"
        columns.append(Column("diverged", meaning, [str(r.diverged) for r in rows]))
    columns += [
        Column(
            "val loss", "mean loss on the whole validation split", [estimate_text(r.val_loss, loss) for r in rows], 8
        ),
        Column(
            "val loss IQM",
            "interquartile mean, of the runs without the best and the worst quarter",
            [number_text(r.val_loss_iqm.value, loss) for r in rows],
        ),
        Column("test loss", "mean test loss", [estimate_text(r.test_loss, loss) for r in rows], 0),
        Column("test loss IQM", "likewise", [number_text(r.test_loss_iqm.value, loss) for r in rows]),
    ]
    for split, rank, of in (
        ("val", None, lambda r: (r.val_accuracy, r.val_accuracy_iqm)),
        ("test", 4, lambda r: (r.test_accuracy, r.test_accuracy_iqm)),
    ):
        both = [of(r) for r in rows]
        if both[0][0] is None:
            continue
        places = decimals_of((mean for mean, _ in both), 100)
        means = [estimate_text(mean, places, 100) for mean, _ in both]
        columns.append(
            Column(f"{split} accuracy [%]", f"mean {split} accuracy", means, rank, [m.split()[0] for m in means])
        )
        iqms = [number_text(q.value * 100, places) for _, q in both]
        columns.append(Column(f"{split} accuracy IQM [%]", "its interquartile mean", iqms))
    columns += _flatness(rows)
    if summary.reference not in (None, summary.baseline):
        meaning = "paired difference in test loss to the best constant rate; negative is better"
        columns.append(_versus(f"vs {summary.reference}", meaning, rows, lambda r: r.to_reference, 2))
    meaning = (
        "paired difference in test loss to the best baseline, the planner with the lowest mean final validation loss "
        "of those that take no steps beyond their budget; a tie where the interval contains 0: not told apart"
    )
    columns.append(_versus(f"vs {summary.baseline}", meaning, rows, lambda r: r.to_baseline, 0))
    chances = [r.improvement for r in rows]
    columns.append(
        Column(
            "P(better)",
            f"chance that a run has a lower test loss than a run of {summary.baseline}, with a 95 % interval",
            ["" if e is None else f"{number_text(e.value, 2)} {interval_text(e, 2)}" for e in chances],
            7,
            ["" if e is None else number_text(e.value, 2) for e in chances],
        )
    )
    if summary.target_val_loss is not None:
        meaning = f"median optimizer steps of a run to a validation loss of {summary.target_val_loss:g} nats/example"
        steps = [r.steps_to_target for r in rows]
        text = ["never" if s is None or np.isinf(s) else f"{s:.0f}" for s in steps]
        columns.append(Column("to target", meaning, text, 5))
    if _spent(rows):
        runs = ["" if r.spent is None else str(r.spent) for r in rows]
        columns.append(Column("tuning runs", MEANING, runs, 1, head="tuning\nruns"))
    tuning = [str(r.tuning_steps) for r in rows]
    meaning = (
        "child steps spent on choosing the setting, with those of what the planner was trained or fitted with before"
    )
    columns.append(Column("tuning steps", meaning, tuning, 10))
    if any(r.extra_steps for r in rows):
        extra = [f"{r.extra_steps:.0f}" for r in rows]
        columns.append(Column("extra steps", "child steps a run took beyond its budget, e.g. in forks", extra, 0))
    seconds = [f"{r.planning_seconds:.2g}" for r in rows]
    columns.append(Column("planning [s]", "wall time in the planner, mean of a run", seconds, 11))
    return columns


def _spent(rows: Sequence[Row]) -> bool:
    """Whether it is known what was spent on tuning."""
    return any(row.spent is not None for row in rows)


def _flatness(rows: Sequence[Row]) -> list[Column]:
    """The columns of what was measured only on demand, if it was."""
    columns = []
    for name, what, rank in (("max", "largest eigenvalue", 12), ("trace", "trace", 13)):
        found = [r.hessian_max if name == "max" else r.hessian_trace for r in rows]
        places = decimals_of(found)
        cells = ["not measured" if e is None else estimate_text(e, places) for e in found]
        meaning = (
            f"{what} of the training loss's Hessian at the end of a run, lower is flatter; mean over the runs that did "
            "not diverge"
        )
        if any(e is not None for e in found):
            columns.append(Column(f"Hessian {name}", meaning, cells, rank))
    return columns


def _marked(row: Row) -> str:
    return f"{row.planner} ({row.diverged} div.)" if row.diverged else row.planner


def _versus(name: str, meaning: str, rows: Sequence[Row], of: Callable[[Row], Versus | None], rank: int) -> Column:
    found = [of(r) for r in rows]
    places = decimals_of(None if v is None else v.difference for v in found)
    cells = [
        "(reference)" if v is None else f"{estimate_text(v.difference, places, sign=True)} {v.verdict}" for v in found
    ]
    return Column(name, meaning, cells, rank)


def _markdown(summary: Summary, tuning_records: Sequence[RunRecord], manifest: Mapping[str, Any], title: str) -> str:
    columns = _columns(summary)
    parts = [
        f"# {title}",
        summary.conclusion,
        columns_grid(columns),
        "Rows are sorted by mean test loss, best first. Losses are in nats/example. ± is half of a 95 % "
        "interval (Student t). In summary.csv is every digit, in runs.parquet every run with its curves.",
        "![Paired differences in test loss](scores.png)",
        "![Learning rates and validation losses](curves.png)",
        "## Columns",
        meanings(columns),
        *_controls(summary),
        "## How it was made",
        _made(summary, manifest),
        "## Tuning",
        _tuning_seeds(summary, tuning_records),
        _tuning(summary, tuning_records, manifest.get("tuning", {}).get("controls", {})),
    ]
    return "\n\n".join(parts) + "\n"


def _controls(summary: Summary) -> list[str]:
    """What planners gain over their controls, as a section; none where no control took part."""
    if not summary.controls:
        return []
    places = decimals_of(versus.difference for _, _, versus in summary.controls)
    lines = [
        (planner, control, f"{estimate_text(versus.difference, places, sign=True)} {versus.verdict}")
        for planner, control, versus in summary.controls
    ]
    return [
        "## Controls",
        "A control runs under the setting of its planner and lacks what is said to make the difference. `lr-env "
        "planners NAME` says what that is. Paired differences in test loss; negative where the planner is better.",
        grid(("planner", "its control", "planner against control"), lines),
    ]


def _made(summary: Summary, manifest: Mapping[str, Any]) -> str:
    lines = [f"- final runs: {len(summary.rows)} planners on {seeds_text(len(summary.seeds))}"]
    if "seeds" not in manifest:
        lines.append(f"- seeds: {_plain_text(summary.seeds)}")
    lines += [f"- {k}: {_plain_text(v)}" for k, v in manifest.items() if k not in ("command", "title")]
    command = manifest.get("command")
    if command is None:
        return "\n".join(lines)
    words = command if isinstance(command, str) else " ".join(map(str, command))
    return f"```sh\n{words}\n```\n\n" + "\n".join(lines)


def _plain_text(value: Any) -> str:
    """A value of the manifest in one line; consecutive integers as "0 to 19"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        first = value[0] if value and isinstance(value[0], int) else None
        if first is not None and len(value) > 2 and list(value) == list(range(first, first + len(value))):
            return f"{first} to {first + len(value) - 1}"
        return ", ".join(map(_plain_text, value))
    return str(value)


def _tuning_seeds(summary: Summary, records: Sequence[RunRecord]) -> str:
    seeds = sorted({r.seed for r in records})
    if not seeds:
        return "No runs were made to choose the settings."
    shared = sorted(set(seeds) & set(summary.seeds))
    note = f"has seeds {_plain_text(shared)} too" if shared else "has other seeds"
    return (
        f"Settings were chosen on validation data by runs on seeds {_plain_text(seeds)}; the comparison "
        f"{note}. The chosen one is in bold."
    )


def _tuning(summary: Summary, records: Sequence[RunRecord], controls: Mapping[str, str]) -> str:
    """One line a planner: the chosen setting, and the mean validation loss of every setting tried.

    `controls` are the planners that took over the setting of another one.
    """
    lines = []
    for row in summary.rows:
        tried: dict[str, list[RunRecord]] = {}
        for record in records:
            if record.planner == row.planner:
                tried.setdefault(settings_key(record.settings), []).append(record)
        chosen = settings_key(row.settings)
        settings = [runs[0].settings for runs in tried.values()]
        varied = [k for k in row.settings if len({settings_key({k: s.get(k)}) for s in settings}) > 1]
        losses = {
            key: float(np.mean([np.inf if r.diverged else r.scores["final_val_loss"] for r in runs]))
            for key, runs in tried.items()
        }
        cells = []
        for key in sorted(losses, key=lambda k: (losses[k], k)):
            setting = tried[key][0].settings
            name = setting_text({k: setting[k] for k in varied if k in setting} or setting)
            cell = f"{name}: {number_text(losses[key])}"
            cells.append(f"**{cell}**" if key == chosen else cell)
        runs = sum(map(len, tried.values()))
        counts = f"{runs if row.spent is None else row.spent} ({len(tried)} settings)" if runs else "none"
        if row.planner in controls:
            counts = f"as {controls[row.planner]}"
        lines.append((row.planner, row.setting, counts, str(row.tuning_steps), "; ".join(cells)))
    head = (
        "planner",
        "chosen setting",
        "runs",
        "child steps",
        "mean final validation loss of each setting, best first",
    )
    return grid(head, lines)


def _title(summary: Summary, manifest: Mapping[str, Any]) -> str:
    task = f"{manifest['task']}: " if manifest.get("task") else ""
    planners = "1 planner" if len(summary.rows) == 1 else f"{len(summary.rows)} planners"
    return f"{task}{planners} on {seeds_text(len(summary.seeds))}"

"""What a planner believed in a run, kept beside a report, and as a part of the planner's page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_env.capabilities import Explainable, fingerprint
from lr_env.errors import UserError
from lr_env.files import read_json, write_json
from lr_env.planner import Planner, planner_settings
from lr_env.provenance import command_line
from lr_env.records.record import settings_key
from lr_env.registry import find_planner, setting_defaults
from lr_env.report.blocks import Block, Code, Figure, Heading, Text
from lr_env.report.chart import Axis, Chart, Panel, Series
from lr_env.report.curve_chart import LOSS, RATE
from lr_env.tasks import Task, find_task

if TYPE_CHECKING:
    from lr_env.studies.beliefs import Explained

_SHOWN = 4
"""Plans that are in colour at first."""

_VARIED = ("budget", "segment", "batch_size", "train_fraction", "label_noise", "val_subset")
"""Fields of a task that are options of commands."""


def write_beliefs(folder: Path, explained: Explained, planner: Planner, task: Task) -> Path:
    """Write what a planner believed in a run into the folder of a report, for each planner and seed one file."""
    file = folder / f"explained-{explained.planner}-{explained.seed}.json"
    made = {
        "command": command_line(),
        "task": task.settings(),
        "settings": json.loads(settings_key(planner_settings(planner))),
        "fingerprint": fingerprint(planner),
    }
    write_json(file, {**made, **explained.to_json()})
    return file


def belief_blocks(
    planner: str, settings: Mapping[str, Any], task: Mapping[str, Any], folder: Path | None
) -> list[Block]:
    """What a planner believed in runs that were explained, or the command that finds out; nothing for other planners.

    Args:
        planner: its name.
        settings: that it has in the comparison.
        task: settings of the comparison's task.
        folder: of the report; None where there is none.
    """
    try:
        if not isinstance(find_planner(planner), Explainable):
            return []
    except UserError:  # the package that has it is not installed
        return []
    blocks: list[Block] = [Heading("What it believed, and what came")]
    for saved in _saved(planner, folder):
        same = settings_key(saved["settings"]) == settings_key(settings) and _alike(saved["task"], task)
        other = "" if same else " **of another setting or task than the comparison's**"
        blocks += [
            Text(
                f"A further run on seed {saved['seed']}{other}, made by `{saved['command']}`. It is none of the runs "
                "above. What came is drawn in black, and in the dark in white."
            ),
            Figure("", f"Plans and forecasts on seed {saved['seed']}", chart=lambda saved=saved: belief_chart(saved)),
            Text(points=tuple(_plan_text(plan, saved["segment"]) for plan in saved["plans"])),
        ]
    if len(blocks) == 1:
        blocks += [
            Text("Forecasts are not stored with runs. This command makes a further run, and keeps them for this page:"),
            Code(_command(planner, settings, task, folder)),
        ]
    return blocks


def belief_chart(saved: Mapping[str, Any]) -> Chart:
    """The plans and the forecasts of a run, over what came.

    Args:
        saved: the content of a file of `write_beliefs`.
    """
    segment, plans = saved["segment"], saved["plans"]
    steps = segment * (np.arange(len(saved["lr"])) + 1.0)
    names = [f"at step {plan['segment'] * segment}" for plan in plans]
    rates, losses = [], []
    for style, (name, plan) in enumerate(zip(names, plans, strict=True)):
        look: dict[str, Any] = {"style": style, "group": name}
        ahead = segment * (plan["segment"] + np.arange(len(plan["rates"])) + 1.0)
        of_models = np.array(plan["losses"], dtype=np.float64)
        rates.append(Series(f"plan {name}", ahead, plan["rates"], "steps", **look))
        ends = of_models.min(0), of_models.max(0)
        losses.append(Series(f"forecast {name}", plan["steps"], of_models.mean(0), "line", *ends, **look))
        if plan["final_interval"] is not None:
            low, high = plan["final_interval"]
            at = steps[-1] * (1.02 + 0.08 * style / len(plans))
            text = [f"90 % interval of the end: {low:.4g} to {high:.4g}"]
            bar: dict[str, Any] = {"low": [low], "high": [high], "texts": text}
            losses.append(Series(f"end, forecast {name}", [at], [(low + high) / 2], "points", **bar, **look))
    rates.append(Series("the rate that was set", steps, saved["lr"], "steps", tone="strong"))
    val_loss = np.array(saved["val_loss"], dtype=np.float64)
    losses.append(Series("measured on the subset", steps, val_loss, tone="strong"))
    if saved["final_val_loss"] is not None:
        losses.append(Series("on the whole split", steps[-1:], [saved["final_val_loss"]], "points", tone="strong"))
    known = val_loss[np.isfinite(val_loss) & (val_loss > 0)]
    limits = (float(known.min()) * 0.9, float(np.quantile(known, 0.9)) * 1.1) if len(known) else None
    across, loss = Axis("optimizer step"), Axis(LOSS, "log", limits)
    shown = [names[at] for at in sorted({round(x) for x in np.linspace(0, len(names) - 1, _SHOWN)})] if names else []
    panels = [
        Panel("Plans, and the rate that was set", across, Axis(RATE, "log"), rates),
        Panel("Forecasts: mean and range of models; bars: 90 % of ends", across, loss, losses),
    ]
    return Chart(panels, shown, names)


def _saved(planner: str, folder: Path | None) -> list[dict[str, Any]]:
    """What is kept of a planner, by seed. A file that is damaged is left out."""
    kept = []
    for file in sorted(folder.glob("explained-*.json")) if folder is not None else ():
        with suppress(OSError, ValueError):
            content = read_json(file)
            if content.get("planner") == planner:
                kept.append(content)
    return sorted(kept, key=lambda content: content["seed"])


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two tasks are the same but for the target, of which only reports make use."""
    return settings_key({**one, "target_val_loss": None}) == settings_key({**other, "target_val_loss": None})


def _plan_text(plan: Mapping[str, Any], segment: int) -> str:
    ends = [of_model[-1] for of_model in plan["losses"] if of_model[-1] is not None]
    forecast = f"{np.mean(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})" if ends else "nothing"
    interval = plan["final_interval"]
    whole = "" if interval is None else f", on the whole split with 90 % {interval[0]:.4f} to {interval[1]:.4f}"
    note = f"; {plan['note']}" if plan["note"] else ""
    return f"**at step {plan['segment'] * segment}**: forecast {forecast} for step {plan['steps'][-1]:.0f}{whole}{note}"


def _command(planner: str, settings: Mapping[str, Any], task: Mapping[str, Any], folder: Path | None) -> str:
    """The command that keeps forecasts of the planner for the report."""
    name, options = str(task.get("name")), ""
    with suppress(UserError):
        usual = find_task(name).settings()
        changed = [field for field in _VARIED if field in task and task[field] != usual[field]]
        options = "".join(f" --{field.replace('_', '-')} {task[field]}" for field in changed)
        options += " --adam" if task.get("optimizer", {}).get("class") == "Adam" != usual["optimizer"]["class"] else ""
    defaults = setting_defaults(planner)
    given = {key: value for key, value in settings.items() if key not in defaults or defaults[key] != value}
    texts = (value if isinstance(value, str) else json.dumps(value) for value in given.values())
    sets = " ".join(f"{planner}.{key}={text}" for key, text in zip(given, texts, strict=True))
    under = f" --name {folder.name}" if folder is not None and folder.name != name else ""
    return f"lr-env explain {name}{options} --planner {planner}{f' --set {sets}' if sets else ''}{under}"

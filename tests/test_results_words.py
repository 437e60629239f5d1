"""What results/README.md says of the latent-ODE planner is what its committed files hold."""

import csv
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import ArrayLike
from scipy import stats

RESULTS = Path(__file__).parent.parent / "results"
PLANNER = "latent-ode"
FIGURE = re.compile(r"([+-]?\d+\.(\d+)) ±(\d+\.\d+)")

REPORTS = {
    "FashionLeNet5": "FashionLeNet5-planned",
    "the same, 20 fresh seeds, an earlier planner": "FashionLeNet5-fresh-planned",
    "the same fresh seeds, the published settings": "FashionLeNet5-fresh-published",
    "FashionResNet8": "FashionResNet8-planned",
    "ShakespeareGPT": "ShakespeareGPT-planned",
}
"""Column of the table of comparisons -> folder."""

OTHER_PROCESSOR = {
    "FashionLeNet5-planned": "FashionLeNet5-20-seeds",
    "FashionLeNet5-fresh-planned": "FashionLeNet5-fresh-published",
    "FashionLeNet5-fresh-published": "FashionLeNet5-fresh-published",
    "FashionResNet8-planned": "FashionResNet8-20-seeds",
    "ShakespeareGPT-planned": "ShakespeareGPT-20-seeds",
}
"""Folder of the planner -> folder of the same task's wsd-sqrt as it was tuned on the other processor."""

BASELINES = {
    "one-cycle": "one-cycle",
    "cosine, without a warm-up": "cosine",
    "constant": "constant",
    "`step`, x 0.1 twice": "step",
    "wsd-sqrt, as tuned beside it": "wsd-sqrt",
    "wsd-sqrt, as tuned on the other processor": "wsd-sqrt",
    "control: mean of the sweep's best three": "latent-ode-mean",
    "control: best of the sweep's first ten": "latent-ode-best",
}
"""Row of the table of comparisons -> planner."""

CONDITIONS = {"a quarter of the data": "quarter data"}
"""Row of the table of conditions -> condition, where they differ."""


@cache
def words() -> str:
    return (RESULTS / "README.md").read_text(encoding="utf-8")


def table(first_cell: str) -> dict[str, dict[str, str]]:
    """The table whose head begins with a cell: row -> column -> cell."""
    lines = words().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    head, rows = cells(lines[start]), {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *rest = cells(line)
        rows[name.strip("*")] = dict(zip(head[1:], rest, strict=True))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def final_runs(folder: str, planner: str) -> dict[int, dict[str, Any]]:
    """Seed -> a final run of a planner."""
    columns = ["phase", "planner", "seed", "diverged", "test_loss", "curve_lr"]
    rows = pq.read_table(RESULTS / folder / "runs.parquet", columns=columns).to_pylist()
    return {row["seed"]: row for row in rows if row["phase"] == "final" and row["planner"] == planner}


def differences(folder: str, baseline: str, of: str) -> list[float]:
    """Test loss of the planner less that of a baseline, on the seeds on which neither diverged."""
    ours, theirs = final_runs(folder, PLANNER), final_runs(of, baseline)
    assert ours.keys() == theirs.keys()
    return [
        ours[seed]["test_loss"] - theirs[seed]["test_loss"]
        for seed in ours
        if not ours[seed]["diverged"] and not theirs[seed]["diverged"]
    ]


def check(cell: str, values: ArrayLike, *, marked: bool = False) -> None:
    """See that a cell gives the mean of values and half of its 95 % interval, to the digits that it shows.

    Args:
        cell: of a table, or a part of a sentence.
        values: one a seed or a repeat.
        marked: whether the cell must be bold where the interval does not hold 0, and only there.
    """
    values = np.asarray(values, dtype=float)
    match = FIGURE.search(cell)
    assert match, cell
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    unit = 0.5001 * 10.0 ** -len(match[2])
    assert abs(float(match[1]) - values.mean()) <= unit, (cell, values.mean())
    assert abs(float(match[3]) - half) <= unit, (cell, half)
    if marked:
        assert cell.startswith("**") == (abs(values.mean()) > half), (cell, values.mean(), half)


@pytest.mark.parametrize("column", REPORTS)
def test_the_table_of_comparisons_is_that_of_the_runs(column: str) -> None:
    folder, rows = REPORTS[column], table("test loss of the planner less that of")
    runs = final_runs(folder, PLANNER)
    check(rows["test loss of the planner"][column], [run["test_loss"] for run in runs.values()])
    schedules = {tuple(run["curve_lr"]) for run in runs.values()}
    assert rows["different schedules that it played"][column] == str(len(schedules))
    for label, baseline in BASELINES.items():
        if cell := rows[label][column]:
            of = OTHER_PROCESSOR[folder] if label.endswith("other processor") else folder
            values = differences(folder, baseline, of)
            check(cell, values, marked=True)
            assert len(values) == int((re.search(r"n = (\d+)", cell) or [0, 20])[1])


def test_no_plan_was_changed_on_fashion_cnn() -> None:
    rows = pq.read_table(RESULTS / "FashionCNN-planned" / "runs.parquet", columns=["planner", "phase", "curve_lr"])
    schedules = {(r["planner"], tuple(r["curve_lr"])) for r in rows.to_pylist() if r["phase"] == "final"}
    assert len(schedules) == len({planner for planner, _ in schedules})
    assert "and never changed its plan" in words()


def test_the_two_tunings_of_wsd_sqrt_are_compared_over_forty_seeds() -> None:
    published = [("FashionLeNet5-planned", "FashionLeNet5-20-seeds"), ("FashionLeNet5-fresh-published",) * 2]
    forty = [value for folder, of in published for value in differences(folder, "wsd-sqrt", of)]
    said = re.search(r"it is at (\S+ ±\S+) over all\s+40 seeds, and at (\S+ ±\S+) against the first", words())
    assert said
    check(said[1], forty)
    first = [("FashionLeNet5-planned",) * 2, ("FashionLeNet5-fresh-published", "FashionLeNet5-fresh-planned")]
    check(said[2], [value for folder, of in first for value in differences(folder, "wsd-sqrt", of)])


def test_the_table_of_conditions_is_that_of_the_runs() -> None:
    conditions = json.loads((RESULTS / "FashionMLP-conditions" / "conditions.json").read_text())["conditions"]
    rows = table("condition")
    for column, planner in (("planner", PLANNER), ("planned once", "latent-ode-once")):
        losses = {}
        for name, condition in conditions.items():
            ours, fixed = (np.array(condition["answers"][who]["losses"], dtype=float) for who in (planner, "wsd"))
            losses[name] = ours - fixed
        for row, of in rows.items():
            if not row.startswith("mean"):
                check(of[column], losses[CONDITIONS.get(row, row)])
        del losses["as tuned"]
        check(rows["mean of the 8 conditions"][column], np.mean(list(losses.values()), axis=0))
        del losses["high start"], losses["large batch"]
        check(rows["mean without high start and large batch"][column], np.mean(list(losses.values()), axis=0))


def test_the_table_of_tuning_budgets_is_that_of_the_study() -> None:
    study = json.loads((RESULTS / "FashionMLP-budget" / "budget.json").read_text())
    losses = {(c["answer"], c["runs"]): [np.mean(run["losses"]) for run in c["repeats"]] for c in study["curves"]}
    answers = {
        "WSD alone, Sobol": "wsd",
        "WSD alone, TPE": "wsd-tpe",
        "all families, Sobol": "random",
        "all families, TPE": "tpe",
        "the sweep's best three": "latent-ode-mean",
        "planned once": "latent-ode-once",
    }
    rows = table("answer")
    for runs in (10, 20, 40, 100):
        assert float(rows["planner"][f"{runs} runs"].split()[0]) == pytest.approx(
            np.mean(losses[PLANNER, runs]) - np.mean(study["ceiling"]["losses"]), abs=6e-6
        )
        for label, answer in answers.items():
            check(rows[label][f"{runs} runs"], np.subtract(losses[answer, runs], losses[PLANNER, runs]), marked=True)


def test_what_each_planner_could_learn_from_is_what_the_reports_booked() -> None:
    def booked(folder: str) -> dict[str, int]:
        with (RESULTS / folder / "summary.csv").open(newline="", encoding="utf-8") as file:
            return {row["planner"]: int(row["tuning_steps"]) for row in csv.DictReader(file)}

    rows, policy = table("planner"), 5_528_000
    head = next(iter(rows.values())).keys()
    lenet, digits = (next(name for name in head if task in name) for task in ("FashionLeNet5", "DigitsMLP"))
    steps = {lenet: booked("FashionLeNet5-20-seeds"), digits: booked("DigitsMLP-20-seeds")}
    for column, of in steps.items():
        assert rows["schedules, reactive rules, learning-rate-free optimizers"][column] == f"up to {of['constant']:,}"
        forked = rows["`lookahead`; `autolrs`; `lrtuner`"][column].split("; ")
        assert [f"{of[name]:,}" if name in of else "not run" for name in ("lookahead", "autolrs", "lrtuner")] == forked
        assert of["ppo"] == of["constant"] + policy
    assert f"{policy:,}" in rows["`ppo`"][digits]
    planned = booked("FashionLeNet5-planned")[PLANNER]
    assert rows["`latent-ode`"][lenet] == f"{planned:,}"
    sweep = json.loads((RESULTS / "fit" / "DigitsMLP-fit" / "fit.json").read_text())["child_steps"]
    assert rows["its controls `latent-ode-best`, `-mean`"][digits] == f"{sweep:,}"

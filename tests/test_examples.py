"""The examples run as they stand, and small."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from lr_env.rollout import rollout
from lr_env.tasks import TASKS

DOCTESTS = ["planners.schedules", "planners.piecewise", "planners.torch_scheduler", "planners.callbacks.metrics"]
DOCTESTS += ["lr_env.jsonable", "lr_env.rates", "lr_env.words"]
DOCTESTS += [
    f"lr_env.records.readers.{name}"
    for name in ("beside", "clocks", "delimited", "importing", "lines", "names", "rows", "text_log")
]
DOCTESTS += ["lr_env.search", "lr_env.capabilities", "lr_env.cli.task_options", "planners.tuning.search.procedure"]
DOCTESTS += [f"lr_env.tasks.{name}" for name in ("distributions", "draws", "families", "layered")]
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "arguments", "prints"),
    [
        ("own_loop.py", [], "test accuracy"),
        ("own_planner.py", ["--seeds", "2"], "halving    test loss"),
        ("own_training.py", ["--steps", "60", "--planner", "wsd"], "wsd (seed 0): validation loss"),
        ("own_task.py", ["--budget", "100"], "learning rate 0.10000  test loss"),
        ("train_ppo.py", ["--budget", "50", "--steps", "20", "--children", "2"], "test loss of 2 fresh runs"),
    ],
)
def test_example(script, arguments, prints, monkeypatch, capsys, global_generators_kept):
    run_small(script, arguments, monkeypatch)
    assert prints in capsys.readouterr().out


def run_small(script, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))  # from_logs.py imports own_training.py
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_from_logs_to_a_planned_run(tmp_path, monkeypatch, capfd, global_generators_kept):
    pytest.importorskip("tensorboard")
    small = ["--runs", "12", "--steps", "100", "--seeds", "2", "--members", "2", "--folder", str(tmp_path)]
    run_small("from_logs.py", small, monkeypatch)
    out = capfd.readouterr().out
    assert "12 runs" in out
    assert "planned - tuned WSD: " in out


@pytest.mark.parametrize(
    ("script", "package", "arguments"),
    [
        ("lightning_module.py", "lightning", ["--epochs", "1"]),
        ("huggingface_trainer.py", "transformers", ["--steps", "6"]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the packages, about each other
def test_examples_of_other_packages(script, package, arguments, monkeypatch, capsys, global_generators_kept):
    pytest.importorskip(package)
    run_small(script, arguments, monkeypatch)
    assert "validation loss" in capsys.readouterr().out


def test_the_notebook_runs_cell_by_cell(capsys, caplog, global_generators_kept):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)  # outputs hold paths of a machine
    names: dict[str, Any] = {}
    displayed = []
    for cell in cells:
        code = ast.parse("".join(cell["source"]))
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, "quickstart.ipynb", "exec"), names)
        if last is not None and (value := eval(compile(ast.Expression(last.value), "quickstart.ipynb", "eval"), names)):
            displayed.append(value)  # a print has none
    picture, report = displayed
    assert picture.size == (800, 400)
    assert picture._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    assert [row.n for row in report.summary.rows] == [5, 5, 5]
    assert {row.planner for row in report.summary.rows} == {"constant", "cosine", "wsd"}
    out, err = capsys.readouterr()
    assert out.startswith("untrained: validation loss 2.3")
    assert len(out.splitlines()) == 4
    assert not err
    assert all("no window can be opened here" in record.getMessage() for record in caplog.records)


def test_the_code_in_the_readme_runs(capsys, global_generators_kept):
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert "@@" not in readme
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    step, ppo, training, forecast, transfer, planner, task = blocks
    exec(step, {})
    assert len(capsys.readouterr().out.split()) == 2
    exec(ppo, {})
    exec(training, names := {})
    assert names["scheduler"].last_epoch == 1000
    assert 0 < names["scheduler"].get_last_lr()[0] < 0.01  # the cool-down
    exec(forecast, names := {})
    assert names["forecast"].low[-1] < names["forecast"].median[-1] < names["forecast"].high[-1]
    assert 0.05 < names["forecast"].median[-1] < 0.4  # of DigitsMLP at a rate of 0.03
    exec(transfer, names := {})
    assert 1e-4 < names["scheduler"].get_last_lr()[0] < 1  # the warm-up
    exec(planner, names := {})
    (record,) = rollout(names["Halving"](0.05), TASKS["DigitsMLP"], [0])
    assert not record.diverged
    exec(task.split("envs =")[0], names)  # the rest needs Fashion-MNIST
    assert names["wide"].budget == 2000


def test_every_example_is_tested():
    tested = {"own_loop.py", "own_planner.py", "own_task.py", "own_training.py", "train_ppo.py"}
    tested |= {"from_logs.py", "lightning_module.py", "huggingface_trainer.py"}  # below
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["quickstart.ipynb"]


@pytest.mark.parametrize("module", DOCTESTS)
def test_the_examples_in_docstrings_print_what_they_say(module):
    failed, examples = doctest.testmod(importlib.import_module(module))
    assert examples
    assert not failed

"""The examples run as they stand, and small."""

from __future__ import annotations

import doctest
import importlib
import runpy
import sys
from pathlib import Path

import pytest

from lr_env.rollout import rollout
from lr_env.tasks import TASKS

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "arguments", "prints"),
    [
        ("own_loop.py", [], "test accuracy"),
        ("own_planner.py", ["--seeds", "2"], "halving    test loss"),
        ("own_task.py", ["--budget", "100"], "learning rate 0.10000  test loss"),
        ("train_ppo.py", ["--budget", "50", "--steps", "20", "--children", "2"], "test loss of 2 fresh runs"),
    ],
)
def test_example(script, arguments, prints, monkeypatch, capsys, global_generators_kept):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert prints in capsys.readouterr().out


def test_the_code_in_the_readme_runs(capsys, global_generators_kept):
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert "@@" not in readme
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    step, ppo, session, planner, task = blocks
    exec(step, {})
    assert len(capsys.readouterr().out.split()) == 2
    exec(ppo, {})
    exec(session, names := {})
    assert 0 < names["lr"] < 0.003  # the last rate of a cosine from 0.1
    exec(planner, names := {})
    (record,) = rollout(names["Halving"](0.05), TASKS["DigitsMLP"], [0])
    assert not record.diverged
    exec(task.split("envs =")[0], names)  # the rest needs Fashion-MNIST
    assert names["wide"].budget == 2000


def test_every_example_is_tested():
    tested = {"own_loop.py", "own_planner.py", "own_task.py", "train_ppo.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


READERS = ("beside", "clocks", "delimited", "importing", "lines", "names", "rows", "text_log")


@pytest.mark.parametrize(
    "module",
    [
        *("planners.schedules", "planners.piecewise", "lr_env.jsonable", "lr_env.rates"),
        *(f"lr_env.records.readers.{name}" for name in READERS),
    ],
)
def test_the_examples_in_docstrings_print_what_they_say(module):
    failed, examples = doctest.testmod(importlib.import_module(module))
    assert examples
    assert not failed

"""The examples run as they stand, and small."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "arguments", "prints"),
    [
        ("own_loop.py", [], "test accuracy"),
        ("own_planner.py", ["--seeds", "2"], "halving    test loss"),
        ("own_task.py", ["--budget", "100"], "learning rate 0.10000  test loss"),
    ],
)
def test_example(script, arguments, prints, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert prints in capsys.readouterr().out


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"own_loop.py", "own_planner.py", "own_task.py"}

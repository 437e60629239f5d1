"""Figures without training: previews, and what figures share."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lr_env.cli.main import main
from lr_env.report.plotting import distinct_style, log_scale, new_figure
from tests.helpers import PLANNERS


def preview(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lr-env", "preview", *arguments])
    main()


def test_a_preview_is_written_as_png(tmp_path, monkeypatch, capsys):
    names = [name for name, planner in PLANNERS.items() if hasattr(planner, "preview")][:12]
    preview(monkeypatch, *names, "--set", "warmup=0.2", "--out", str(tmp_path / "all.PNG"))
    assert (tmp_path / "all.PNG").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"{names[-1]}, 100 segments\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no planners to draw: name at least one"),
        (["cosine", "--out", "fig.pdf"], "out 'fig.pdf': the figure is written as PNG"),
        (["cosine", "--out", "fig"], "give a name that ends in .png"),
        (["cosine", "--set", "peak=0.5"], "setting 'peak=0.5': give the peak with --peak"),
        (["cosine", "plateau"], "planner 'plateau' has no preview"),
        (["cosine", "--out", "/proc/none/fig.png"], "choose a folder you may write to with --out"),
        (["plrs", "--set", "every=5"], "unknown planner 'plrs': interval 5 (there are: segment, step)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_that_names_the_fix(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        preview(monkeypatch, *arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2, out + err
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_lines_of_equals_can_be_told_apart():
    styles = [str(distinct_style(number)) for number in range(28)]
    assert len(set(styles)) == 28
    assert len({distinct_style(number)["color"] for number in range(7)}) == 7


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1e-6, 10, 10.0 ** np.arange(-6, 2)),
        (0.01, 1, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        (5, 10, [5, 6, 7, 8, 9, 10]),
    ],
)
def test_numbers_on_a_log_axis_have_room(low, high, shown):
    axes = new_figure(8, 4, "").subplots()
    log_scale(axes, "x")
    axes.set_xlim(low, high)  # after the scale: they follow what is drawn in the end
    ticks = axes.xaxis.get_major_locator()()
    np.testing.assert_allclose([tick for tick in ticks if low * 0.999 <= tick <= high * 1.001], shown)

"""Figures for papers: what an SVG shows is what runs.parquet holds, and nothing is cut off."""

from __future__ import annotations

import dataclasses
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from lr_env.cli.main import main
from lr_env.studies.comparison.paper import KINDS
from lr_env.studies.comparison.report import ComparisonReport
from tests.test_report import LOSSES, final, summary_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Saved comparisons: "toy" of four planners on 12 seeds, "bare" without curves."""
    folder = tmp_path_factory.mktemp("results")
    records = final()
    for name, curves in (("toy", True), ("bare", False)):
        kept = [record if curves else dataclasses.replace(record, curves={}) for record in records]
        ComparisonReport(summary_of(records), kept).write(folder / name) if curves else _bare(folder / name, kept)
    return folder


def _bare(folder, records) -> None:
    from lr_env.records.tables import write_manifest, write_runs

    folder.mkdir()
    write_runs(records, folder / "runs.parquet", {})
    write_manifest(folder, {})


@pytest.fixture
def figure(results, tmp_path, monkeypatch, capsys):
    """Run `lr-env figure` in an empty folder; returns its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lr-env", "figure", *arguments, "--results", str(results)])
        try:
            main()
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return run


def test_an_svg_holds_texts_and_the_medians_of_the_runs(figure, results, tmp_path):
    code, printed = figure("toy", "--planners", "linear,cyclic", "cosine", "--format", "svg", "--width", "3.5")
    assert code == 0
    assert printed == (
        "Median over 12 seeds; bands: quartiles; a cross marks where a run diverged.\nFigure: toy-curves.svg\n"
    )
    root = ElementTree.parse(tmp_path / "toy-curves.svg").getroot()
    assert root.get("width") == "252pt"  # 3.5 inches
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[-3:] == ["linear", "cyclic (1/12 diverged)", "cosine"]  # the legend, in the order given
    assert {"learning rate", "optimizer step", "0", "100"} <= set(texts)
    sizes = {float(size) for size in re.findall(r"font-size: ([\d.]+)px", (tmp_path / "toy-curves.svg").read_text())}
    assert sizes == {7.0, 7.5, 8.0}
    assert "<dc:date>" not in (tmp_path / "toy-curves.svg").read_text()
    runs = pq.read_table(results / "toy" / "runs.parquet").to_pylist()
    rates, losses = (group for group in root.iter(f"{SVG}g") if re.fullmatch(r"axes_\d", group.get("id", "")))
    to_step, to_loss, to_rate = scale(losses, "xtick"), scale(losses, "ytick", np.log), scale(rates, "ytick", np.log)
    for planner in ("linear", "cyclic", "cosine"):
        of = [run for run in runs if run["planner"] == planner]
        steps = max((run["curve_step"] for run in of), key=len)
        x, y = line(losses, f"val_loss {planner}")
        shown = np.round(to_step(x)).astype(int)
        assert shown[0] == steps[0]
        assert shown[-1] == steps[-1]
        # A run counts as infinitely bad from where it diverged; the median is the lower one of the two in the middle.
        rows = [[*np.nan_to_num(run["curve_val_loss"], nan=np.inf), *[np.inf] * 10][:10] for run in of]
        medians = dict(zip(steps, np.sort(rows, axis=0)[(len(of) - 1) // 2], strict=True))
        found = np.array([medians[step] for step in shown])
        pixel = 1 / 300 * 72  # in the points of the SVG, where a PNG has 300 dots an inch
        np.testing.assert_allclose(to_step.back(shown), x, atol=pixel)
        np.testing.assert_allclose(to_loss.back(np.log(found)), y, atol=pixel)
        x, y = line(rates, f"lr {planner}")
        levels = to_rate.back(np.log(of[-1]["curve_lr"][:-1]))  # all runs have the same; the last is 0
        assert all(abs(levels - value).min() < pixel for value in y if value < y.max())


def line(panel, name: str):
    """The x and y of the line of a name."""
    (group,) = (group for group in panel.iter(f"{SVG}g") if group.get("id") == name)
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", group.find(f"{SVG}path").get("d")), float).T


def scale(panel, kind: str, place=np.asarray):
    """A line through the ticks of an axis: coordinate of the SVG -> number, or its logarithm; `back` is its inverse."""
    at, values = [], []
    for group in panel.iter(f"{SVG}g"):
        if group.get("id", "").startswith(kind) and (texts := [*group.iter(f"{SVG}text")]):
            (use,) = group.iter(f"{SVG}use")
            at.append(float(use.get(kind[0])))
            values.append(float(texts[0].text.replace("\N{MINUS SIGN}", "-")))
    to_number = np.poly1d(np.polyfit(at, place(values), 1))
    np.testing.assert_allclose(to_number(at), place(values), atol=1e-3)
    to_number.back = np.poly1d(np.polyfit(place(values), at, 1))
    return to_number


@pytest.mark.parametrize(
    ("kind", "width"),
    [("curves", "2"), ("curves", "7.5"), ("scores", "2"), ("scores", "3.25"), ("differences", "2")],
)
def test_nothing_is_cut_off(figure, tmp_path, kind, width):
    title = ["--title", "A title that is too long for one line of $a$ column of a paper"]
    assert figure("toy", "--kind", kind, "--width", width, "--out", "figure.png", *title)[0] == 0
    pixels = imread(tmp_path / "figure.png")[..., :3]
    assert pixels.shape[1] == 300 * float(width)
    for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (border == 1).all()  # white


def test_a_pdf_has_truetype_fonts_and_the_same_bytes_every_time(figure, tmp_path):
    for name in ("first.pdf", "second.pdf"):
        options = ("--kind", "differences", "--height", "2.5", "--width", "4")
        assert figure("toy", "--out", name, *options)[0] == 0
    data = (tmp_path / "first.pdf").read_bytes()
    assert data == (tmp_path / "second.pdf").read_bytes()
    assert re.search(rb"/MediaBox \[ 0 0 288 180 \]", data)  # 4 x 2.5 inches
    assert b"/FontFile2" in data  # a TrueType font is embedded
    assert b"/Type3" not in data
    assert b"/CreationDate" not in data


def test_scales_may_be_linear_and_one_planner_needs_no_legend(figure, tmp_path):
    arguments = ("--planners", "cosine", "--lr-scale", "linear", "--loss-scale", "linear", "--format", "svg")
    assert figure("toy", *arguments) == (0, "Median over 12 seeds; bands: quartiles.\nFigure: toy-curves.svg\n")
    root = ElementTree.parse(tmp_path / "toy-curves.svg").getroot()
    assert "cosine" not in [text.text for text in root.iter(f"{SVG}text")]
    (panel, _) = (group for group in root.iter(f"{SVG}g") if re.fullmatch(r"axes_\d", group.get("id", "")))
    values = scale(panel, "ytick")(line(panel, "lr cosine")[1])
    assert values.max() == pytest.approx(0.09, abs=1e-3)  # 0.1 * (1 - 12 / 120)
    assert values.min() == pytest.approx(0.0, abs=1e-3)


def test_without_names_the_best_are_drawn(figure, results, tmp_path, monkeypatch):
    monkeypatch.setattr("lr_env.studies.comparison.paper.AT_ONCE", 2)
    code, printed = figure(str(results / "toy"), "--kind", "losses", "--format", "svg")
    assert code == 0
    assert printed.startswith(
        "drawn: the 2 of 4 planners with the lowest mean test losses\nMedian over 12 seeds; bands"
    )
    texts = [t.text for t in ElementTree.parse(tmp_path / "toy-losses.svg").getroot().iter(f"{SVG}text")]
    assert {*texts} & {*LOSSES} == {"cosine", "linear"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["toyy"], "unknown comparison 'toyy'; did you mean 'toy'?"),
        (["toy", "--planners", "cosin"], "unknown planner 'cosin'; did you mean 'cosine'?"),
        (["toy", "--planners", "cosine,cosine"], "planner cosine is given twice"),
        (["bare"], "comparison 'bare': the run of planner 'constant' on seed 100 has no curves: make the comparison"),
        (["toy", "--kind", "curve"], "unknown kind 'curve'; did you mean 'curves'?"),
        (["toy", "--kind", "differences", "--planners", "wsd"], "unknown planner 'wsd'"),
        (["toy", "--kind", "differences", "--planners", "cosine"], "differences of one planner: name at least two"),
        (["toy", "--format", "eps"], "unknown format 'eps' (there are: pdf, png, svg)"),
        (["toy", "--out", "figure.jpg"], "out 'figure.jpg': give the name of a file that ends in .pdf or .svg or .png"),
        (["toy", "--out", "figure.svg", "--format", "pdf"], "give the name of a file that ends in .pdf"),
        (["toy", "--width", "1"], "width 1: give 2 to 20 inches"),
        (["toy", "--height", "0.4"], "height 0.4: there is no room for the panels, give a larger --height"),
        (["toy", "--height", "-1"], "height -1: give at most 20 inches"),
        (["toy", "--lr-scale", "logs"], "unknown scale 'logs'; did you mean 'log'?"),
        (["toy", "--out", "/proc/none/figure.pdf"], "choose a folder you may write to with --out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_that_names_the_fix(figure, tmp_path, arguments, says):
    code, err = figure(*arguments)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_kind_is_in_the_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lr-env", "figure", "--help"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert all(kind in text for kind in KINDS)

"""The range test: noise is not taken for a fall or a rise, and what cannot be told is not told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import LOOP, Children
from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.studies.range_test import RangeTestResult, _smooth, range_test
from lr_env.tasks import MLP, TASKS

TASK = replace(TASKS["DigitsMLP"], network=MLP((8,)), budget=40, segment=10, val_subset=50)
LOG = np.linspace(-4, 0, 300)
FALL = -1 / (1 + np.exp(-8 * (LOG + 2)))  # half of it at 0.01
RISE = 4 * np.maximum(0, LOG + 1) ** 2  # from 0.1 on


def seen(course, noise=0.05, children=4, seed=0) -> RangeTestResult:
    """A test of children whose losses are a course, (steps,) or (children, steps), and noise."""
    course = np.broadcast_to(course, (children, 300))
    losses = 2.3 + course + noise * np.random.default_rng(seed).normal(size=course.shape)
    smooth = _smooth(losses.mean(0), np.zeros(300, dtype=bool), 0.9)
    return RangeTestResult("toy", tuple(range(children)), 10**LOG, losses, smooth)


@pytest.mark.parametrize(
    ("course", "known", "says"),
    [
        (FALL + RISE, ["lr_min", "lr_steepest", "lr_max"], None),
        (0 * LOG, [], "does not change beyond its noise: end higher than 1,"),
        (FALL, ["lr_min", "lr_steepest"], "does not rise again beyond its noise: end higher than 1,"),
        (2 * LOG, [], "rises from the start: begin lower than 0.0001"),
        (RISE - 0.03 * (LOG > -2), [], "does not fall beyond its noise before it rises: give more steps"),
        (np.exp(-40 * (LOG + 4)) + RISE, ["lr_max"], "falls from the start: begin lower than 0.0001"),
    ],
    ids=["all", "neither", "no rise", "no fall", "a fall that is noise", "falls at once"],
)
@pytest.mark.parametrize("seed", range(3))
def test_only_what_is_more_than_noise_is_told(course, known, says, seed, tmp_path):
    found = seen(course, seed=seed)
    assert list(found.rates) == known
    assert len(found.remarks) == (says is not None)
    assert says is None or says in found.remarks[0]
    summary = found.to_json()
    assert [name for name in ("lr_min", "lr_steepest", "lr_max") if summary[name] is not None] == known
    if seed == 0:
        found.write(tmp_path, {})
        assert json.loads((tmp_path / "range-test.json").read_text())["remarks"] == found.remarks


def test_where_the_three_rates_are():
    found = seen(FALL + RISE)
    assert 1e-3 < found.lr_min < 0.01
    assert found.lr_steepest == pytest.approx(0.01, rel=0.5)  # the average lags
    assert 0.05 < found.lr_max < 0.3


def test_children_tell_how_far_the_largest_rate_hangs_on_them():
    courses = np.array([FALL + 4 * np.maximum(0, LOG + at) ** 2 for at in (1.4, 1.2, 0.8, 0.6)])
    own = seen(courses, noise=0.001).lr_max_of_children
    assert (np.diff(own) > 0).all()
    losses = 2.3 + courses
    losses[0, 100:] = np.nan  # exploded, at about 0.002
    smooth = np.where(np.arange(300) < 100, 2.3, np.inf)
    exploded = RangeTestResult("toy", (0, 1, 2, 3), 10**LOG, losses, smooth).lr_max_of_children
    assert exploded[0] < 0.003
    assert (exploded[1:] > 0.05).all()


def test_as_many_steps_as_asked_for():
    found = range_test(TASK, [0, 1], 1e-4, 0.1, 25, execution=LOOP)
    assert found.losses.shape == (2, 25)
    assert np.isfinite(found.losses).all()
    assert found.lr[-1] == pytest.approx(0.1)
    first = range_test(TASK, [0, 1], 1e-4, 0.1, 25, execution=LOOP).losses
    np.testing.assert_array_equal(first, found.losses)


def test_killed_on_the_way_it_goes_on_to_the_same_losses(tmp_path, monkeypatch):
    """The rates of a test that diverges near its end; another test does not go on from its checkpoint."""
    rates = TASK, [0, 1], 1e-3, 10.0
    whole = range_test(*rates, 60, execution=LOOP)
    file = tmp_path / "checkpoint"
    train, calls = Children.train, []

    def killed(self, *arguments):
        calls.append(self)
        if len(calls) == 4:
            raise KeyboardInterrupt
        train(self, *arguments)

    monkeypatch.setattr(Children, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        range_test(*rates, 60, execution=LOOP, checkpoint=file, checkpoint_seconds=0)
    assert file.exists()
    calls.clear()
    resumed = range_test(*rates, 60, execution=LOOP, checkpoint=file, checkpoint_seconds=3600)
    assert len(calls) == 3  # of the six chunks
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert not file.exists()
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        range_test(*rates, 60, execution=LOOP, checkpoint=file, checkpoint_seconds=0)
    monkeypatch.setattr(Children, "train", train)
    other = range_test(*rates, 50, execution=LOOP, checkpoint=file)
    np.testing.assert_array_equal(other.losses, range_test(*rates, 50, execution=LOOP).losses)


@pytest.mark.parametrize(
    ("seeds", "steps", "message"),
    [
        ([3, 3], 100, "seed 3 is given twice: each seed may be given once"),
        ([-1], 100, "seed -1: seeds are whole numbers from 0"),
        ([0], 10**13, "give at most 100,000 with 1 seed"),
        (range(10_000), 50_000, "give at most 10,000 with 10000 seeds"),
    ],
)
def test_range_tests_that_cannot_be(seeds, steps, message):
    with pytest.raises(UserError, match=message):
        range_test(TASK, seeds, 1e-3, 1.0, steps, execution=LOOP)


def test_the_command_tells_what_is_known_and_what_to_change(tmp_path, monkeypatch, capsys):
    arguments = ["range-test", "DigitsMLP", "--steps", "60", "--rates", "1e-7:1e-5", "--backend", "stacked"]
    monkeypatch.setattr(sys, "argv", ["lr-env", *arguments, "--results", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "200")
    main()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("the loss does not change beyond its noise: end higher than 1e-05")
    assert out[1] == "4 seeds, 60 steps from 1e-07 to 1e-05"
    assert (tmp_path / "DigitsMLP-range-test" / "range-test.png").stat().st_size > 10_000


@pytest.mark.parametrize("option", ["--budget", "--segment"])
def test_options_of_runs_are_refused(option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lr-env", "range-test", "DigitsMLP", option, "7"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "a range test has none, give its length with --steps" in capsys.readouterr().err

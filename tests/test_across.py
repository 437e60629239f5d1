"""Comparisons put together: the mathematics against known answers and slow loops, the files as people use them."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.records.tables import read_manifest, read_runs, write_manifest
from lr_env.report.terminal import print_document
from lr_env.stats import intervals as st
from lr_env.stats.intervals import resampled
from lr_env.stats.ranks import cost_ratios, mean_ranks, profile, scores
from lr_env.studies.across.report import AcrossReport
from lr_env.studies.across.saved import SavedComparison, read_saved
from lr_env.studies.across.standings import aggregate
from lr_env.studies.comparison.report import ComparisonReport
from lr_env.studies.comparison.summary import summarise
from lr_env.tasks import TASKS

KEPT = Path(__file__).parent.parent / "results"
PLANNERS = {
    "DigitsMLP": {"cosine": 0.20, "linear": 0.21, "constant": 0.30, "lookahead": 0.25, "cyclic": 0.9},
    "FashionMLP": {"linear": 0.5, "cosine": 0.52, "constant": 0.8, "lookahead": 0.9, "wsd": 0.1},
}


FILES = {"summary.md", "summary.csv", "across.png", "manifest.json", "report.html"}


def run(planner: str, seed: int, loss: float, *, diverged: bool = False) -> RunRecord:
    """A run of 10 segments of 12 steps; "lookahead" takes 9 further steps for each."""
    noise = np.random.default_rng([seed, *map(ord, planner)]).normal(scale=0.02 * loss)
    step = 12.0 * np.arange(1, 11)
    return RunRecord(
        phase="final",
        planner=planner,
        settings={"peak": 0.1},
        seed=seed,
        status="finished",
        diverged=diverged,
        steps=120,
        extra_steps=1080 if planner == "lookahead" else 0,
        scores={} if diverged else {"final_val_loss": loss + noise, "test_loss": loss + noise},
        planning_seconds=0.1,
        curves={"step": step, "lr": 0.1 - 0 * step, "val_loss": (loss + noise) * (1 + np.exp(-step / 40))},
    )


def records_of(task: str, seeds: int) -> list[RunRecord]:
    return [run(name, seed, loss) for name, loss in PLANNERS[task].items() for seed in range(seeds)]


def write(folder: Path, task: str, seeds: int) -> None:
    records = records_of(task, seeds)
    tuning = [replace(record, phase="tune", seed=1000 + record.seed, curves={}) for record in records]
    steps = dict.fromkeys(PLANNERS[task], 120 * seeds)
    manifest = {"task": TASKS[task].settings(), "data_sha256": task, "command": f"lr-env compare {task}"}
    manifest["task"]["target_val_loss"] = 0.4 if task == "DigitsMLP" else None
    summary = summarise(records, target_val_loss=0.4, tuning_steps=steps)
    ComparisonReport(summary, records, tuning, manifest).write(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write(folder / "digits", "DigitsMLP", 6)
    write(folder / "fashion", "FashionMLP", 5)
    return folder


@pytest.fixture
def results(written, tmp_path):
    """A copy to be changed."""
    return Path(shutil.copytree(written, tmp_path / "results"))


def change(folder: Path, **task: object) -> None:
    manifest = read_manifest(folder)
    manifest["task"] |= task
    write_manifest(folder, manifest)


def test_mean_ranks_are_those_of_the_mean_losses():
    first = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, np.inf], [0.0, 1.0], [np.inf, 9.0]])
    losses = [first, np.arange(15.0).reshape(5, 3)]
    whole = [np.arange(2)[None], np.arange(3)[None]]
    assert mean_ranks(losses, whole).tolist() == [[(2.5 + 1) / 2, (2.5 + 2) / 2, (4.5 + 3) / 2, (1 + 4) / 2, 4.75]]
    draws = resampled([2, 3])
    for number, values in enumerate(mean_ranks(losses, draws)[:50]):
        ranks = [stats.rankdata(of[:, drawn[number]].mean(1)) for of, drawn in zip(losses, draws, strict=True)]
        np.testing.assert_array_equal(values, np.mean(ranks, 0))


def test_equal_planners_tie_on_every_draw():
    losses = np.random.default_rng(0).normal(size=(4, 20))
    losses[3] = losses[1]
    ranks = mean_ranks([losses], resampled([20]))
    np.testing.assert_array_equal(ranks[:, 1], ranks[:, 3])


def test_the_profile_and_its_mean():
    # Medians 100, 200 and infinity: each run is held against 100.
    costs = np.array([[80.0, 100.0, 400.0], [200.0, 200.0, 200.0], [100.0, np.inf, np.inf]])
    ratios = cost_ratios(costs)
    np.testing.assert_array_equal(ratios, costs / 100)
    shares = profile([ratios], np.array([1.0, 1.99, 2.0, 4.0]))
    np.testing.assert_allclose(shares, np.array([[2, 2, 2, 3], [0, 0, 3, 3], [1, 1, 1, 1]]) / 3)
    values = scores([costs], [np.arange(3)[None]])[0]
    np.testing.assert_allclose(values, [2 / 3, 2 / 3, 1 / 3])  # a run of ratio 4 adds nothing
    taus = np.linspace(1, 4, 30_001)
    np.testing.assert_allclose(np.trapezoid(profile([ratios], taus), taus) / 3, values, atol=1e-4)
    # A second task, on which nobody gets there in more than half of the runs, adds nothing.
    missed = np.array([[50.0, np.inf], [np.inf, np.inf], [np.inf, 60.0]])
    assert np.isinf(cost_ratios(missed)).all()
    both = scores([costs, missed], [np.arange(3)[None], np.arange(2)[None]])[0]
    np.testing.assert_allclose(both, values / 2)
    # Where all runs of a planner cost the same it is AlgoPerf's: the share of tasks within tau of the best.
    tasks = np.array([[100.0, 300.0, np.inf], [250.0, 100.0, 100.0]])
    same = [np.repeat(task[:, None], 4, axis=1) for task in tasks.T]
    expected = np.clip((4 - tasks / tasks.min(0)) / 3, 0, 1).mean(1)
    np.testing.assert_allclose(scores(same, [np.arange(4)[None]] * 3)[0], expected)


def comparison(task: str, seeds: int, **changes: object) -> SavedComparison:
    runs: dict[str, list[RunRecord]] = {}
    for record in records_of(task, seeds):
        runs.setdefault(record.planner, []).append(record)
    manifest = {"task": TASKS[task].settings()}
    saved = SavedComparison(
        Path(task), task, manifest, runs, dict.fromkeys(runs, 2), dict.fromkeys(runs, 240), 0.4, "the task", ""
    )
    return replace(saved, **changes)


def test_intervals_are_those_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(st, "RESAMPLES", 300)
    tasks = [comparison("DigitsMLP", 6), comparison("FashionMLP", 5, target_val_loss=0.6)]
    standings = aggregate(tasks)
    names = [row.planner for row in standings.rows]
    assert set(names) == {"cosine", "linear", "constant", "lookahead"}
    draws = resampled([6, 5])
    assert [draw.shape for draw in draws] == [(300, 6), (300, 5)]
    ranks, shares, wins = np.zeros((3, 300, len(names)))
    for number in range(300):
        for task, drawn in zip(tasks, draws, strict=True):
            chosen = {name: [task.runs[name][seed] for seed in drawn[number]] for name in names}
            losses = {name: [one.scores["test_loss"] for one in chosen[name]] for name in names}
            ranks[number] += stats.rankdata([np.mean(losses[name]) for name in names]) / 2
            costs = {}
            for name in names:
                costs[name] = []
                for one in chosen[name]:
                    reached = one.curves["step"][one.curves["val_loss"] <= task.target_val_loss]
                    first = reached[0] if len(reached) else np.inf
                    costs[name].append(first * (10 if name == "lookahead" else 1))
            fastest = min(np.median(costs[name]) for name in names)
            for at, name in enumerate(names):
                shares[number, at] += np.mean([max(0, 4 - max(1, cost / fastest)) / 3 for cost in costs[name]]) / 2
                pairs = [(a < b) + (a == b) / 2 for a in losses[name] for b in losses["constant"]]
                wins[number, at] += np.mean(pairs) / 2
    assert np.ptp(shares[:, 0]) > 0  # else it would say nothing
    for at, row in enumerate(standings.rows):
        for estimate, by_hand in ((row.mean_rank, ranks), (row.score, shares), (row.improvement, wins)):
            if estimate is not None:
                ends = np.quantile(by_hand[:, at], [0.025, 0.975], method="inverted_cdf")
                np.testing.assert_allclose([estimate.low, estimate.high], ends)
        if at:
            ends = np.quantile(ranks[:, at] - ranks[:, 0], [0.025, 0.975], method="inverted_cdf")
            np.testing.assert_allclose([row.to_first.difference.low, row.to_first.difference.high], ends)
    assert next(row for row in standings.rows if row.planner == "constant").improvement is None
    assert next(row for row in standings.rows if row.planner == "lookahead").steps_ratio == 10


def test_intervals_hold_the_true_mean_rank(monkeypatch):
    monkeypatch.setattr(st, "RESAMPLES", 299)
    random = np.random.default_rng(5)
    true = np.arange(6) / np.sqrt(10)  # a standard error apart
    draws = resampled([10, 10, 10])
    hits = []
    for _ in range(150):
        losses = [true[:, None] + random.normal(size=(1, 10)) + random.normal(size=(6, 10)) for _ in draws]
        low, high = np.quantile(mean_ranks(losses, draws), [0.025, 0.975], axis=0, method="inverted_cdf")
        hits.append((low <= np.arange(1, 7)) & (np.arange(1, 7) <= high))
    assert np.mean(hits) > 0.93


def test_a_run_that_diverged_counts_with_an_infinite_loss():
    worst = {**comparison("DigitsMLP", 6).runs}
    worst["cosine"] = [run("cosine", 0, 0.2, diverged=True), *worst["cosine"][1:]]
    standings = aggregate([comparison("DigitsMLP", 6, runs=worst), comparison("FashionMLP", 5)])
    row = next(row for row in standings.rows if row.planner == "cosine")
    assert row.ranks[0] == 4
    assert np.isinf(row.test_losses[0])
    assert (row.runs, row.diverged) == (11, 1)
    assert row.mean_rank.low < row.mean_rank.value  # draws without that seed rank it higher


def test_one_seed_allows_no_interval():
    standings = aggregate([comparison("DigitsMLP", 6), comparison("FashionMLP", 1)])
    assert all(np.isnan(row.mean_rank.low) and np.isnan(row.score.high) for row in standings.rows)
    assert {row.to_first.verdict for row in standings.rows[1:]} == {"not told apart"}
    assert standings.conclusion.startswith("Nothing can be told apart")
    assert "FashionMLP ran on 1 seed" in standings.conclusion


def test_a_target_that_nobody_reaches_adds_nothing(capsys):
    standings = aggregate([comparison("DigitsMLP", 6), comparison("FashionMLP", 5, target_val_loss=0.01)])
    assert max(row.score.value for row in standings.rows) <= 0.5
    print_document(AcrossReport(standings).document(), Console(width=120))
    assert "On FashionMLP no planner reaches the target" in capsys.readouterr().out


def test_tasks_of_one_name_have_that_of_their_comparison():
    one = comparison("DigitsMLP", 2)
    noisy = replace(one, name="noisy", manifest={"task": {**one.task, "label_noise": 0.2}})
    assert aggregate([one, noisy]).tasks == ("DigitsMLP", "noisy")
    with pytest.raises(UserError, match="give the folder of one comparison another name"):
        aggregate([one, replace(noisy, name="DigitsMLP")])


def test_what_counts_as_the_same_task():
    one = comparison("DigitsMLP", 2)
    for field, value, same in (
        ("segment", 5, True),
        ("target_val_loss", 0.1, True),
        ("name", "Other", True),
        ("budget", 500, False),
        ("label_noise", 0.2, False),
        ("optimizer", {"class": "Adam"}, False),
    ):
        other = replace(one, manifest={"task": {**one.task, field: value}})
        assert one.same_training_as(other) is same, field
    older = {name: value for name, value in one.task.items() if name not in ("label_noise", "clip_norm")}
    assert one.same_training_as(replace(one, manifest={"task": older}))  # fields that came later have their defaults
    assert not one.same_training_as(comparison("FashionMLP", 2))


def test_runs_are_read_as_they_were_written(written):
    final = [record for record in read_runs(written / "digits" / "runs.parquet") if record.phase == "final"]
    expected = sorted(records_of("DigitsMLP", 6), key=lambda record: (record.planner, record.seed))
    for one, other in zip(final, expected, strict=True):
        assert replace(one, curves={}) == replace(other, curves={})
        assert one.curves.keys() == other.curves.keys()
        for name, curve in other.curves.items():
            np.testing.assert_array_equal(one.curves[name], curve)


def test_a_task_without_a_target_has_that_of_its_best_baseline(written):
    digits, fashion = (read_saved(written / name) for name in ("digits", "fashion"))
    assert (digits.target_val_loss, digits.target_from) == (0.4, "the task")
    ends = [record.curves["val_loss"][-1] for record in records_of("FashionMLP", 5) if record.planner == "wsd"]
    assert fashion.target_val_loss == np.median(ends)  # of wsd, though it ran in this comparison only
    assert "wsd" in fashion.target_from
    assert fashion.tuning_runs == dict.fromkeys(PLANNERS["FashionMLP"], 5)


def call(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lr-env", "across", *arguments])
    main()


@pytest.mark.usefixtures("global_generators_kept")  # rich draws the ids of its styles
def test_from_the_files_to_a_report(results, monkeypatch, capsys):
    monkeypatch.chdir(results.parent)
    monkeypatch.setenv("COLUMNS", "100")
    call(monkeypatch, "digits", "results/fashion", "--name", "both")  # by name, and by folder
    out = capsys.readouterr().out
    assert "Left out of digits: cyclic" in out
    assert "Left out of fashion: wsd" in out
    assert "The tasks are fixed" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100
    folder = results / "both"
    assert {path.name for path in folder.iterdir()} == FILES
    with (folder / "summary.csv").open() as file:
        rows = {row["planner"]: row for row in csv.DictReader(file)}
    assert float(rows["cosine"]["mean_rank"]) == float(rows["linear"]["mean_rank"]) == 1.5
    assert rows["constant"]["rank_FashionMLP"] == "3.0"
    assert rows["constant"]["improvement"] == ""
    assert rows["lookahead"]["steps_ratio"] == "10.0"
    assert rows["lookahead"]["tuning_runs"] == "11"
    digits = read_saved(results / "digits")
    assert float(rows["lookahead"]["steps_to_target_DigitsMLP"]) == 10 * st.median_steps(
        st.steps_to_target(one.curves["step"], one.curves["val_loss"], 0.4) for one in digits.runs["lookahead"]
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [one["name"] for one in manifest["comparisons"]] == ["digits", "fashion"]
    assert manifest["command"] == "lr-env across digits results/fashion --name both"
    page = (folder / "summary.md").read_text()
    assert "lr-env compare FashionMLP" in page
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    call(monkeypatch, "digits", "results/fashion", "--name", "both")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    call(monkeypatch, "digits", "fashion", "--planners", "linear,cosine")
    assert "lookahead" not in (results / "across" / "summary.csv").read_text()
    assert "Left out of digits: constant, cyclic, lookahead" in capsys.readouterr().out


def test_the_comparisons_that_are_kept_can_be_read():
    comparisons = [read_saved(folder) for folder in sorted(KEPT.glob("*-20-seeds"))]
    standings = aggregate(comparisons)
    assert list(standings.tasks) == [one.task["name"] for one in comparisons]
    for number, one in enumerate(comparisons):
        with (one.folder / "summary.csv").open(newline="") as file:
            order = [row["planner"] for row in csv.DictReader(file)]  # by mean test loss
        ranks = {row.planner: row.ranks[number] for row in standings.rows}
        listed = [ranks[name] for name in order if name in ranks]
        assert listed == sorted(listed)  # those of which runs diverged are as bad as each other
        assert standings.left_out[number] == tuple(sorted(set(order) - set(ranks)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digits"], "name at least two"),
        (["digits", "fashon"], "unknown comparison 'fashon'; did you mean 'fashion'? (there are: "),
        (["digits", "empty"], "unknown comparison 'empty'"),
        (
            ["digits", "again"],
            "'results/digits' and 'results/again' train the same task (DigitsMLP), which would count twice",
        ),
        (["digits", "digits"], "'results/digits' and 'results/digits' train the same task"),
        (["digits", "other"], "only 'cyclic' ran in all of digits and other"),
        (["digits", "fashion", "--planners", "cosine", "wsd"], "planner 'wsd' did not run in comparison 'digits'"),
        (["digits", "fashion", "--planners", "cosine"], "one was named"),
        (["digits", "fashion", "--planners", "cosine,cosine"], "planner cosine is given twice"),
        (["digits", "fashion", "--name", "digits"], "holds a comparison: choose another --name"),
        (["digits", "fashion", "--name", "../up"], "begin with a letter or digit"),
        (["digits", "broken"], "is damaged or no table of runs"),
        (["digits", "taskless"], "is damaged or of no comparison"),
        (["digits", "text"], "is damaged or of no comparison"),
        (
            ["digits", "nan"],
            "'results/nan' is damaged or of no comparison of `lr-env compare` (ValueError: target",
        ),
        (["digits", "fashion", "--planners", ","], "no planners: name at least two with --planners"),
        (["digits", "bare"], "summary.csv': make the comparison again"),
        (["digits", "uneven"], "comparison 'uneven': planners 'constant' and 'lookahead' ran on different seeds"),
        ([], "name at least two"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_that_names_the_fix(results, monkeypatch, capsys, arguments, says):
    (results / "empty").mkdir()
    for name in ("again", "other", "broken", "taskless", "text", "nan", "bare", "uneven"):
        shutil.copytree(results / "digits", results / name)
    change(results / "again", segment=5, name="DigitsMLP")
    (results / "broken" / "runs.parquet").write_bytes(b"PAR1 and no more")
    (results / "taskless" / "manifest.json").write_text('{"task": "DigitsMLP"}')
    change(results / "text", target_val_loss="x")
    change(results / "nan", target_val_loss=float("nan"))
    (results / "bare" / "summary.csv").unlink()
    if "other" in arguments:
        shutil.rmtree(results / "other")
        monkeypatch.setitem(PLANNERS, "FashionMLP", {"cyclic": 0.5, "wsd": 0.4})
        write(results / "other", "FashionMLP", 2)
    if "uneven" in arguments:
        monkeypatch.setattr(
            "lr_env.studies.across.saved.read_runs",
            lambda path, curves: read_runs(path, curves)[: -1 if path.parent.name == "uneven" else None],
        )
    monkeypatch.chdir(results.parent)
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, *arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2, out + err
    assert says in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not (results / "across").exists()


def test_where_no_target_can_be_set(results, monkeypatch):
    records = [replace(r, diverged=r.planner == "wsd") for r in read_runs(results / "fashion" / "runs.parquet")]
    monkeypatch.setattr("lr_env.studies.across.saved.read_runs", lambda path, curves: records)
    with pytest.raises(UserError, match="sets no target validation loss"):
        read_saved(results / "fashion")

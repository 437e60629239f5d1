import csv
import dataclasses
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.report.files import NotDrawn
from lr_env.report.formatting import setting_text
from lr_env.report.terminal import print_document
from lr_env.studies.comparison.report import ComparisonReport
from lr_env.studies.comparison.spent import Spent, spent
from lr_env.studies.comparison.summary import summarise

SEEDS = range(100, 112)
LOSSES = {"cosine": 0.20, "linear": 0.20, "constant": 0.25, "cyclic": 0.22}
STEPS = {"cosine": 480, "linear": 480, "constant": 480, "cyclic": 480}
FILES = {"summary.md", "summary.csv", "runs.parquet", "curves.png", "scores.png", "manifest.json", "report.html"}


def run(planner: str, seed: int, *, loss: float | None = None, seconds: float = 0.1) -> RunRecord:
    """A run whose loss hangs on its seed, and a little on its planner; the first run of "cyclic" diverges."""
    rng = np.random.default_rng([seed, sum(map(ord, planner))])
    loss = LOSSES[planner] if loss is None else loss
    loss += 0.05 * np.random.default_rng(seed).normal() ** 2 + 0.002 * rng.normal()
    diverged = planner == "cyclic" and seed == SEEDS[0]
    segments = 4 if diverged else 10
    step = 12.0 * np.arange(1, segments + 1)
    val_loss = loss + 2 * np.exp(-step / 20)
    if diverged:
        val_loss[-1] = np.nan
    scores = {"final_val_loss": loss, "final_val_accuracy": 0.9, "test_loss": loss, "test_accuracy": 1 - loss}
    return RunRecord(
        phase="final",
        planner=planner,
        settings={"peak": 0.1, "cooldown": 0.5},
        seed=seed,
        status="finished",
        diverged=diverged,
        steps=int(step[-1]),
        scores={"test_loss": 25.0, "test_accuracy": 0.1} if diverged else scores,
        planning_seconds=seconds,
        curves={"step": step, "lr": 0.1 * (1 - step / 120), "val_loss": val_loss},
    )


def tuning(planner: str, peak: float) -> RunRecord:
    loss = {"final_val_loss": 0.3 + abs(peak - 0.1)}
    settings = {"peak": peak, "cooldown": 0.5}
    return RunRecord("tune", planner, settings, seed=1, status="finished", steps=120, scores=loss)


def final(**change: float) -> list[RunRecord]:
    return [run(p, s, loss=change.get(p)) for s in SEEDS for p in LOSSES]


def summary_of(records: list[RunRecord], **options):
    return summarise(records, **({"target_val_loss": 0.4, "tuning_steps": STEPS} | options))


def printed(summary, out, width: int) -> None:
    print_document(ComparisonReport(summary).document(), Console(file=out, width=width))


def test_what_is_not_told_apart_is_named_with_how_far_it_may_be_off():
    summary = summary_of(final())
    first, second = summary.rows[:2]
    assert {first.planner, second.planner} == {"cosine", "linear"}
    assert summary.tied == (second.planner,)
    assert summary.conclusion.startswith(f"{first.planner} has the lowest mean test loss (0.")
    largest = second.to_best.difference.high
    assert f"Not told apart from it, up to {largest:.4f} nats/example: {second.planner} (the" in summary.conclusion
    assert f"{first.planner} beats the best constant rate (peak=0.1, cooldown=0.5) by 0.0" in summary.conclusion
    assert "12 seeds" in summary.conclusion
    assert "p-values are adjusted for their number" in summary.conclusion


def test_a_winner_is_called_a_winner():
    summary = summary_of(final(linear=0.15))
    by_name = {r.planner: r for r in summary.rows}
    assert [r.planner for r in summary.rows] == ["linear", "cosine", "constant", "cyclic"]
    assert summary.tied == ()
    assert "linear has the lowest mean test loss" in summary.conclusion
    assert "and every other planner is told apart from it" in summary.conclusion
    assert summary.baseline == "linear"
    assert by_name["linear"].to_baseline is None
    assert by_name["constant"].to_reference is None
    gap = by_name["cosine"].to_baseline
    assert gap.verdict == "worse"
    assert gap.difference.low < 0.05 < gap.difference.high
    assert by_name["linear"].to_reference.verdict == "better"
    assert by_name["linear"].n == 12
    assert by_name["linear"].steps_to_target == 48


def test_the_baseline_is_chosen_on_validation_data_whatever_the_test_data_say():
    records = [
        dataclasses.replace(r, scores=dict(r.scores) | {"final_val_loss": 0.01}) if r.planner == "constant" else r
        for r in final()
    ]
    summary = summary_of(records)
    assert summary.baseline == "constant"
    assert summary.rows[0].planner != "constant"


def test_controls_are_held_against_their_planners(tmp_path):
    records = final(cosine=0.19)
    summary = summary_of(records, controls={"linear": "cosine"})
    ((planner, control, versus),) = summary.controls
    losses = {p: np.array([r.scores["test_loss"] for r in records if r.planner == p]) for p in ("cosine", "linear")}
    assert (planner, control, versus.verdict) == ("cosine", "linear", "better")
    assert versus.difference.value == pytest.approx((losses["cosine"] - losses["linear"]).mean())
    ComparisonReport(summary, records, [], {"title": "toy"}).write(tmp_path)
    assert "| cosine | linear | -0.01" in (tmp_path / "summary.md").read_text()
    ComparisonReport(summary_of(records), records, [], {"title": "toy"}).write(tmp_path)
    assert "## Controls" not in (tmp_path / "summary.md").read_text()


def test_a_diverged_run_counts_against_its_planner():
    row = summary_of(final()).rows[-1]
    assert (row.planner, row.diverged, row.test_loss.value) == ("cyclic", 1, np.inf)
    assert row.to_baseline.verdict == "worse"  # 25 nats as a number would widen the interval over 0
    assert row.test_loss_iqm.value < 0.4
    assert row.steps_to_target < np.inf  # the median run got there


def test_runs_that_cannot_be_compared_are_refused():
    records = final()
    with pytest.raises(UserError, match="different seeds"):
        summary_of(records[:-1])
    with pytest.raises(UserError, match="two final runs on one seed"):
        summary_of([*records, records[-1]])
    with pytest.raises(UserError, match="only runs of phase"):
        summary_of([dataclasses.replace(records[0], phase="tune"), *records[1:]])
    with pytest.raises(UserError, match="not finished"):
        summary_of([dataclasses.replace(records[0], status="running"), *records[1:]])
    with pytest.raises(UserError, match="no finite final_val_loss"):
        summary_of([dataclasses.replace(records[0], scores={}), *records[1:]])
    with pytest.raises(UserError, match="no curves"):
        summary_of([dataclasses.replace(records[0], curves={}), *records[1:]])
    with pytest.raises(UserError, match="different settings"):
        summary_of([dataclasses.replace(records[0], settings={"peak": 1.0}), *records[1:]])
    with pytest.raises(UserError, match="tuning_steps has no entry"):
        summary_of(records, tuning_steps={"cosine": 1})


def test_one_seed_and_one_planner():
    one_seed = summary_of([r for r in final() if r.seed == SEEDS[1]])
    assert one_seed.conclusion.startswith("Nothing can be told apart on 1 seed")
    assert len(one_seed.tied) == 3
    alone = summary_of([r for r in final() if r.planner == "cosine"], target_val_loss=None)
    assert alone.conclusion.startswith("cosine is the only planner")
    assert alone.reference is None


def test_setting_text_is_compact():
    settings = {"peak": 0.123456, "steps": 1, "milestones": [0.5, 0.75], "nesterov": True, "power": None}
    assert setting_text(settings) == "peak=0.123, steps=1, milestones=(0.5, 0.75), nesterov=yes, power=none"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    records = final()
    tuning_records = [tuning(p, peak) for p in LOSSES for peak in (0.01, 0.1)]
    summary = summary_of(records)
    manifest = {"task": "Digits", "command": "lr-env compare Digits", "seeds": list(SEEDS), "device": "CPU"}
    ComparisonReport(summary, records, tuning_records, manifest).write(folder)
    return folder, records, summary


def test_the_files_hold_what_was_found(written):
    folder, records, summary = written
    assert {p.name for p in folder.iterdir()} == FILES  # and no temporary ones
    for name in ("curves.png", "scores.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    page = (folder / "summary.md").read_text(encoding="utf-8")
    for text in (summary.conclusion, "](curves.png)", "](scores.png)", "lr-env compare Digits", "100 to 111"):
        assert text in page
    assert "(reference)" in page
    assert "**peak=0.1: 0.3000**; peak=0.01: 0.3900" in page
    assert json.loads((folder / "manifest.json").read_text())["device"] == "CPU"

    rows = list(csv.DictReader(io.StringIO((folder / "summary.csv").read_text())))
    assert [r["planner"] for r in rows] == [r.planner for r in summary.rows]
    assert float(rows[0]["test_loss"]) == summary.rows[0].test_loss.value  # every digit
    assert rows[1]["verdict_to_best"] == "not told apart"
    assert float(rows[-1]["test_loss"]) == np.inf

    runs = pq.read_table(folder / "runs.parquet").to_pylist()
    assert len(runs) == len(records) + 8
    kept = {(r["phase"], r["planner"], r["seed"]): r for r in runs}
    for record in records:
        row = kept["final", record.planner, record.seed]
        assert json.loads(row["settings"]) == record.settings
        assert row["test_loss"] == record.scores.get("test_loss")
        np.testing.assert_array_equal(row["curve_val_loss"], record.curves["val_loss"])
        assert row["curve_train_loss"] is None


def test_the_same_comparison_gives_the_same_bytes_but_for_seconds(written, tmp_path):
    folder, _, _ = written
    again = [run(r.planner, r.seed, seconds=0.2) for r in reversed(final())]
    ComparisonReport(summary_of(again), again).write(tmp_path)
    first, second = (
        [
            {k: v for k, v in row.items() if not k.endswith("_seconds")}
            for row in csv.DictReader(io.StringIO((f / "summary.csv").read_text()))
        ]
        for f in (folder, tmp_path)
    )
    assert first == second
    ComparisonReport(summary_of(final()), final()).write(tmp_path / "same")
    assert (tmp_path / "same" / "summary.csv").read_bytes() == (folder / "summary.csv").read_bytes()


def test_flatness_is_shown_where_it_was_measured(written, tmp_path):
    records = [
        record if record.diverged else dataclasses.replace(record, scores={**record.scores, **flatness_of(record)})
        for record in final()
    ]
    summary = summary_of(records)
    ComparisonReport(summary, records, [tuning("cosine", 0.1)]).write(tmp_path)
    rows = {row["planner"]: row for row in csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text()))}
    for planner, row in rows.items():
        values = [r.scores["hessian_max"] for r in records if r.planner == planner and not r.diverged]
        assert float(row["hessian_max"]) == pytest.approx(np.mean(values))
        assert len(values) == (11 if planner == "cyclic" else 12)
        assert float(row["hessian_trace_low"]) < 10 * np.mean(values) < float(row["hessian_trace_high"])
    page = (tmp_path / "summary.md").read_text()
    assert "| Hessian max | Hessian trace |" in page
    assert "- **Hessian max**: largest eigenvalue of the training loss's Hessian" in page
    runs = pq.read_table(tmp_path / "runs.parquet")
    assert runs["hessian_max"].null_count == 2  # the diverged run and that of the sweep
    out = io.StringIO()
    printed(summary, out, 120)
    assert "only in the files" in out.getvalue()
    assert "Hessian trace" in out.getvalue().split("only in the files")[1]
    # Without it, the files are as they were.
    for file, folder in (("summary.csv", written[0]), ("summary.md", written[0])):
        assert "essian" not in (folder / file).read_text()
    assert "hessian_max" not in pq.read_table(written[0] / "runs.parquet").column_names


def flatness_of(record: RunRecord) -> dict[str, float]:
    largest = 10 + np.random.default_rng([record.seed, len(record.planner)]).normal()
    return {"hessian_max": largest, "hessian_trace": 10 * largest}


@pytest.mark.parametrize("width", [80, 120])
def test_the_printed_table_fits_and_says_what_is_unclear(written, width):
    summary = written[2]
    out = io.StringIO()
    printed(summary, out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert " unclear" in text
    assert "…" not in text.split("12 seeds")[0]  # no cell is cut off
    assert "cyclic (1 div.)" in text
    assert "unclear: not told apart" in " ".join(text.split())


@pytest.mark.parametrize("width", [45, 80, 120])
def test_the_table_tells_what_each_planner_was_tuned_with(width):
    had = {"cosine": Spent(24, 40.2), "linear": Spent(24), "constant": Spent(24), "cyclic": Spent(24, 5500.0)}
    out = io.StringIO()
    printed(summary_of(final(), spent=had), out, width)
    text = out.getvalue()
    assert "24+40" in text
    assert "24+5500" in text
    assert "with before" in " ".join(text.split())  # what the numbers mean


def test_a_control_had_what_its_planner_had():
    class Setting:
        pretraining_steps = 4000

    class Control(Setting):
        control_of = "cosine"

        def matched(self, planner):
            return self

    runs = [dataclasses.replace(tuning("cosine", 0.1), seed=seed) for seed in range(3)]
    had = spent(runs, {"cosine": Setting(), "linear": Control(), "constant": object()}, 100)
    assert {name: str(of) for name, of in had.items()} == {"cosine": "3+40", "linear": "3+40", "constant": "0"}


@pytest.mark.parametrize("width", [20, 30, 40, 45])
def test_a_narrow_terminal_cuts_no_name(written, width):
    names = {"cosine": "hypergradient-multiplicative", "linear": "latent-ode-generative"}
    records = [dataclasses.replace(r, planner=names.get(r.planner, r.planner)) for r in final()]
    out = io.StringIO()
    summary = summary_of(records, tuning_steps={r.planner: 480 for r in records})
    printed(summary, out, width)
    text = out.getvalue()
    assert "…" not in text
    for row in summary.rows:
        assert row.planner in text.splitlines() or f"{row.planner} (1 div.)" in text.splitlines() or width == 45
        assert row.planner in text


def test_a_terminal_that_cannot_show_everything(written):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    printed(written[2], out, 100)
    out.flush()
    text = out.buffer.getvalue().decode("ascii")
    assert "+-" in text
    assert "--------" in text
    lines = [line for line in text.splitlines() if "+-0." in line]
    assert len({len(line) for line in lines}) == 1  # still in columns


def test_figures_that_cannot_be_drawn_cost_nothing_else(tmp_path, monkeypatch):
    from lr_env.studies.comparison import figures

    def fail(*given):
        raise RuntimeError("no fonts\nat all")

    monkeypatch.setattr(figures, "draw_curves", fail)
    with pytest.warns(NotDrawn, match=r"curves.png' was not drawn \(RuntimeError: no fonts\)"):
        ComparisonReport(summary_of(final()), final(), [], {"title": "toy"}).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"curves.png"}

"""`lr-env fit --runs-of`: logged runs of any spacing, what a model of them may be used for, and what it cannot know."""

from __future__ import annotations

import json
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.records.readers.base import ImportedRun, Series
from lr_env.records.record import run_key
from lr_env.records.store import Store
from lr_env.session import PlannerSession
from lr_env.tasks import TASKS
from planners import LatentODE
from planners.latent_ode import fit_report
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.channels import CHANNELS, LOSS, TRAIN
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.data.dataset import run_dataset
from planners.latent_ode.data.imported import imported_data
from planners.latent_ode.data.scaling import scales_of
from planners.latent_ode.fit_imported import fit_imported, limit_of
from planners.latent_ode.fitting.baselines import BASELINES
from planners.latent_ode.fitting.fit import Fitting
from planners.schedules import Constant, Cosine
from tests import quadratic
from tests.quadratic import SEGMENT, STEPS

SPEC = replace(quadratic.SPEC, task="mine", optimizer="AdamW", num_parameters=7)


class Quick(Fitting):
    """What is tested here is not how good a fit is."""

    def __init__(self, **given):
        super().__init__(**{**given, "dynamics": 60, "corrections": 10})


def logged(record, every=1, names=CHANNELS, first=0):
    """A record as a logged run: validation every few segments."""
    steps = record.curves["step"]
    rows = {name: slice(None) if name == "train_loss" else slice(first + every - 1, None, every) for name in names}
    curves = {name: Series(steps[rows[name]], record.curves[name][rows[name]]) for name in names}
    rate = Series(steps, record.curves["lr"])
    return ImportedRun(f"run-{record.seed:02}", "logs", {"lr": rate, **curves}, {}, int(steps[-1]))


def changed(run, steps=None, **curves):
    return replace(run, curves={**run.curves, **curves}, steps=run.steps if steps is None else steps)


@pytest.fixture(scope="module")
def records():
    return quadratic.sweep()


@pytest.fixture(scope="module")
def sparse(records):
    """A validation loss each 4 segments, and no accuracy."""
    return [logged(record, every=4, names=("train_loss", "val_loss")) for record in records[:24]]


@pytest.fixture(scope="module")
def report(sparse):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_report, "Fitting", Quick)
        return fit_imported(sparse, "mine", members=2)


@pytest.fixture(scope="module")
def model(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    report.write(folder)
    return str(folder / "model.safetensors")


def test_regular_logs_give_the_points_of_the_records(records):
    """But for the rates, which are taken to change on the way from point to point."""
    data, direct = imported_data([logged(record) for record in records]), run_dataset(records, STEPS)
    assert (data.segment, data.dataset.budget, data.notes, data.left_out) == (SEGMENT, STEPS, (), {})
    np.testing.assert_allclose(data.dataset.values, direct.values, rtol=1e-12)
    np.testing.assert_array_equal(data.dataset.targets, data.dataset.values)
    np.testing.assert_array_equal(data.dataset.steps, direct.steps)
    np.testing.assert_allclose(data.dataset.final, direct.values[:, -1, LOSS], rtol=1e-12)
    np.testing.assert_allclose(data.dataset.cumulative[:, -1], direct.cumulative[:, -1], rtol=0.06)


def test_rates_and_losses_of_uneven_logs_stand_where_they_were():
    """Against the sums over all steps of a schedule and of losses that are known at each step."""
    draw, steps = np.random.default_rng(0), np.arange(1, 1001)
    rates = 0.1 * np.minimum(steps / 50, np.cos(np.pi / 2 * steps / 1000))
    at = np.sort(draw.choice(steps, 200, replace=False)).astype(np.float64)
    losses = 1 + 3 * (steps / 100.0) ** -0.5
    seen = np.arange(40.0, 1001, 40)
    run = ImportedRun(
        "a",
        "logs",
        {
            "lr": Series(at, rates[at.astype(int) - 1]),
            "train_loss": Series(at, 2 * losses[at.astype(int) - 1]),
            "val_loss": Series(seen, losses[seen.astype(int) - 1]),
            "val_accuracy": Series(seen, np.full(len(seen), 55.0)),
        },
        {},
        1000,
    )
    data = imported_data([replace(run, run_id=f"{n:02}", config={"args/batch_size": n // 6}) for n in range(12)])
    dataset, segment = data.dataset, data.segment
    assert 40 % segment == 0 == 1000 % segment
    assert 20 <= 1000 // segment <= 100
    means = rates.reshape(-1, segment).mean(1)
    np.testing.assert_allclose(dataset.lr[0], means, rtol=0.01, atol=1e-3)  # half a step
    np.testing.assert_allclose(dataset.cumulative[0, -1], rates.sum(), rtol=3e-3)
    ends = segment * np.arange(1, len(means) + 1)
    measured = ends % 40 == 0
    np.testing.assert_array_equal(np.isfinite(dataset.values[0, :, LOSS]), measured)
    np.testing.assert_allclose(dataset.values[0, measured, LOSS], np.log(losses[ends[measured] - 1]))
    gaps = ~measured & (ends > 40)
    np.testing.assert_allclose(dataset.targets[0, gaps, LOSS], np.log(losses[ends[gaps] - 1]), atol=0.02)
    assert np.isnan(dataset.targets[0, ends < 40, LOSS]).all()
    np.testing.assert_array_equal(
        np.isfinite(dataset.values[0, :, TRAIN]), np.isin(ends, np.ceil(at / segment) * segment)
    )
    np.testing.assert_allclose(
        np.exp(dataset.targets[0, 9:-1, TRAIN]), 2 * losses[ends[9:-1] - segment // 2], rtol=0.05
    )
    assert (dataset.values[0, measured, 2] == 0.55).all()
    assert data.notes == (
        "12 of 12 runs: accuracy is logged in percent, and read as a fraction",
        "The runs differ in args/batch_size, and are taken for runs of one training task",
    )
    assert len(data.schedules) == 1  # on 12 seeds


def test_validations_beside_the_ends_of_segments(sparse):
    """They are interpolated where they are dense, and else stand at the nearest end; the last one is the final loss."""
    at = np.arange(7.0, 396, 8)
    dense = [changed(run, val_loss=Series(at, np.exp(-at / 100))) for run in sparse]
    values = imported_data(dense, segment=10).dataset
    np.testing.assert_allclose(values.values[0, :-1, LOSS], -values.steps[0, :-1] / 100)
    at = np.array([104.0, 196, 301, 395])
    rare = imported_data([changed(run, val_loss=Series(at, np.exp(-at / 100))) for run in sparse], segment=10).dataset
    assert rare.steps[0][np.isfinite(rare.values[0, :, LOSS])].tolist() == [100, 200, 300, 400]
    np.testing.assert_allclose(rare.final, -3.95)


def test_short_long_and_diverged_runs(sparse):
    def begun(run, share, **facts):
        curves = {name: (curve, len(curve.at) // share) for name, curve in run.curves.items()}
        return replace(
            run, curves={name: Series(of.at[:n], of.values[:n]) for name, (of, n) in curves.items()}, **facts
        )

    runs = [
        replace(sparse[0], steps=500),
        begun(sparse[1], 2, steps=200),
        begun(sparse[2], 4, steps=110, diverged=True),
        *sparse[3:],
        changed(replace(sparse[0], run_id="x0"), val_loss=Series(np.array([40.0]), np.array([-1.0]))),
        changed(replace(sparse[0], run_id="x1"), lr=Series(np.array([40.0]), np.array([0.0]))),
        replace(changed(replace(sparse[0], run_id="x2"), val_loss=Series(np.empty(0), np.empty(0))), diverged=True),
    ]
    data = imported_data(runs)
    assert data.left_out == {
        "no validation loss above 0 after the first step, of which models see the log": 1,
        "no learning rate above 0": 1,
        "diverged before its first validation loss": 1,
    }
    assert data.dataset.lengths[:4].tolist() == [40, 20, 8, 40]  # 80: the last validation of the run that diverged
    assert np.isnan(data.dataset.final[1:3]).all()
    assert np.isfinite(data.dataset.final[[0, *range(3, 24)]]).all()
    assert data.dataset.weights[1] > 5 * data.dataset.weights[2]  # it was stopped, and was no bad run
    assert [note.split(": ")[0] for note in data.notes] == ["1 of 24 runs", "1 of 24 runs"]
    cut = imported_data(sparse, budget=200)
    assert set(cut.dataset.lengths) == {20 * SEGMENT // cut.segment}
    np.testing.assert_allclose(cut.dataset.final, np.log([run.curves["val_loss"].values[4] for run in sparse]))
    assert cut.notes == ("24 of 24 runs: lasts longer than 200 steps, and is cut there",)
    with pytest.raises(UserError, match="0 runs last for 1,000 steps: give a --budget that at least 5 do, such as 400"):
        imported_data(sparse, budget=1000)
    with pytest.raises(UserError, match="a budget of 400 steps has 2 segments of 200: give a --segment"):
        imported_data(sparse, segment=200)
    with pytest.raises(
        UserError, match=r"9 usable runs of 9, .* but not what another rate would do; for that, log at least 10"
    ):
        imported_data(sparse[:9])


def test_a_curve_that_is_measured_rarely_counts_at_all_times(sparse):
    """Not only where a step of the solver happens to end on a measurement; forecasts are corrected by measurements."""
    dataset = imported_data(sparse).dataset
    tensors = TensorDataset(dataset, scales_of(dataset))
    rows = torch.arange(len(dataset))[None]
    seen = torch.isfinite(tensors.batch(rows, torch.zeros_like(rows), nodes=16).values[0, :, :, LOSS])
    assert seen[:, 2:].all()  # the first measurement is at a tenth of the run
    assert torch.isfinite(tensors.values[..., LOSS]).float().mean() == 0.25
    for name, baseline in BASELINES.items():
        for share in (0.05, 0.4):
            forecasts = baseline(dataset, dataset, scales_of(dataset), share)
            assert np.isfinite(forecasts).all() == (share > 0.1 or name == "nearest run"), (name, share)


def test_what_runs_that_are_too_much_alike_can_show(records):
    def runs_of(schedules):
        return imported_data([logged(record) for record in quadratic.records(schedules)])

    with pytest.raises(UserError, match=r"all 12 whole runs have one constant rate 0.1: .* but not what another rate"):
        limit_of(runs_of([Constant(0.1)] * 12))
    with pytest.raises(UserError, match=r"one schedule, with the peak 0.1: they show how such runs end \(at 0.0"):
        limit_of(runs_of([Cosine(0.1)] * 12))
    scaled = limit_of(runs_of([Cosine(peak) for peak in np.geomspace(0.02, 0.5, 12)]))
    assert scaled.startswith("All 12 schedules have one shape, with peaks from 0.02 to 0.5: they show which peak is")
    assert limit_of(imported_data([logged(record) for record in records])) == ""


def test_losses_from_which_nothing_can_be_learned_are_refused(sparse):
    def with_losses(change):
        return [changed(run, val_loss=Series(at := run.curves["val_loss"].at, change(at))) for run in sparse]

    with pytest.raises(UserError, match=r"the validation loss of 24 of 24 runs falls below 0, .* above 0"):
        imported_data(with_losses(lambda at: 1 - at / 100))
    with pytest.raises(UserError, match=r"all 24 whole runs end with the validation loss 2.3, so that no rate is"):
        limit_of(imported_data(with_losses(lambda at: np.full(len(at), 2.3))))
    # what stands for a loss that was not measured yet
    assert len(imported_data(with_losses(lambda at: np.where(at < 200, -1.0, 2.3))).run_ids) == 24


def test_runs_of_very_different_lengths(sparse):
    def longer(times, count):
        return [
            replace(
                run,
                steps=times * run.steps,
                curves={name: Series(curve.at * times, curve.values) for name, curve in run.curves.items()},
            )
            if number < count
            else run
            for number, run in enumerate(sparse[:14])
        ]

    with pytest.raises(UserError, match="7 runs are longer than two segments of 10,000 steps: the others end long"):
        imported_data(longer(1000, 7))
    with pytest.raises(
        UserError, match="7 runs are longer than two segments of 500 steps: give a --segment of at mo"
    ) as no:
        imported_data(longer(50, 7), segment=500)
    segment = int(str(no.value).rpartition(" ")[2])
    assert len(imported_data(longer(50, 7), segment=segment).run_ids) >= 10


def test_a_report_without_runs_held_out(report):
    none = replace(report, final=np.zeros(0), forecasts={name: rows[:, :0] for name, rows in report.forecasts.items()})
    assert "No run that ended near the best was held out: forecasts are not measured." in none.text()
    assert "nan" not in none.text()


def test_logs_of_constant_rates_give_the_same_model_as_the_records(monkeypatch):
    """Rates between their points are known then, and nothing is lost."""
    monkeypatch.setattr(fit_report, "Fitting", Quick)
    records = quadratic.records([Constant(rate) for rate in np.geomspace(0.02, 0.5, 12)])
    ends = [{"final_val_loss": float(record.curves["val_loss"][-1])} for record in records]
    records = [replace(record, scores=scores) for record, scores in zip(records, ends, strict=True)]
    task = replace(TASKS["DigitsMLP"], budget=STEPS, segment=SEGMENT)
    of_records = fit_report.fit_records(records, task, members=2)
    in_order = enumerate(sorted(records, key=run_key))  # in which members take turns to hold out runs
    runs = [replace(logged(record), run_id=f"{number:02}") for number, record in in_order]
    of_logs = fit_imported(runs, "mine", members=2)
    assert of_logs.limit.startswith("All 12 schedules have one shape")
    np.testing.assert_array_equal(of_logs.final, of_records.final)
    for method, forecasts in of_records.forecasts.items():
        np.testing.assert_allclose(of_logs.forecasts[method], forecasts, rtol=1e-3)


def test_the_report(report, model, sparse, tmp_path):
    text = report.text()
    assert "Runs of 'mine': 24, of which 24 last for 400 steps, with 24 schedules" in text
    assert "A point each 10 steps; measured there: train_loss 100 %, val_loss 25 %, val_accuracy never." in text
    assert "latent ODE" in text
    assert "last value" in text
    assert f'LatentODE(model="{model}")' in report.usage(model)
    assert "budget=400, segment=10" in report.usage(model)
    fitted = FittedModel.load(Path(model))
    assert fitted.channels == ("train_loss", "val_loss")
    assert fitted.about["child_steps"] == 24 * STEPS
    assert fitted.fingerprint == report.fitted.fingerprint
    assert LatentODE(model=model).needs == {"step", "lr", "train_loss", "val_loss"}
    assert LatentODE.needs == {"step", "lr", *CHANNELS}


def run_session(planner, signals_of, spec=SPEC):
    """Rates of a run of the quadratic in a session whose signals are changed on the way, (segments,)."""
    session, rates = PlannerSession(planner, spec, [0]), []
    signals = {"lr": np.nan, "train_loss": np.nan, "val_loss": np.nan}
    for segment in range(spec.num_segments):
        rates += session.next_rates(signals).tolist()
        losses, _ = quadratic.trained([rates], 0.02, [0])
        signals = signals_of(segment + 1, {"lr": rates[-1], "train_loss": losses[0, -1], "val_loss": losses[0, -1]})
    return np.array(rates), session


def test_a_run_of_which_some_is_not_measured_is_planned(model):
    """A missing value is skipped, an old one is missing, and what the model never saw does not matter."""

    def missing(segment, signals):
        return signals if segment % 4 == 0 else {**signals, "val_loss": np.nan}

    def with_age(segment, signals):
        return {**signals, "val_loss_age": float(segment % 4 * SEGMENT)}

    def more(segment, signals):
        return {**missing(segment, signals), "val_accuracy": 0.1}

    planner = LatentODE(model=model)
    (rates, session), (aged, _), (accurate, _) = (run_session(planner, of) for of in (missing, with_age, more))
    assert np.isfinite(rates).all()
    np.testing.assert_array_equal(aged, rates)
    np.testing.assert_array_equal(accurate, rates)
    assert len(planner.explain(session.state)) > 1
    complete, _ = run_session(planner, lambda segment, signals: signals)
    np.testing.assert_allclose(complete, rates, rtol=0.5)
    never, session = run_session(planner, lambda segment, signals: {**signals, "val_loss": np.nan})
    assert np.isfinite(never).all()
    with pytest.raises(UserError, match="needs the signal 'val_loss'"):
        run_session(planner, lambda segment, signals: {"lr": signals["lr"], "train_loss": 1.0})


def test_runs_that_a_model_may_be_used_for(model):
    for spec in (SPEC, replace(SPEC, budget=430), replace(SPEC, segment=20), replace(SPEC, lr_range=(0.0, np.inf))):
        assert np.isfinite(LatentODE(model=model).start(spec, [0])["rates"]).all()
    for spec, words in (
        (replace(SPEC, budget=800), "fitted to the imported runs mine with budgets near 400 steps, not 800: fit anew"),
        (replace(SPEC, segment=40), "segments of 10 steps, not 40: give segment=10"),
        (replace(SPEC, lr_range=(5.0, 9.0)), "not 5 to 9: allow those, or set mismatch to steps or rescaled"),
    ):
        with pytest.raises(UserError, match=words):
            LatentODE(model=model).start(spec, [0])
    other = RunSpec("mine", 800, 40, (0.001, 1.0), "SGD", 1)
    assert LatentODE(model=model, mismatch="rescaled").start(other, [0])["rates"].shape == (1, 20)


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["lr-env", "fit", *arguments])
    with suppress(SystemExit):
        main()
    return capsys.readouterr()


def test_the_command(sparse, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit_report, "Fitting", Quick)
    with closing(Store("results/records.sqlite")) as store:
        store.write_imported("mine", sparse)
    done = call(monkeypatch, capsys, "--runs-of", "mine", "--members", "2")
    assert done.err == ""
    assert "use it in your training by" in done.out
    assert 'planner = LatentODE(model="results/fit/mine/model.safetensors")' in done.out
    saved = json.loads((tmp_path / "results/fit/mine/fit.json").read_text())
    assert saved["runs_of"] == "mine"
    assert saved["run_ids"] == [run.run_id for run in sparse]
    assert (tmp_path / "results/fit/mine/fit.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the TASK to make a sweep of, or --runs-of NAME"),
        (("DigitsMLP", "--runs-of", "mine"), "task is of runs of a task, and --runs-of takes imported ones"),
        (("--runs-of", "mine", "--label-noise", "0.1"), "--label-noise is of runs of a task"),
        (("--runs-of", "mine", "--store", "none.sqlite"), "there is no record store 'none.sqlite': import runs with"),
        (("--runs-of", "others"), "there are no imported runs 'others'"),
        (("--runs-of", "mine", "--budget", "0"), "budget 0: give a whole number of at least 1"),
        (("--runs-of", "mine", "--members", "1"), "1 members: an ensemble has from 2 to 100"),
    ],
)
def test_bad_input(sparse, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with closing(Store("results/records.sqlite")) as store:
        store.write_imported("mine", sparse)
    done = call(monkeypatch, capsys, *arguments)
    assert words in done.err
    assert done.err.count("\n") == 1

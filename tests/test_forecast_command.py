"""`lr-env forecast`: each subcommand from end to end, collecting across a kill, and bad input."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.records.store import Store
from planners.forecaster.collecting import Collection, collect
from planners.forecaster.curves import POINTS
from planners.forecaster.from_runs import curves_of
from planners.forecaster.sources import read_sources
from planners.forecaster.tables import write_curves
from tests.made_up_curves import made_up


def lr_env(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run `lr-env forecast` in this process."""
    monkeypatch.setattr(sys, "argv", ["lr-env", "forecast", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of made-up curves."""
    folder = tmp_path_factory.mktemp("model")
    write_curves(made_up(80), folder / "curves.parquet")
    with pytest.MonkeyPatch.context() as patch:
        lr_env(
            patch, "fit", folder / "curves.parquet", "--out", folder / "m.safetensors", "--updates", 60, "--members", 2
        )
    return folder / "m.safetensors"


def test_a_run_is_forecast_from_its_log_and_drawn(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = made_up(4, seed=3)
    log = tmp_path / "log.csv"
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "lr", "val_loss"])
        writer.writerows([20 * at, curves.rates[0, at], curves.values[0, at]] for at in range(11))
    lr_env(monkeypatch, "run", model, "--curve", log, "--budget", 1000, "--out", tmp_path / "out")
    told = capsys.readouterr().out
    forecast = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert forecast["steps"][-1] == 1000
    assert forecast["low"][-1] < forecast["median"][-1] < forecast["high"][-1]
    assert forecast["median"][-1] == pytest.approx(curves.values[0, -1], rel=0.6)
    assert f"{forecast['median'][-1]:.4g}" in told
    assert "last-value" in told
    assert (tmp_path / "out" / "forecast.png").stat().st_size > 5000


def test_candidates_are_ranked_by_their_forecasts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "candidates.csv").write_text(
        "name,lr,planner,budget,classes\nslow,0.008,constant,1000,10\nfast,0.5,constant,1000,10\n"
    )
    lr_env(monkeypatch, "rank", model, "--candidates", tmp_path / "candidates.csv", "--method", "ode")
    told = capsys.readouterr().out
    assert told.index("fast") < told.index("slow")
    assert "not known: the architecture" in told


def test_an_evaluation_writes_a_table_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_curves(made_up(80), tmp_path / "curves.parquet")
    options = (
        "--splits",
        1,
        "--observe",
        "0,10",
        "--updates",
        30,
        "--results",
        tmp_path,
        "--ablations",
        "direct decoder",
    )
    lr_env(monkeypatch, "evaluate", tmp_path / "curves.parquet", *options)
    folder = tmp_path / "forecast" / "evaluation"
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows if row["seen"] == "20 %"}
    assert methods >= {
        "auto",
        "both",
        "blend",
        "ode",
        "boosting",
        "nearest",
        "ensemble",
        "last-value",
        "direct decoder",
    }
    assert all(float(row["mape"]) > 0 for row in rows)
    text = (folder / "README.md").read_text()
    assert "Another seed as the forecast" in text
    assert all((folder / name).stat().st_size > 5000 for name in ("fan.png", "errors.png", "reliability.png"))


def test_a_collection_goes_on_after_a_kill_to_the_same_runs(tmp_path: Path) -> None:
    collection = Collection("MLPFamily", 4, seed=3)

    def stop(runs: int) -> None:
        raise KeyboardInterrupt

    with closing(Store(tmp_path / "killed.sqlite")) as killed, closing(Store(tmp_path / "whole.sqlite")) as whole:
        with pytest.raises(KeyboardInterrupt):
            collect(collection, killed, "mine", LOOP, progress=stop)
        assert len(killed.imported("mine")) == 2
        assert collect(collection, killed, "mine", LOOP) == 2
        assert collect(collection, killed, "mine", LOOP) == 0
        assert collect(collection, whole, "mine", LOOP) == 4
        (first, left_out), (second, _) = (curves_of(store.imported("mine")) for store in (killed, whole))
        with pytest.raises(UserError, match="other runs"):
            collect(Collection("MLPFamily", 4, seed=4), whole, "mine", LOOP)
    assert len(first) + len(left_out) == 4
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.rates, second.rates)
    assert first.architectures == second.architectures
    assert first.architectures[0].summary()
    assert np.isfinite(first.values).sum(1).max() >= POINTS - 1
    assert {"batch_size", "weight_decay", "budget", "train_size"} <= first.settings.keys()
    found = read_sources(["mine"], tmp_path / "whole.sqlite", "val_error")
    assert ((found.curves.values > 0) | np.isnan(found.curves.values)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "MODEL"], "give the optimizer steps"),
        (["run", "MODEL", "--budget", "100"], "number of classes"),
        (["run", "MODEL", "--budget", "100", "--set", "classes"], "NAME=VALUE"),
        (["run", "MODEL", "--task", "DigitsMLP", "--planner", "plateau", "--lr", "0.1"], "give a schedule"),
        (["run", "MODEL", "--task", "DigitsMLP", "--lr", "-1"], "above 0"),
        (["run", "nothing.safetensors", "--task", "DigitsMLP"], "lr-env forecast fit"),
        (["run", "MODEL", "--task", "DigitsMLP", "--method", "power-law"], "has begun"),
        (["rank", "MODEL", "--candidates", "nothing.csv"], "cannot be read"),
        (["fit", "nothing.parquet"], "no file"),
        (["fit"], "give a source"),
        (["fit", "nothing"], "no record store"),
        (["evaluate", "CURVES", "--observe", "0,51"], "from 0 to 50"),
        (["evaluate", "CURVES", "--metric", "val_error"], "ask for --metric val_loss"),
        (["evaluate", "CURVES", "--ablations", "ode, no brain"], "unknown ablation"),
        (["collect", "MLPFamilie"], "did you mean 'MLPFamily'"),
        (["collect", "MLPFamily", "--runs", "0"], "at least 1"),
        (["collect", "MLPFamily", "--backend", "auto"], "give loop"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": str(model), "CURVES": str(model.with_name("curves.parquet"))}
    with pytest.raises(SystemExit) as stopped:
        lr_env(monkeypatch, *(names.get(argument, argument) for argument in arguments))
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in told
    assert told.count("\n") == 1


def test_an_evaluation_may_have_a_test_set_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_curves(made_up(60), tmp_path / "train.parquet")
    write_curves(made_up(20, seed=9), tmp_path / "test.parquet")
    lr_env(
        monkeypatch, "evaluate", tmp_path / "train.parquet", "--test", tmp_path / "test.parquet", "--observe", "0",
        "--methods", "ode", "--updates", 60, "--results", tmp_path, "--name", "own",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "60 curves" in told
    assert "20 curves" in told
    assert "scored on" in (tmp_path / "forecast" / "own" / "README.md").read_text()
    with (tmp_path / "forecast" / "own" / "scores.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["tau"]) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dynamics", "papre"], "unknown dynamics 'papre'"),
        (["--dynamics", "paper"], "give encoder 'paper' too"),
        (["--encoder", "gnc"], "did you mean 'gcn'"),
    ],
)
def test_models_that_make_no_sense_are_refused(tmp_path, monkeypatch, capsys, options, message) -> None:
    write_curves(made_up(40), tmp_path / "c.parquet")
    with pytest.raises(SystemExit) as stopped:
        lr_env(monkeypatch, "fit", tmp_path / "c.parquet", "--out", tmp_path / "m.safetensors", *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err

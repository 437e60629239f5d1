"""`lr-env fit --family`, `tune` and `tuning-across`: from end to end, going on, and bad input."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy.stats import ttest_rel

from lr_env.cli.main import main
from lr_env.errors import UserError
from lr_env.registry import find_tuner
from lr_env.studies.tuning_across.procedure import Selected
from lr_env.studies.tuning_across.result import TaskAnswers, TuningAcrossResult
from lr_env.tasks import find_family
from planners.transfer import fit as fitting
from planners.transfer.artifact import TRANSFER_MODELS
from planners.transfer.collecting import Searches, tasks_of
from planners.transfer.tuner import runs_of

FAMILY = ["MLPFamily:tasks=10,runs=4"]
NAMES = "MLPFamily-MLPFamily"
TINY = ["--budget", "60", "--segment", "3", "--backend", "loop", "--threads", "1"]


@pytest.fixture(scope="module")
def lr_env():
    """Runs `lr-env` in this process; returns nothing."""
    with pytest.MonkeyPatch.context() as patch:

        def run(*arguments):
            patch.setattr(sys, "argv", ["lr-env", *map(str, arguments)])
            main()

        yield run


@pytest.fixture(scope="module")
def home(tmp_path_factory, lr_env):
    """A folder with a model of ten small tasks, and the record store that it was fitted to."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(fitting.Fitting.__init__, "__defaults__", (5, 20, *fitting.Fitting.__init__.__defaults__[2:]))
        lr_env("fit", "--family", *FAMILY, "--members", 2, "--backend", "stacked", "--threads", 1)
    return folder


def test_a_model_is_fitted_across_the_tasks_of_a_family(home, lr_env, monkeypatch, capsys):
    monkeypatch.chdir(home)
    model = TRANSFER_MODELS.find("results/fit/MLPFamily/model.safetensors")
    assert model.about["tasks"] == 10
    assert model.about["runs"] == 40
    assert model.about["families"] == FAMILY
    before = model.fingerprint
    monkeypatch.setattr(fitting.Fitting.__init__, "__defaults__", (5, 20, *fitting.Fitting.__init__.__defaults__[2:]))
    lr_env("fit", "--family", *FAMILY, "--members", 2, "--backend", "stacked", "--threads", 1)  # trains nothing anew
    assert TRANSFER_MODELS.find("results/fit/MLPFamily/model.safetensors").fingerprint == before
    assert "Schedules chosen for 10 tasks held out" in capsys.readouterr().out


def test_runs_are_the_same_from_the_store_and_from_records(home, monkeypatch):
    """Those of a task whose runs a tuner made, and those that a search stored."""
    from contextlib import closing
    from pathlib import Path

    from lr_env.children import LOOP, Execution
    from lr_env.records.store import Store
    from lr_env.rollout import rollout

    with closing(Store.reading(Path(home / "results/records.sqlite"))) as store:
        stored = tasks_of(store.imported(NAMES))[1]
    search = Searches("MLPFamily", 2, 4)
    chunk = list(search.chunks(Execution()))[1]
    settings = {"score": ("val",), "execution": LOOP}
    records = [rollout(run.planner, chunk.task, [run.seed], **settings)[0] for run in chunk.runs]
    made = runs_of(chunk.task, records)
    assert made.name == stored.name
    assert made.facts == stored.facts
    assert made.architecture == stored.architecture
    assert made.log_rates == pytest.approx(stored.log_rates, abs=1e-5)
    # Later, the last bits of two engines have become differences that can be seen.
    assert made.curves[:, :4] == pytest.approx(stored.curves[:, :4], abs=1e-2, nan_ok=True)
    assert made.ends == pytest.approx(stored.ends, abs=0.3)


def test_a_task_is_tuned_and_more_runs_are_added(tmp_path, lr_env, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lr_env("tune", "DigitsMLP", "--runs", 0, *TINY)
    assert "selects latent-ode-transfer after 0 runs" in " ".join(capsys.readouterr().out.split())
    lr_env("tune", "DigitsMLP", "--runs", 1, *TINY)
    first = json.loads((tmp_path / "results/DigitsMLP-tune/tune.json").read_text())
    lr_env("tune", "DigitsMLP", "--runs", 3, *TINY)
    second = json.loads((tmp_path / "results/DigitsMLP-tune/tune.json").read_text())
    assert second["runs"][:1] == first["runs"]
    assert len(second["runs"]) == 3
    assert len({json.dumps(run["settings"]) for run in second["runs"]}) == 3
    assert "expected to lower the loss by" in second["note"]
    model = TRANSFER_MODELS.find(second["selected"]["settings"]["model"])
    assert len(model.runs) == 3
    assert model.about["child_steps"] == 180 + TRANSFER_MODELS.find("SmallNetworks").about["child_steps"]
    told = " ".join(capsys.readouterr().out.split())
    summary = (tmp_path / "results/DigitsMLP-tune/summary.md").read_text()
    assert "PlannerLR(optimizer, TransferredLatentODE(model=" in summary
    assert "lr-env compare DigitsMLP --budget 60 --segment 3 --planners latent-ode-transfer wsd" in summary
    assert "Compare it with others" in told
    lr_env("tune", "DigitsMLP", "--runs", 2, "--tuner", "wsd", "--name", "other", *TINY)
    assert json.loads((tmp_path / "results/other/tune.json").read_text())["selected"]["planner"] in ("wsd", "wsd-sqrt")


def test_tuners_are_compared_across_tasks(home, lr_env, monkeypatch):
    """All rivals; regrets are 0 for the best of each task; a second start makes no run and says the same."""
    monkeypatch.chdir(home)
    short = replaced_tasks(monkeypatch)
    rival = f":names={NAMES}"
    call = [
        *("tuning-across", "MLPFamily", "--split", "val", "--tasks", 2, "--runs", "0,1,2", "--seeds", 1),
        *("--score", "val", "--against", "latent-ode-transfer/0-wsd/2", "--planners", "prodigy:peak=1.0"),
        *(
            "--margin",
            9,
            "--tuners",
            "latent-ode-transfer",
            "wsd",
            f"forest{rival}",
            f"best-on-average{rival},rule=sqrt",
        ),
        f"nearest-task{rival}",
    ]
    lr_env(*call)
    file = home / "results/MLPFamily-val-tuning/regrets.json"
    result = json.loads(file.read_text())
    assert [task["task"] for task in result["tasks"]] == [task.name for task in short]
    labels = {(answer["label"].partition(":")[0], answer["runs"]) for answer in result["tasks"][0]["answers"]}
    known_before = {("latent-ode-transfer", 0), ("forest", 0), ("best-on-average", 0), ("nearest-task", 0)}
    assert labels == known_before | {("prodigy", 0)} | {
        (name, runs) for name in ("latent-ode-transfer", "wsd", "forest") for runs in (1, 2)
    }
    assert all(0 <= entry["regret"][0] <= 1 for entry in result["regrets"])
    summary = (home / "results/MLPFamily-val-tuning/summary.md").read_text()
    assert "latent-ode-transfer after 0 runs less wsd after 2: " in summary
    assert (home / "results/MLPFamily-val-tuning/regrets.png").stat().st_size > 1000
    lr_env(*call)
    assert json.loads(file.read_text())["tasks"] == result["tasks"]


def test_comparisons_are_those_of_a_paired_t_test():
    draws = np.random.default_rng(0)
    losses = np.exp(draws.normal(size=(12, 3, 2)) * 0.05) * [[[1.0], [1.2], [1.02]]]
    answers = [[Selected(name, 0, 0, tuple(row)) for name, row in zip("abc", task, strict=True)] for task in losses]
    tasks = tuple(TaskAnswers(str(place), tuple(of_task)) for place, of_task in enumerate(answers))
    against = ((("a", 0), ("b", 0)), (("a", 0), ("c", 0)), (("b", 0), ("a", 0)))
    result = TuningAcrossResult("F", "val", tasks, (0, 1), "val", against, 0.05)
    logs = np.log(losses.mean(2))
    tests = [ttest_rel(logs[:, one], logs[:, other]) for one, other in ((0, 1), (0, 2), (1, 0))]
    for comparison, test in zip(result.comparisons, tests, strict=True):
        ends = comparison.difference.interval()
        assert (ends.low, ends.high) == pytest.approx(tuple(test.confidence_interval()))
    raw = [test.pvalue for test in tests]
    assert result.comparisons[1].p_value == pytest.approx(max(raw[1], min(1, 3 * min(raw)), min(1, 2 * raw[0])))
    assert [comparison.verdict for comparison in result.comparisons] == ["better", "not worse by 0.05", "worse"]


def replaced_tasks(monkeypatch):
    """Let the tasks of the family be short."""
    from dataclasses import replace

    from lr_env.tasks import families

    family = find_family("MLPFamily")

    class Short:
        name, description, splits = family.name, family.description, family.splits

        def sample(self, seed):
            return replace(family.sample(seed), budget=40, segment=2)

    monkeypatch.setattr("lr_env.tasks.families.find_family", lambda name: Short())
    assert families
    return [Short().sample(1_000_000 + number) for number in range(2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--family", "MLPFamily", "--design", "wsd"], "--design does not apply to task families"),
        (["fit", "--family", "MLPFamily:steps=3"], "steps"),
        (["fit", "--family", "MLPFamily:tasks=x"], "tasks must be a whole number, not 'x'"),
        (["fit", "--family", "NoFamily"], "NoFamily"),
        (["fit", "DigitsMLP", "--family", "MLPFamily"], "task does not apply to task families"),
        (["tune", "DigitsMLP", "--runs", "-1"], "-1 runs"),
        (["tune", "DigitsMLP", "--tuner", "wsd", "--runs", "0"], "0 runs of tuner 'wsd': give 1 to"),
        (["tune", "DigitsMLP", "--tuner", "pbt"], "trains its runs by itself"),
        (["tune", "DigitsMLP", "--tuner", "latent-ode-transfer:model=Nowhere"], "there is no transfer model 'Nowhere'"),
        (["tuning-across", "MLPFamily", "--tuners", "wsd", "--runs", "0"], "selects nothing without runs"),
        (["tuning-across", "MLPFamily", "--split", "tset"], "tset"),
        (["tuning-across", "MLPFamily", "--against", "wsd-tpe"], "give TUNER/RUNS-TUNER/RUNS"),
        (
            ["fit", "DigitsMLP", "--encoder", "gcn"],
            "--encoder is of a model across tasks: leave it out, or give --family",
        ),
        (["tuning-across", "MLPFamily", "--margin", "-1"], "margin -1: give a number of at least 0"),
        (["tuning-across", "MLPFamily", "--tuners", "multi-power-law", "--runs", "1,2"], "a law needs at least 4"),
        (["tuning-across", "MLPFamily", "--score", "train"], "score 'train': give val or test"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, tmp_path, monkeypatch, capsys, lr_env):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        lr_env(*arguments)
    told = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in " ".join((told.out + told.err).split())


def test_rivals_need_runs_of_other_tasks(tmp_path):
    with pytest.raises(UserError, match="there is no record store"):
        find_tuner(f"forest:store={tmp_path / 'none.sqlite'}").check([1])

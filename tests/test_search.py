"""`lr-env search`: proposals against plain Optuna, resuming, the file of trials, suggestions for scripts."""

from __future__ import annotations

import json
import random
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from lr_env.capabilities import SettingRange
from lr_env.children import LOOP
from lr_env.errors import UserError
from lr_env.records.record import RunRecord, run_key
from lr_env.records.store import Store
from lr_env.records.tables import check_task, read_runs
from lr_env.report.markdown import markdown_text
from lr_env.runs.lab import Lab
from lr_env.search import SearchSpace, searched_families, suggest
from lr_env.tasks import MLP, find_task
from planners.latent_ode.data.dataset import run_dataset
from planners.schedules import WSD, Constant, CosineWarmup
from planners.tuning.search import procedure
from planners.tuning.search.procedure import rounds, trial_values
from planners.tuning.search.storage import TrialStorage, default_path
from planners.tuning.search.study import Search
from planners.tuning.search_space import FAMILIES
from tests.helpers import labs_in

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)

TASK = replace(find_task("DigitsMLP"), budget=20, val_subset=50, batch_size=8)
SEARCH = Search(planners=("wsd", "cosine-warmup", "constant"), runs=23, round=4, rates="0.001:10", seed=3)


@pytest.fixture
def lab_in(tmp_path):
    """A function that opens a lab in a folder of that name."""
    with labs_in(tmp_path, TASK, checkpoint_seconds=0.0) as make:
        yield make


def trials_of(lab, path=None):
    """The trials in the file that a search wrote."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = path or default_path(lab.store.path, "x")
    if file.suffix == ".db":
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    else:
        storage = JournalStorage(JournalFileBackend(str(file)))
    trials = optuna.load_study(study_name="x", storage=storage).trials
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs) for t in trials]


def records_of(lab):
    return [
        (
            record.phase,
            run_key(record),
            record.scores,
            record.diverged,
            {n: c.tolist() for n, c in record.curves.items()},
        )
        for record in lab.store.runs("x", curves=True)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing stopped: its result, records and trials."""
    folder = tmp_path_factory.mktemp("whole")
    with closing(Store(folder / "records.sqlite")) as store:
        lab = Lab(TASK, store, "x", LOOP, folder=folder)
        return SEARCH.run(lab), records_of(lab), trials_of(lab)


def test_trials_are_those_of_plain_optuna(whole):
    """An ask-and-tell loop that knows nothing of ours, fed with the same losses, asks for the same runs."""
    result, _, _ = whole
    losses = [np.inf if record.diverged else record.scores["final_val_loss"] for record in result.records]
    assert np.isinf(losses).any()
    assert np.isfinite(losses).sum() > 12
    study, first = optuna.create_study(), 0
    while first < 23:
        count = min(4, 23 - first)
        seed = int(np.random.SeedSequence([3, first]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        asked = [study.ask() for _ in range(count)]
        for trial, record in zip(asked, result.records[first : first + count], strict=True):
            family = trial.suggest_categorical("planner", ("wsd", "cosine-warmup", "constant"))
            expected = {"peak": trial.suggest_float("peak", 0.001, 10, log=True)}
            if family == "wsd":
                expected["cooldown"] = trial.suggest_float("wsd.cooldown", 0.1, 0.9)
                expected["warmup"] = trial.suggest_float("wsd.warmup", 0.02, 0.1)
            elif family == "cosine-warmup":
                expected["warmup"] = trial.suggest_float("cosine-warmup.warmup", 0.02, 0.1)
            assert (record.planner, record.settings) == (family, expected)
        worst = max(loss for loss in losses[: first + count] if np.isfinite(loss))
        for trial, loss in zip(asked, losses[first : first + count], strict=True):
            study.tell(trial, min(loss, worst))
        first += count
    assert len({json.dumps(record.settings) for record in result.records}) == 23


def test_the_file_of_trials_says_what_the_records_say(whole):
    result, _, trials = whole
    assert [number for number, *_ in trials] == list(range(23))
    for (_, state, params, values, losses, attributes), record in zip(trials, result.records, strict=True):
        assert state == "COMPLETE"
        assert params["planner"] == record.planner
        settings = {name.rpartition(".")[2]: value for name, value in params.items() if name != "planner"}
        assert settings == record.settings
        assert attributes == {"experiment": "x", "seed": record.seed, "diverged": record.diverged}
        assert losses == dict(zip(record.curves["step"], record.curves["val_loss"], strict=True))
        assert record.diverged or values == [record.scores["final_val_loss"]]


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("seed", range(2))
def test_a_search_that_is_killed_again_and_again_is_the_same(whole, lab_in, monkeypatch, seed):
    """Killed while runs are trained, between the store and the file of trials, and within a line of that file."""
    drawn = random.Random(seed)
    lab = lab_in("killed")
    left = 0

    def killer(*_):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError

    def half_written(self, trial, record, copy=TrialStorage._copy):
        killer()
        if left == 0:
            with open(self.path, "ab") as file:
                file.write(b'{"op_code":4,"worker')
            raise KilledError
        return copy(self, trial, record)

    monkeypatch.setattr(TrialStorage, "_copy", half_written)
    lab = replace(lab, progress=killer)
    kills = 0
    while True:
        left = drawn.randrange(1, 12 + 3 * kills)  # what is done already counts, too
        try:
            result = SEARCH.run(lab)
            break
        except KilledError:
            kills += 1
    assert kills > 3
    assert records_of(lab) == whole[1]
    assert trials_of(lab) == whole[2]
    assert [run_key(record) for record in result.records] == [run_key(record) for record in whole[0].records]


FINE = replace(TASK, segment=2)
PRUNED = replace(SEARCH, stop="median", runs=20, rates="0.003:1", planners=("wsd", "constant"))


def test_pruned_runs_are_those_that_optunas_median_pruner_ends(lab_in, tmp_path):
    lab = replace(lab_in("pruned"), task=FINE)
    result = PRUNED.run(lab)
    trial_states = [state for _, state, *_ in trials_of(lab)]
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=10))
    for first in range(0, 20, 4):
        of_round = result.records[first : first + 4]
        for record in of_round:  # what the pruner says after each segment, knowing the rounds before
            trial = study.ask()
            says = []
            for step, loss in zip(record.curves["step"], record.curves["val_loss"], strict=True):
                trial.report(loss, int(step))
                says.append(trial.should_prune())
            assert not any(says[:-1])
            assert record.pruned == (says[-1] and record.steps < 20 and not record.diverged)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        for record in of_round:
            losses = dict(zip(map(int, record.curves["step"]), record.curves["val_loss"], strict=True))
            if not record.pruned:
                study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=losses))
    pruned = [record for record in result.records if record.pruned]
    assert len(pruned) > 2
    assert all(10 <= record.steps < 20 and not record.scores for record in pruned)
    assert trial_states == ["PRUNED" if record.pruned else "COMPLETE" for record in result.records]
    result.write(tmp_path, {"command": "lr-env search"})
    assert f"({len(pruned)} of them were pruned)" in markdown_text(result.document())
    saved = read_runs(tmp_path / "runs.parquet")
    assert {run_key(run) for run in saved if run.pruned} == {run_key(run) for run in pruned}
    dataset = run_dataset(saved, FINE.budget)  # what `lr-env fit` fits to
    assert sorted(dataset.lengths) == sorted(len(record.curves["lr"]) for record in result.records)

    killed, left = replace(lab_in("killed"), task=FINE), 0

    def killer(*_):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError

    kills = 0
    while kills < 100:
        left = 9 + 2 * kills
        try:
            PRUNED.run(replace(killed, progress=killer))
            break
        except KilledError:
            kills += 1
    assert kills > 3
    assert records_of(killed) == records_of(lab)
    assert trials_of(killed) == trials_of(lab)


def test_a_search_grows_and_keeps_what_it_has(lab_in):
    lab = lab_in("grown")
    small = replace(SEARCH, runs=6)
    few = small.run(lab)
    more = replace(SEARCH, runs=11).run(lab)
    assert [run_key(record) for record in more.records[:6]] == [run_key(record) for record in few.records]
    assert len(more.records) == len(trials_of(lab)) == 11
    with pytest.raises(UserError, match="the search has 11 runs: give at least as many"):
        small.run(lab)
    with pytest.raises(UserError, match="'x' was begun with search seed 3, not 4"):
        replace(SEARCH, runs=11, seed=4).run(lab)
    assert len(replace(SEARCH, runs=5, seed=4).run(replace(lab, fresh=True)).records) == 5
    assert len(trials_of(lab)) == 5


def test_the_file_of_trials_may_be_sqlite_moved_or_of_another_search(lab_in, tmp_path):
    lab, search = lab_in("moved"), replace(SEARCH, runs=4)
    search.run(lab)
    default_path(lab.store.path, "x").unlink()
    search.run(lab)  # it is written anew
    expected = trials_of(lab)
    replace(search, storage=tmp_path / "trials.db").run(lab)
    assert trials_of(lab, tmp_path / "trials.db") == expected
    other = replace(lab_in("other"), progress=lambda *_: None)
    with pytest.raises(UserError, match=r"trial 0 of 'x' in .* is of another search: choose another file"):
        replace(search, seed=5, storage=default_path(lab.store.path, "x")).run(other)
    with pytest.raises(UserError, match="is a folder"):
        replace(search, storage=tmp_path).run(lab)
    (tmp_path / "damaged").write_text('{"op_code":0,\n')
    with pytest.raises(UserError, match="cannot be read or written"):
        replace(search, storage=tmp_path / "damaged").run(lab)


def test_a_file_of_other_software_is_no_file_of_trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(Store(tmp_path / "records.sqlite")):  # a database
        pass
    Path("notes").write_bytes(b"weights without a line's end")
    Path("table.csv").write_text("a,b\n1,2\n3,4")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("notes", "table.csv", "records.sqlite"):
        with pytest.raises(UserError, match=f"storage '{name}' is a file of other software, not of Optuna"):
            TrialStorage(Path(name), "x")
    with pytest.raises(UserError, match=r"storage 'sqlite:/trials\.db' is a URL: give the name of a file"):
        TrialStorage(Path("sqlite:///trials.db"), "x")
    assert {name: Path(name).read_bytes() for name in before} == before
    for name, head in (("empty", b""), ("begun", b'{"op_c'), ("empty.db", b"")):
        Path(name).write_bytes(head)
        TrialStorage(Path(name), "x")


def test_other_proposals_than_those_that_are_stored_are_refused(lab_in, monkeypatch):
    lab = lab_in("other")
    replace(SEARCH, runs=4).run(lab)
    make = procedure.make_sampler
    monkeypatch.setattr(procedure, "make_sampler", lambda name, seed, finished: make(name, seed + 1, finished))
    with pytest.raises(UserError, match="the sampler proposes other trials for round-00000 than 'x' has"):
        replace(SEARCH, runs=4).run(lab)


def test_a_run_that_diverged_counts_as_the_worst():
    def run(loss):
        scores = {"final_val_loss": min(loss, 99.0)}
        return RunRecord("x", "constant", {"peak": 1.0}, 0, "finished", bool(np.isinf(loss)), scores=scores)

    runs = [run(loss) for loss in (np.inf, 0.5, 0.7, np.inf)]
    assert trial_values(runs[2:], runs) == [0.7, 0.7]
    assert trial_values(runs[:1], runs[:1]) == [np.inf]


def test_rounds_do_not_change_where_runs_are_added():
    before, after = list(rounds([10], 4)), list(rounds([10, 17], 4))
    assert after[: len(before)] == before
    assert sum(part.count for part in after) == 17


def test_the_report_and_what_comes_after(whole, tmp_path):
    result, _, _ = whole
    result.write(tmp_path, {"command": "lr-env search"})
    text = markdown_text(result.document())
    best = min(result.records, key=lambda record: record.end("final_val_loss"))
    assert f"{best.scores['final_val_loss']:.4f}" in text
    assert f"lr-env compare DigitsMLP --budget 20 --batch-size 8 --val-subset 50 --planners {best.planner} " in text
    assert f"--set {best.planner}.peak={best.settings['peak']:.4g}" in text
    assert "lr-env fit DigitsMLP" in text
    own = replace(result, task=replace(TASK, network=MLP((4,))))
    assert "lr-env compare" not in markdown_text(own.document())  # which would train another network
    saved = json.loads((tmp_path / "search.json").read_text())
    assert len(saved["trials"]) == 23
    assert (tmp_path / "search.png").stat().st_size > 10_000
    runs = read_runs(tmp_path / "runs.parquet")  # what `lr-env fit --records` reads
    check_task(tmp_path / "runs.parquet", TASK)
    assert {run_key(run) for run in runs} == {run_key(run) for run in result.records}
    assert all(len(run.curves["val_loss"]) == len(run.curves["lr"]) >= 1 for run in runs)
    assert all(run.diverged or run.steps == TASK.budget for run in runs)


def test_suggestions_are_planners_of_all_families():
    """A trial of Optuna may be anything with its two methods, and gets the ranges that planners declare."""

    @dataclass
    class Upper:
        family: str

        def suggest_categorical(self, name, choices):
            return self.family if name == "planner" else choices[-1]

        def suggest_float(self, name, low, high, *, log=False):
            return high

    assert set(FAMILIES) <= set(searched_families())
    assert suggest(Upper("wsd"), (1e-4, 1.0)) == WSD(1.0, cooldown=0.9, warmup=0.1)
    assert suggest(Upper("constant"), families=("constant",)) == Constant(1.0)
    for name in searched_families():
        assert suggest(Upper(name), (1e-4, 0.5), (name,)).name == name
    assert suggest(Upper("plateau"), (1e-4, 0.5), ("plateau", "wsd")).name == "plateau"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask(), (1e-3, 1.0), ("cosine-warmup",)) for _ in range(200)]
    assert all(isinstance(planner, CosineWarmup) and 0.02 <= planner.warmup <= 0.1 for planner in drawn)
    assert np.mean([planner.peak < 10**-1.5 for planner in drawn]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"families": ("nobody",)}, "unknown planner 'nobody'"),
        ({"families": ()}, "no planners to search"),
        ({"families": ("wsd", "wsd")}, "planner wsd is given twice"),
        ({"families": ("autolrs",)}, "'autolrs' "),
        ({"families": ("prodigy",)}, "'prodigy' "),
        ({"families": ("latent-ode",)}, "'latent-ode' has no peak rate"),
        ({"lr_range": (1.0, 0.1), "families": ("wsd",)}, "lr_range 1 to 0.1"),
        ({"lr_range": (0.1, np.inf), "families": ("wsd",)}, "two finite rates"),
    ],
)
def test_bad_families_and_ranges(given, words):
    with pytest.raises(UserError, match=words):
        suggest(optuna.create_study().ask(), **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runs": 0}, "0 runs"),
        ({"round": 0}, "round 0"),
        ({"sampler": "tpo"}, "unknown sampler 'tpo'; did you mean 'tpe'"),
        ({"stop": "median-ish"}, "unknown rule for stopping 'median-ish'"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_searches(given, words):
    with pytest.raises(UserError, match=words):
        Search(**given)


def test_rates_outside_of_the_task_are_noticed_before_training(lab_in):
    with pytest.raises(UserError, match=r"rates 0.1:100: give LOW below HIGH within the task's range"):
        replace(SEARCH, rates="0.1:100").run(lab_in("a"))
    steep = replace(SEARCH, planners=("one-cycle",), rates="1e-9:1")
    with pytest.raises(UserError, match="'one-cycle' with a peak of 1e-09 would ask for the learning rate"):
        steep.run(lab_in("b"))


def test_ranges_of_settings_are_those_that_planners_take():
    """Both ends of every range, at once, are a planner."""
    space = SearchSpace(searched_families(), (1e-3, 1.0))
    for name in space.families:
        for share in (0.0, 1.0):
            assert (space.at(name, 0.1, share).preview(50) > 0).all()
    assert SettingRange(0.2, 0.8).at(1.0) == 0.8

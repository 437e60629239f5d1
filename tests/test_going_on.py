"""A later start goes on with what an earlier one began with, or says in one line what is otherwise."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import closing, suppress
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import LOOP, Execution
from lr_env.errors import UserError
from lr_env.records.checkpoint import check_fit, load_tree, save_tree
from lr_env.records.store import Store
from lr_env.rollout import Rollout
from lr_env.runs.lab import Lab
from lr_env.runs.own_code import own_code
from lr_env.runs.spec import with_unknown
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import MLP, TASKS, data
from lr_env.tasks.sources import SOURCES, DataSource
from planners.latent_ode.sweep.sweep import Sweep, sweep
from planners.ppo.training import PPOSettings, train
from planners.schedules import Cosine
from tests.helpers import compared

NAME = "test-own"
SMALL = replace(TASKS["DigitsMLP"], network=MLP((8,)), budget=40, segment=10, val_subset=20, batch_size=8)
PPO = PPOSettings(decisions=32, children=2, minibatches=2, evaluate_every=16, evaluation_runs=1, start_rates=(0.03,))


def source(seed: int = 0, **changes) -> DataSource:
    """A data set of one's own."""
    random = np.random.default_rng(seed)
    examples, labels = random.integers(0, 255, (120, 4), dtype=np.uint8), random.integers(0, 3, 120)
    parts = {("test", "val", "train"): (examples, labels.astype(np.int64))}
    given = {"sizes": {"train": 60, "val": 30, "test": 30}, "input_shape": (4,), "num_classes": 3, "scale": 255.0}
    return DataSource("random numbers", fetch=lambda: parts, **{**given, **changes})


SOURCES[NAME] = source()
OWN = replace(SMALL, name="Own", data=NAME)
JOB = ComparisonPlan(OWN, ("constant",), (0.1,), tune_seeds=(100,), seeds=(0,))


@pytest.fixture(autouse=True)
def own_data():
    yield
    data.forget()


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "records.sqlite")) as store:
        yield store


CHANGES = {
    "sha256": {"seed": 1},
    "scale": {"scale": 128.0},
    "mean": {"mean": (0.5,)},
    "std": {"std": (2.0,)},
    "num_classes": {"num_classes": 4},
    "sizes": {"sizes": {"train": 50, "val": 40, "test": 30}},
}


def study(store, name="x"):
    return Lab(OWN, store, name, Execution(backend="loop"))


BEGINNINGS = {
    "comparison": lambda store, folder: compared(JOB, store, "x", LOOP),
    "sweep": lambda store, folder: sweep(Sweep("wsd", 10, (0.01, 0.1)), study(store)),
    "training of a controller": lambda store, folder: train(
        OWN, PPO, folder / "ppo", execution=LOOP, checkpoint_seconds=0.0, progress=stop_once(folder / "ppo")
    ),
}


class StoppedError(Exception):
    pass


def stop_once(folder):
    """Stops a training once it has kept a checkpoint; what goes on from that is not stopped."""
    fresh = not (folder / "checkpoint").exists()

    def progress(what, decisions):
        if fresh and (folder / "checkpoint").exists():
            raise StoppedError

    return progress


@pytest.mark.parametrize(
    ("begin", "changed"),
    [("comparison", changed) for changed in CHANGES] + [(begin, "sha256") for begin in BEGINNINGS if begin[0] != "c"],
)
def test_other_data_on_a_later_start_are_noticed(store, tmp_path, monkeypatch, begin, changed):
    def start():
        with suppress(StoppedError):
            BEGINNINGS[begin](store, tmp_path)

    start()
    monkeypatch.setitem(SOURCES, NAME, source(**CHANGES[changed]))
    words = (
        "another data: give the same"
        if "controller" in begin
        else (f"'x' was begun on other data: the data set '{NAME}' has another .*{changed}.*now: use the same, another")
    )
    for _ in range(2):  # in the same process, and with all read anew
        with pytest.raises(UserError, match=words):
            start()
        data.forget()
    monkeypatch.undo()
    start()


def test_what_an_earlier_version_did_not_note_is_taken_as_it_is(store, monkeypatch):
    compared(JOB, store, "x", LOOP)
    spec = store.experiment("x")
    assert spec is not None
    del spec["data"], spec["versions"]["scipy"]
    store.change_experiment("x", spec)
    compared(JOB, store, "x", LOOP)
    noted = store.experiment("x")
    assert noted is not None
    assert noted["data"]["sha256"] == data.load(NAME).sha256
    assert "scipy" in noted["versions"]
    monkeypatch.setitem(SOURCES, NAME, source(1))
    with pytest.raises(UserError, match="was begun on other data"):
        compared(JOB, store, "x", LOOP)


def test_a_version_that_changed_is_not_taken_as_it_is():
    before, now = {"versions": {"a": "1"}}, {"versions": {"a": "2", "b": "1"}}
    assert with_unknown(before, now) == {"versions": {"a": "1", "b": "1"}}
    assert with_unknown({"versions": {"a": "1", "b": "1"}}, {"versions": {"a": "1"}})["versions"] == {
        "a": "1",
        "b": "1",
    }


def test_an_experiment_of_another_kind_of_the_same_name(store):
    sweep(Sweep("wsd", 10, (0.01, 0.1)), study(store, "sweep"))
    compared(JOB, store, "job", LOOP)
    with pytest.raises(UserError, match="of another kind: give another --name"):
        compared(JOB, store, "sweep", LOOP)
    with pytest.raises(UserError, match=r"'job' was begun with.*another --name"):
        sweep(Sweep("wsd", 10, (0.01, 0.1)), study(store, "job"))


OWN_CODE = """
from dataclasses import dataclass
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x){change}

@dataclass(frozen=True)
class OwnNetwork:
    {docstring}
    def build(self, input_shape, num_classes):
        return Net(input_shape[0], num_classes)
"""


def own_network(folder, number, **given):
    """A network of somebody's own code, from a file."""
    file = folder / f"own_{number}.py"
    file.write_text(OWN_CODE.format(**given))
    spec = importlib.util.spec_from_file_location("own", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["own"] = module
    spec.loader.exec_module(module)
    return module.OwnNetwork()


def test_other_code_of_ones_own_on_a_later_start_is_noticed(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", None)  # put back at the end
    given = ("", ""), ("  # a comment", '"""And a docstring."""'), (" * 2", "")
    messages = []
    for number, (change, docstring) in enumerate(given):
        task = replace(OWN, network=own_network(tmp_path, number, change=change, docstring=docstring))
        try:
            compared(replace(JOB, task=task), store, "x", LOOP)
            sweep(Sweep("wsd", 10, (0.01, 0.1)), replace(study(store, "y"), task=task))
        except UserError as error:
            messages.append(f"{number}: {error}")
    (message,) = messages
    assert message.startswith(
        "2: 'x' was begun with other code: that of network has changed since: use the same, another"
    )
    with pytest.raises(UserError, match="'y' was begun with other code: that of network"):
        sweep(Sweep("wsd", 10, (0.01, 0.1)), replace(study(store, "y"), task=task))
    assert own_code(OWN, {"cosine": Cosine}) == {}


def stopped(store, monkeypatch, after=2):
    """A job that was stopped after so many segments, and its checkpoint."""
    advance, left = Rollout.advance, [after]

    def killed(self):
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "advance", killed)
        with pytest.raises(StoppedError):
            compared(JOB, store, "x", LOOP)
    (checkpoint,) = store.path.parent.glob(f"{store.path.name}.x.*.checkpoint")
    return checkpoint


def changed(tree, path, value):
    """A tree with another value at a path; None to leave it out."""
    key, *rest = path.split(".", 1)
    if rest:
        return {**tree, key: changed(tree[key], rest[0], value)}
    return {**tree, key: value} if value is not None else {name: of for name, of in tree.items() if name != key}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tag", None),
        ("segment", None),
        ("rollout", None),
        ("rollout", 5),
        ("rollout.env", None),
        ("rollout.own", []),
        ("rollout.own._scores", None),
        ("rollout.own._seconds", np.zeros(3)),
        ("rollout.own._ended", np.zeros(1)),
        ("rollout.env.episodes", None),
        ("rollout.env.episodes.over", np.zeros(2, bool)),
        ("rollout.env.episodes.children.steps", np.zeros(7, np.int64)),
        ("rollout.env.episodes.children.tensors", {}),
        ("rollout.env.generators", None),
        ("rollout.env.generators", [5]),
    ],
)
def test_a_checkpoint_that_is_whole_but_does_not_fit_is_refused(store, monkeypatch, path, value):
    checkpoint = stopped(store, monkeypatch)
    whole = load_tree(checkpoint)
    save_tree(checkpoint, changed(whole, path, value))
    with pytest.raises(UserError, match=re.escape(f"{str(checkpoint)!r} does not fit") + ".*: delete it") as caught:
        compared(JOB, store, "x", LOOP)
    assert "\n" not in str(caught.value)
    save_tree(checkpoint, whole)
    compared(JOB, store, "x", LOOP)
    assert not checkpoint.exists()


@pytest.mark.parametrize("change", ["DELETE FROM segments", "UPDATE segments SET val_loss = val_loss + 1"])
def test_a_store_that_is_not_what_the_checkpoint_was_written_after_is_trained_again(
    store, tmp_path, monkeypatch, change
):
    with closing(Store(tmp_path / "whole.sqlite")) as whole:
        expected = compared(JOB, whole, "x", LOOP).tuning
    stopped(store, monkeypatch)
    store._db.execute(change)
    assert compared(JOB, store, "x", LOOP).tuning[0].scores == expected[0].scores


def test_a_training_of_a_controller_does_not_go_on_from_what_does_not_fit(tmp_path):
    folder = tmp_path / "ppo"

    def start():
        train(OWN, PPO, folder, execution=LOOP, checkpoint_seconds=0.0, progress=stop_once(folder))

    with pytest.raises(StoppedError):
        start()
    whole = load_tree(folder / "checkpoint")
    for path, value in (
        ("policy", {}),
        ("optimizer", {"0": {}}),
        ("history", None),
        ("history", [1]),
        ("rms", []),
        ("backend", "{}"),
        ("backend", None),
        ("spec", "{"),
        ("spec", None),
        ("torch", np.zeros(3)),
        ("env.episodes.children.steps", np.zeros(7, np.int64)),
    ):
        save_tree(folder / "checkpoint", changed(whole, path, value))
        with pytest.raises(UserError, match=r"does not fit .*: delete it") as caught:
            start()
        assert "\n" not in str(caught.value)
    save_tree(folder / "checkpoint", whole)
    start()


def test_what_fits():
    like = {"a": np.zeros(2), "b": [{"c": 1}, {}], "empty": {}, "none": None}
    check_fit({"a": np.ones(2), "b": [{"c": "x"}, {"d": 1}], "empty": {"e": 1}, "none": np.ones(1), "more": 1}, like)
    for other in (
        {**like, "a": np.zeros(2, np.float32)},
        {**like, "b": [{}, {}]},
        {"a": np.zeros(2)},
        {**like, "b": 1},
    ):
        with pytest.raises(ValueError, match="is not as it should be"):
            check_fit(other, like)

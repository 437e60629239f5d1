"""Files of earlier formats: they are read, and what was in flight goes on, or is refused in one line."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.records.checkpoint import load_tree
from lr_env.records.store import Store
from lr_env.records.tables import check_task, read_runs
from lr_env.rollout import Rollout
from lr_env.signals import ALWAYS
from lr_env.studies.across.saved import read_saved
from planners import PPO, LatentODE
from planners.ppo.training import train
from tests import quadratic
from tests.damage import plain, read_bench
from tests.fixtures import make
from tests.helpers import compared

FORMATS = sorted(path.name for path in Path(make.__file__).parent.iterdir() if (path / "records.sqlite").exists())


@pytest.fixture(params=FORMATS)
def folder(request, tmp_path, monkeypatch):
    """A copy of the files of one format, under the versions that wrote them."""
    folder = shutil.copytree(Path(make.__file__).parent / request.param, tmp_path / "files")
    with closing(sqlite3.connect(folder / "records.sqlite")) as db:
        spec = json.loads(db.execute("SELECT spec FROM experiments WHERE name = 'stopped'").fetchone()[0])
    of_ppo = json.loads(load_tree(folder / "ppo" / "checkpoint")["spec"])
    monkeypatch.setattr("lr_env.runs.spec.versions", lambda: dict(spec["versions"]))
    monkeypatch.setattr("planners.ppo.training.versions", lambda also: dict(of_ppo["versions"]))
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same job without a break, here and now."""
    return compared(make.JOB, Store(tmp_path_factory.mktemp("unbroken") / "records.sqlite"), "whole", make.EXECUTION)


def test_there_are_fixtures():
    assert FORMATS == ["sealed", "signals", "unsealed"]


def same_runs(found, expected):
    assert [(r.planner, r.settings, r.seed) for r in found] == [(r.planner, r.settings, r.seed) for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-3)
        assert one.curves.keys() == other.curves.keys() == set(ALWAYS)
        for name, curve in other.curves.items():
            np.testing.assert_allclose(one.curves[name], curve, rtol=1e-2, atol=1e-4)


def test_what_was_in_flight_goes_on_from_its_checkpoint(folder, unbroken, monkeypatch):
    restored, restore = [], Rollout.restore
    monkeypatch.setattr(Rollout, "restore", lambda self, saved: restored.append(restore(self, saved)))
    with closing(Store(folder / "records.sqlite")) as store:
        found = compared(make.JOB, store, make.STOPPED, make.EXECUTION)
        same_runs(found.final, unbroken.final)
        assert len(restored) == 1
        known = [record.provenance.keys() for record in store.runs(make.STOPPED)]
        assert known.count({"commit", "device", "threads"}) >= 4  # all that were finished now
        assert store.experiment(make.STOPPED)["data"]["name"] == "digits"
        same_runs(compared(make.JOB, store, make.FINISHED, make.EXECUTION).final, unbroken.final)
        more = replace(make.JOB, planners=(*make.JOB.planners, "linear"))
        assert len(compared(more, store, make.STOPPED, make.EXECUTION).final) == 6
    assert not list(folder.glob("*.checkpoint"))


def test_a_comparison_is_read(folder):
    read_saved(folder / "comparison")
    file = folder / "comparison" / "runs.parquet"
    check_task(file, make.TASK)
    found = read_runs(file)
    with closing(Store(folder / "records.sqlite")) as store:
        records = [*store.runs(make.FINISHED, "tune"), *store.runs(make.FINISHED, "final", curves=True)]
    assert [plain(one) for one in found] == [plain(one) for one in records]


def test_models_and_policies_play(folder):
    model, policy = str(folder / "model.safetensors"), str(folder / "policy.safetensors")
    rates = quadratic.played(LatentODE(model=model), seeds=(1,))[0]
    assert (rates > 0).all()
    assert PPO(0.1, policy=policy).pretraining_steps == LatentODE(model=model).pretraining_steps == 7


def test_a_training_of_a_controller_goes_on(folder):
    made = train(make.TASK, make.PPO_TRAINING, folder / "ppo", execution=LOOP)
    assert made["decisions"] == 64
    assert [entry["decisions"] for entry in made["history"]][:2] == [0, 16]


def test_a_bench_is_read(folder):
    assert len(read_bench(folder)) == 1

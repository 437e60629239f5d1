"""Engines: results do not depend on who trains the chunks, in what order and how often."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.cli.main import main
from lr_env.records.record import run_key
from lr_env.records.store import Store
from lr_env.runs.chunks import train
from lr_env.runs.engine import LocalEngine
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import TASKS
from tests.helpers import compared

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=20, val_subset=50)
EXECUTION = replace(LOOP, lockstep=2)


class Elsewhere(LocalEngine):
    """Trains the last chunk first, each from a pickle, as another process would, and twice."""

    chunks = 0

    def run(self, chunks, sink):
        for chunk in reversed(list(chunks)):
            for _ in range(2):
                for event in train(pickle.loads(pickle.dumps(chunk)), sink.resume(chunk)):
                    pickle.loads(pickle.dumps(event)).hand_on(chunk, sink)
            Elsewhere.chunks += 1


def test_another_engine_gives_the_same_records(tmp_path):
    plan = ComparisonPlan(TASK, ("constant", "plrs"), (0.05, 0.2), tune_seeds=(1000,), seeds=(0, 1, 2))
    results = []
    for name, lab in (("local", {}), ("elsewhere", {"engine": Elsewhere()})):
        store = Store(tmp_path / f"{name}.sqlite")
        compared(plan, store, "x", EXECUTION, **lab)
        results.append(sorted(store.runs("x", curves=True), key=run_key))
    assert Elsewhere.chunks > 4
    for one, other in zip(*results, strict=True):
        assert (run_key(one), one.scores, one.status) == (run_key(other), other.scores, other.status)
        for name, curve in one.curves.items():
            np.testing.assert_array_equal(curve, other.curves[name])


def test_engines_of_other_packages_are_found_by_name(tmp_path, monkeypatch, capsys):
    from lr_env import entry_points

    before, declared = Elsewhere.chunks, entry_points.entry_points
    entry = EntryPoint("elsewhere", f"{__name__}:Elsewhere", "lr_env.engines")
    monkeypatch.setattr(entry_points, "entry_points", lambda group: [*declared(group=group), entry])
    small = ["compare", "DigitsMLP", "--budget", "40", "--segment", "20", "--planners", "constant", "--rates", "0.1"]
    places = ["--seeds", "2", "--store", str(tmp_path / "r.sqlite"), "--results", str(tmp_path), "--backend", "loop"]
    monkeypatch.setattr(sys, "argv", ["lr-env", *small, *places, "--engine", "elsewhere"])
    main()
    assert Elsewhere.chunks > before
    monkeypatch.setattr(sys, "argv", ["lr-env", *small, *places, "--engine", "elsewere"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "unknown engine 'elsewere'; did you mean 'elsewhere'" in capsys.readouterr().err

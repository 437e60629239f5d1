"""Signals: those that meters take on demand, in both engines, and what records and stores keep of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lr_env.children import Backend, Children, Execution
from lr_env.children.initial import build_seeded
from lr_env.children.meters import GROUP, HypergradientMeter, on_demand, on_demand_signals
from lr_env.env.episodes import Episodes
from lr_env.env.forks import Forks
from lr_env.env.observations import FEATURES
from lr_env.errors import UserError
from lr_env.optimizers import SGD
from lr_env.records.record import RunRecord, settings_key
from lr_env.records.store import Store
from lr_env.records.tables import read_runs, write_runs
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.signals import ALWAYS, SIGNALS, VALIDATION_SIGNALS, Signal, names
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import TASKS
from planners import Cosine, Hypergradient, HypergradientMultiplicative
from tests.helpers import compared

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)
ENGINES = [Backend("loop"), Backend("stacked", 2)]


class UpdateMeter:
    """A meter as another package may have it: how far each step moves the parameters, and how far the last one did."""

    signals = (Signal("last_move", "weight", "distance of the last step", "step"),)
    slots = ("before", "moved")

    def before_update(self, gradients, parameters, slots):
        slots["before"].copy_(parameters)
        return (slots["moved"].norm(dim=1),)

    def after_update(self, parameters, lr, slots):
        torch.sub(parameters, slots["before"], out=slots["moved"])


class Unfinished:
    signals = ()


class Clashing(UpdateMeter):
    slots = ("before", "momentum_buffer")


@dataclass(frozen=True)
class Cautious:
    """Lowers its rate the more, the larger the last moves were."""

    peak: float = 0.05
    name = "cautious"
    needs = frozenset({"step", "last_move"})

    def start(self, run, seeds):
        return {}

    def plan(self, state, signals):
        return self.peak / (1 + np.asarray(signals["last_move"])), state

    @classmethod
    def candidates(cls, rates):
        return [cls(rate) for rate in rates]


@pytest.fixture
def declare(monkeypatch):
    """Declares meters as installed packages do."""

    def declare(**meters: str) -> None:
        entries = [EntryPoint(name, f"tests.test_signals:{meter}", GROUP) for name, meter in meters.items()]
        monkeypatch.setattr("lr_env.entry_points.entry_points", lambda group: entries if group == GROUP else [])

    return declare


def test_every_signal_has_a_name_of_its_own_and_a_unit():
    assert names(SIGNALS) == ALWAYS
    assert on_demand_signals()[:3] == ("update_product", "update_cosine", "gradient_norm")
    assert len({*ALWAYS, *on_demand_signals()}) == len(ALWAYS) + len(on_demand_signals())
    for signal in (*SIGNALS, *HypergradientMeter.signals):
        assert signal.unit
        assert signal.description
        assert signal.always == (signal.name in ALWAYS)
    assert {feature.signal for feature in FEATURES} < {*ALWAYS}
    assert set(names(VALIDATION_SIGNALS)) == set(Children(TASK, [0]).measure())


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("backend", ENGINES, ids=str)
def test_the_norm_of_the_gradient_is_that_of_plain_torch(backend, clip_norm):
    task = replace(TASK, clip_norm=clip_norm, segment=6)
    children = Children(
        task,
        [3, 4, 5],
        extra_signals=["gradient_norm"],
        dtype=torch.float64,
        execution=Execution(device="cpu", backend=backend),
    )
    assert children.extra_signals == ("gradient_norm",)
    children.train([0.05] * 3)
    source, train = task.source, children.data.splits["train"]
    for row, seed in enumerate([3, 4, 5]):
        module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, torch.float64)
        optimizer = task.optimizer.build(module.parameters())
        for number, batch in enumerate(children.order.batches(np.zeros(3, dtype=np.int64), 6)[row]):
            optimizer.param_groups[0]["lr"] = 0.05
            optimizer.zero_grad()
            F.cross_entropy(module(train.inputs[batch]), train.labels[batch]).backward()
            norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
            assert children.step_signals[row, number, 0] == pytest.approx(float(norm), rel=1e-9)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizer.step()


@pytest.mark.parametrize("backend", ENGINES, ids=str)
def test_meters_do_not_change_each_other(backend):
    together = Children(
        TASK, range(3), extra_signals=on_demand_signals(), execution=Execution(device="cpu", backend=backend)
    )
    together.train([0.05] * 3)
    for name in on_demand_signals():
        alone = Children(TASK, range(3), extra_signals=[name], execution=Execution(device="cpu", backend=backend))
        alone.train([0.05] * 3)
        columns = [children.extra_signals.index(name) for children in (alone, together)]
        ours, others = (children.step_signals[..., at] for children, at in zip((alone, together), columns, strict=True))
        np.testing.assert_array_equal(ours, others)


@pytest.mark.parametrize("backend", ENGINES, ids=str)
def test_a_meter_of_another_package_is_measured_planned_with_and_recorded(backend, declare):
    declare(last_move="UpdateMeter")
    assert on_demand({"lr", "last_move", "update_cosine", "probe"}) == ("update_cosine", "last_move")
    task = replace(TASK, segment=1, budget=8, optimizer=SGD(momentum=0.0))
    (record,) = rollout(Cautious(), task, [4], execution=Execution(backend=backend))
    children = Children(task, [4], execution=Execution(device="cpu", backend=Backend("loop")))
    before, moves = children.state.parameters.clone(), [0.0]
    for rate in record.curves["lr"]:
        children.train([rate])
        moves.append(float((children.state.parameters - before).norm()))
        before = children.state.parameters.clone()
    np.testing.assert_allclose(record.curves["last_move"], moves[:-1], rtol=1e-4)
    np.testing.assert_allclose(record.curves["lr"], [0.05, *(0.05 / (1 + move) for move in moves[:-2])], rtol=1e-4)


def test_forks_measure_what_their_runs_do(declare):
    declare(last_move="UpdateMeter")
    episodes = Episodes(TASK, 2, extra_signals=["last_move"], backend="loop")
    episodes.start([0, 1], [1, 2])
    episodes.step([0.1, 0.1])
    Forks(episodes).measure([0, 1], [[0.1], [0.2]], 1)
    again = Episodes(TASK, 2, extra_signals=["last_move"], backend="loop")
    again.restore(episodes.snapshot())
    for both in (episodes, again):
        both.step([0.1, 0.1])
    np.testing.assert_array_equal(episodes.signals["last_move"], again.signals["last_move"])
    assert (episodes.signals["last_move"] > 0).all()
    with pytest.raises(UserError, match="as many runs are measured alike"):
        Episodes(TASK, 2, backend="loop").restore(episodes.snapshot())


def test_meters_that_are_not_there_or_wrong(declare):
    with pytest.raises(UserError, match="unknown signal 'grad_norm'; did you mean 'gradient_norm'"):
        Episodes(TASK, 1, extra_signals=["grad_norm"])
    declare(gone="NoMeter", unfinished="Unfinished", last_move="Clashing", lr="UpdateMeter")
    assert "lr" not in on_demand_signals()
    with pytest.raises(
        UserError, match=r"the meter of signal 'gone' .* cannot be loaded .*: repair or uninstall the package"
    ):
        Children(TASK, [0], extra_signals=["gone"])
    with pytest.raises(UserError, match="does not measure 'unfinished'"):
        Children(TASK, [0], extra_signals=["unfinished"])
    with pytest.raises(UserError, match="two slots are called 'momentum_buffer'"):
        Children(TASK, [0], extra_signals=["last_move"])
    declare()
    with pytest.raises(UserError, match=r"planner 'cautious' needs the signal 'last_move', which .* does not measure"):
        rollout(Cautious(), TASK, [0])


def test_a_run_records_what_its_own_planner_needs():
    runs = [PlannedRun(planner, 1) for planner in (Cosine(0.1), Hypergradient(0.1), HypergradientMultiplicative(0.1))]
    curves = [signals.keys() for _, signals in Rollout(TASK, runs).advance()]
    assert curves == [{*ALWAYS}, {*ALWAYS, "update_product"}, {*ALWAYS, "update_cosine"}]


JOB = ComparisonPlan(TASK, ("hypergradient", "cosine"), (0.1,), tune_seeds=(100,), seeds=(0, 1))


def _curves(store: Store) -> list[tuple]:
    runs = store.runs("x", curves=True)
    return [(run.planner, run.seed, {name: curve.tolist() for name, curve in run.curves.items()}) for run in runs]


def test_further_signals_survive_a_kill_at_any_segment(tmp_path, monkeypatch):
    with closing(Store(tmp_path / "whole")) as store:
        compared(JOB, store, "x", Execution(backend="stacked"))
        expected = _curves(store)
    for planner, _, curves in expected:
        assert len(curves.get("update_product", ())) == (6 if planner == "hypergradient" else 0)
    write, left = Store.write_segment, [0]

    def killed(self, segment, rows):
        write(self, segment, rows)  # before its checkpoint
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "write_segment", killed)
    for after in (1, 3, 6, 8):
        with closing(Store(tmp_path / str(after))) as store:
            for left[0] in (after, 4, 0):
                with suppress(KeyboardInterrupt):
                    compared(JOB, store, "x", Execution(backend="stacked"))
            assert _curves(store) == expected
        with closing(Store(tmp_path / str(after))) as store:
            runs = store.runs("x", "final", curves=True)
            write_runs(runs, tmp_path / "runs.parquet", {})
    again = {(run.planner, run.seed): run.curves for run in read_runs(tmp_path / "runs.parquet")}
    for run in runs:
        assert again[run.planner, run.seed].keys() == run.curves.keys()
        for name, curve in run.curves.items():
            np.testing.assert_array_equal(again[run.planner, run.seed][name], curve)


def test_a_store_of_the_version_before_goes_on_with_further_signals(tmp_path, monkeypatch):
    file = tmp_path / "records"
    write = Store.write_segment
    calls = []

    def killed(self, segment, rows):
        write(self, segment, [(run, {name: signals[name] for name in ALWAYS}) for run, signals in rows])
        calls.append(segment)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with closing(Store(file)) as store, monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Store, "write_segment", killed)
        compared(JOB, store, "x", Execution(backend="stacked"))
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("DROP TABLE further_signals")
        db.execute('ALTER TABLE segments ADD COLUMN "other" REAL')  # as that version kept a signal that was new
        db.execute("UPDATE segments SET other = 1.5")
        db.execute("PRAGMA user_version = 2")
    (checkpoint,) = tmp_path.glob("records.x.*.checkpoint")
    checkpoint.unlink()
    with closing(Store(file)) as store:
        assert {curves["other"][0] for _, _, curves in _curves(store) if curves["step"]} == {1.5}
        compared(JOB, store, "x", Execution(backend="stacked"))
        found = _curves(store)
    with closing(Store(tmp_path / "whole")) as store:
        compared(JOB, store, "x", Execution(backend="stacked"))
        assert found == _curves(store)


def _small(path) -> Store:
    store = Store(path)
    store.begin_experiment("e", {})
    (run,) = store.begin_runs("e", [("final", "cosine", settings_key({}), 3)])
    for segment in range(3):
        store.write_segment(segment, [(run, {"step": segment, "norm": segment + 0.25, "lost": np.nan})])
    return store


def test_further_signals_are_rewound_replaced_and_deleted_with_their_segments(tmp_path):
    with closing(_small(tmp_path / "s")) as store:
        store.write_segment(1, [(1, {"step": 1.0, "norm": 7.0})])
        (run,) = store.runs("e", curves=True)
        assert {name: curve.tolist() for name, curve in run.curves.items()} == {
            "step": [0, 1, 2],
            "norm": [0.25, 7.0, 2.25],
        }
        store.write_segment(1, [(1, {"step": 1.0})])
        (run,) = store.runs("e", curves=True)
        np.testing.assert_array_equal(run.curves["norm"], [0.25, np.nan, 2.25])
        store.rewind([1], 1)
        (run,) = store.runs("e", curves=True)
        assert run.curves["norm"].tolist() == [0.25]
        store.delete_experiment("e")
        assert store._db.execute("SELECT COUNT(*) FROM further_signals").fetchone() == (0,)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE further_signals SET value = 7 WHERE segment = 1 AND name = 'norm'",
        "UPDATE further_signals SET value = 'high' WHERE name = 'norm'",
        "DELETE FROM further_signals WHERE name = 'norm'",
        "INSERT INTO further_signals VALUES (1, 2, 'other', 0.5)",
        "INSERT INTO further_signals VALUES (1, 3, 'norm', 0.5)",
    ],
)
def test_further_signals_are_sealed(tmp_path, change):
    with closing(_small(tmp_path / "s")) as store:
        store.finish_runs([(1, RunRecord("final", "cosine", {}, 3))])
        assert store.runs("e", curves=True)[0].curves["norm"].tolist() == [0.25, 1.25, 2.25]
        store._db.execute("PRAGMA foreign_keys = OFF")
        store._db.execute(change)
        with pytest.raises(UserError, match=r"experiment 'e' .* is damaged \(.*--fresh"):
            store.runs("e", curves=True)

"""The engine of several processes: the same records as in this process, whoever is killed on the way."""

from __future__ import annotations

import os
import pickle
import signal
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from lr_env.children import LOOP
from lr_env.errors import UserError
from lr_env.records.record import run_key
from lr_env.records.store import Store
from lr_env.rollout import PlannedRun, Rollout
from lr_env.runs import processes
from lr_env.runs.chunks import Begun, Chunk, Ended, Saved, Trained
from lr_env.runs.engine import EngineOptions, LocalEngine, find_engine
from lr_env.runs.processes import ProcessEngine
from lr_env.runs.worker import Worker, portable
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import TASKS
from planners.schedules import Constant
from tests.helpers import StoppedError, compared

TASK = replace(TASKS["DigitsMLP"], budget=120, segment=20, val_subset=50)
EXECUTION = replace(LOOP, lockstep=2)
PLAN = ComparisonPlan(TASK, ("constant", "plrs"), (0.05, 0.2), tune_seeds=(1000, 1001), seeds=(0, 1, 2))


@dataclass(frozen=True)
class Deadly(Constant):
    """Ends its process at its second plan."""

    name: ClassVar[str] = "deadly"

    def plan(self, state, signals):
        if np.any(signals["step"] > 0):
            os._exit(3)
        return super().plan(state, signals)


@dataclass(frozen=True)
class Broken(Constant):
    """Raises an error."""

    name: ClassVar[str] = "broken"
    hopeless: bool = False

    def plan(self, state, signals):
        raise UserError("no plan: give another") if not self.hopeless else ZeroDivisionError("a bug")


class NoSink:
    """Keeps what happened."""

    def __init__(self):
        self.events = []

    def resume(self, chunk):
        return None

    def begin(self, chunk, segments):
        self.events.append((chunk.key, "begin", segments))

    def segment(self, chunk, number, signals):
        self.events.append((chunk.key, "segment", number))

    def checkpoint(self, chunk, segments, snapshot):
        self.events.append((chunk.key, "checkpoint", segments))

    def done(self, chunk, records):
        self.events.append((chunk.key, "done", [record.seed for record in records]))


@pytest.fixture(scope="module")
def engine():
    with closing(ProcessEngine(EngineOptions(workers=2))) as engine:
        yield engine


def chunk_of(planner, key="k", **settings):
    settings = {"checkpoint_seconds": 60.0, **settings}
    return Chunk(key, TASK, (PlannedRun(planner, 0),), "final", ("val",), LOOP, **settings)


def records_of(store):
    return sorted(store.runs("x", curves=True), key=lambda run: (run.phase, run_key(run)))


def same_records(ones, others):
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert (one.phase, run_key(one), one.scores, one.steps) == (
            other.phase,
            run_key(other),
            other.scores,
            other.steps,
        )
        for name, curve in one.curves.items():
            np.testing.assert_array_equal(curve, other.curves[name])


def test_records_are_those_of_this_process_whoever_is_killed(engine, tmp_path):
    """Workers are killed now and then, and the process that they work for is stopped once."""
    reports, total = 0, 0

    def progress(what, steps):
        nonlocal reports, total
        reports, total = reports + 1, total + steps
        busy = [worker for worker in engine._workers.values() if worker.chunk]
        if reports in (10, 50) and busy:
            os.kill(busy[-1].process.pid, signal.SIGKILL)
        if reports == 40:
            raise StoppedError

    with closing(Store(tmp_path / "local")) as local, closing(Store(tmp_path / "processes")) as store:
        compared(PLAN, local, "x", EXECUTION)
        settings = {"engine": engine, "progress": progress, "checkpoint_seconds": 0.0}
        with pytest.raises(StoppedError):
            compared(PLAN, store, "x", EXECUTION, **settings)
        assert not any(worker.chunk for worker in engine._workers.values())
        assert list(tmp_path.glob("processes.x.*.checkpoint"))
        done, total = total, 0
        compared(PLAN, store, "x", EXECUTION, **settings)
        assert reports > 60
        assert done < total == PLAN.child_steps  # steps that are trained again are not reported again
        same_records(records_of(store), records_of(local))
    assert not list(tmp_path.glob("*.checkpoint"))


def test_each_chunk_is_told_of_in_order(engine):
    sink = NoSink()
    engine.run([chunk_of(Constant(0.1), str(number), checkpoint_seconds=0.0) for number in range(4)], sink)
    for number in range(4):
        told = [what for key, *what in sink.events if key == str(number)]
        expected = [["begin", 0]]
        for segment in range(TASK.num_segments):
            expected += [["segment", segment], ["checkpoint", segment + 1]]
        assert told == [*expected[:-1], ["done", [0]]]
    told_local = NoSink()
    LocalEngine().run([chunk_of(Constant(0.1), "0", checkpoint_seconds=0.0)], told_local)
    assert told_local.events == [event for event in sink.events if event[0] == "0"]


def test_runs_that_end_every_process_are_given_up(engine, monkeypatch):
    monkeypatch.setattr(processes, "TRIES", 2)
    with pytest.raises(UserError, match=r"2 worker processes ended .* with exit code 3: see that there is enough"):
        engine.run([chunk_of(Deadly(0.1))], NoSink())
    engine.run([chunk_of(Constant(0.1))], NoSink())  # and it goes on working


def test_errors_come_back(engine):
    with pytest.raises(UserError) as refused:
        engine.run([chunk_of(Broken(0.1))], NoSink())
    assert (str(refused.value), getattr(refused.value, "__notes__", [])) == ("no plan: give another", [])
    with pytest.raises(ZeroDivisionError) as caught:
        engine.run([chunk_of(Broken(0.1, hopeless=True))], NoSink())
    assert "in plan" in caught.value.__notes__[0]


def test_snapshots_travel_without_their_device():
    rollout = Rollout(TASK, [PlannedRun(Constant(0.1), 0)], execution=LOOP)
    rollout.advance()
    event = portable(Saved(1, rollout.snapshot()))
    again = pickle.loads(pickle.dumps(event))
    rollout.restore(again.snapshot)
    for other in (Begun(0), Trained(0, []), Ended([])):
        assert portable(other) is other


def test_workers_have_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    both = [{"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}]
    assert ProcessEngine(EngineOptions("cuda"))._environments == both
    assert ProcessEngine(EngineOptions("auto", workers=1))._environments == both[:1]
    assert ProcessEngine(EngineOptions("cuda:1"))._environments == [{}]
    with pytest.raises(UserError, match="workers 3: there are 2 GPUs for device 'cuda'"):
        ProcessEngine(EngineOptions("cuda", workers=3))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert ProcessEngine(EngineOptions("cuda"))._environments[1] == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the environment of processes cannot be read here")
def test_the_environment_of_a_worker_is_its_own(monkeypatch):
    monkeypatch.setenv("LR_ENV_TEST_A", "before")
    worker = Worker(1, {"LR_ENV_TEST_A": "worker", "LR_ENV_TEST_B": "worker"})
    try:
        environment: set[str] = set()
        while not environment - {""}:  # it is not there yet while the process begins
            environment = set(Path(f"/proc/{worker.process.pid}/environ").read_text().split("\0"))
        assert {"LR_ENV_TEST_A=worker", "LR_ENV_TEST_B=worker"} <= environment
        assert (os.environ["LR_ENV_TEST_A"], os.environ.get("LR_ENV_TEST_B")) == ("before", None)
    finally:
        worker.close()
    assert not worker.process.is_alive()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local", {"workers": 2}, "--workers is not of engine 'local': add --engine processes"),
        ("local", {"address": "a:1"}, "--ray-address is not of engine 'local'"),
        ("processes", {"address": "a:1"}, "--ray-address is not of engine 'processes'"),
        ("processes", {"workers": 5000}, "workers 5000: give at most 1,024"),
    ],
)
def test_options_that_an_engine_does_not_have(name, options, message):
    with pytest.raises(UserError, match=message):
        find_engine(name, EngineOptions(**options))
    with pytest.raises(UserError, match="workers 0: it must be a whole number of at least 1"):
        EngineOptions(workers=0)

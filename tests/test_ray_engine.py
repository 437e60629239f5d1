"""The engine of a Ray cluster, on two nodes of this machine: the same records as in this process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.devices import find_device
from lr_env.env.observations import FEATURES
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.runs import ray_engine
from lr_env.runs.engine import EngineOptions, LocalEngine, find_engine
from lr_env.runs.ray_engine import RayEngine
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import TASKS
from planners.ppo.planner import PPO
from planners.ppo.policy import Policy
from tests.helpers import StoppedError, compared
from tests.test_processes_engine import Broken, NoSink, chunk_of, records_of, same_records

pytest.importorskip("ray", reason="Ray is not installed: pip install 'lr-env[ray]'")

TASK = replace(TASKS["DigitsMLP"], budget=120, segment=20, val_subset=50)
EXECUTION = replace(LOOP, lockstep=2)
PLAN = ComparisonPlan(TASK, ("constant", "plrs"), (0.05, 0.2), tune_seeds=(1000, 1001), seeds=(0, 1, 2))


def test_a_cluster_that_is_not_there():
    import ray

    assert not ray.is_initialized()
    for address, why in (("localhost:1", "Connection refused"), ("here", "an address is HOST:PORT")):
        with pytest.raises(UserError, match=rf"there is no Ray cluster at '{address}' .+{why}\): start one with `ray"):
            RayEngine(EngineOptions(address=address))


def test_ray_that_is_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"engine 'ray' needs the package ray: pip install 'lr-env\[ray\]'"):
        RayEngine(EngineOptions())


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    with closing(RayEngine(EngineOptions(address=cluster.address))) as engine:
        yield engine


def test_records_are_those_of_this_process_though_a_node_is_lost(cluster, engine, tmp_path):
    """The process that the cluster works for is stopped once, and a node is taken away."""
    assert engine.slots == 2
    further = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    assert engine.slots == 3
    reports = 0

    def progress(what, steps):
        nonlocal reports
        reports += 1
        if reports == 20:
            cluster.remove_node(further, allow_graceful=False)
        if reports == 40:
            raise StoppedError

    with closing(Store(tmp_path / "local")) as local, closing(Store(tmp_path / "ray")) as store:
        compared(PLAN, local, "x", EXECUTION)
        settings = {"engine": engine, "progress": progress, "checkpoint_seconds": 0.1}
        with pytest.raises(StoppedError):
            compared(PLAN, store, "x", EXECUTION, **settings)
        compared(PLAN, store, "x", EXECUTION, **settings)
        same_records(records_of(store), records_of(local))
    assert not list(tmp_path.glob("*.checkpoint"))


def test_files_of_planners_travel(engine, tmp_path, monkeypatch):
    """A planner names its file as this process finds it, which no worker does."""
    monkeypatch.chdir(tmp_path)
    policies = [planner_file(tmp_path / "policy.safetensors", bias) for bias in (0.5, -0.5)]
    told = []
    for content in policies:
        Path("policy.safetensors").write_bytes(content)
        chunk = chunk_of(PPO(0.01, policy="policy.safetensors"))
        assert ray_engine.files_of(chunk) == ("policy.safetensors",)
        for trainer in (engine, LocalEngine()):
            sink = Rates()
            trainer.run([chunk], sink)
            told.append(sink.rates)
        engine._files.clear()  # as another process, to which another file has that name
    assert told[0] == told[1] != told[2] == told[3]


class Rates(NoSink):
    """Keeps the rates that were played."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def segment(self, chunk, number, signals):
        self.rates += [measured["lr"] for _, measured in signals]


def planner_file(path, bias):
    width = len(FEATURES)
    layers = ((np.zeros((1, width), np.float32), np.array([bias], np.float32)),)
    about = {"task": "DigitsMLP", "child_steps": 0}
    Policy(np.zeros(width, np.float32), np.ones(width, np.float32), layers, "scale", 1.05, about).save(path)
    return path.read_bytes()


def test_errors_come_back_with_the_name_of_the_node(engine):
    with pytest.raises(UserError, match=r"^on node '.+' of the Ray cluster: no plan: give another$"):
        engine.run([chunk_of(Broken(0.1))], NoSink())
    with pytest.raises(UserError, match=r"^on node '.+: there is no device 'cuda:9' on this"):
        engine.call(find_device, "cuda:9")


def test_nodes_with_other_software_are_refused_by_name(cluster, engine, monkeypatch):
    other = {**ray_engine.software(), "torch": "1.0"}
    monkeypatch.setattr(ray_engine, "software", lambda: other)
    with pytest.raises(UserError, match=r"^node '.+' of the Ray cluster has torch 2.+, and this process has 1.0:"):
        RayEngine(EngineOptions(address=cluster.address))
    monkeypatch.setattr(engine, "_software", other)  # a node that joins later
    with pytest.raises(UserError, match=r"has torch 2.+, and this process has 1.0: install the same on all"):
        engine.call(int)


def test_what_the_cluster_does_not_have(cluster, engine):
    for options, message in (
        (EngineOptions(threads=4), r"no node of the Ray cluster has 4 CPUs \(at most 1\): give fewer --threads"),
        (EngineOptions("cuda"), r"no node of the Ray cluster has a GPU: start nodes with `ray start --num-gpus N`"),
        (EngineOptions(workers=2), "--workers is not of engine 'ray'"),
    ):
        with pytest.raises(UserError, match=message):
            find_engine("ray", options)

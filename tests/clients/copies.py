"""Copies that go on exactly: pickle, cloudpickle, deepcopy, and into the workers of multiprocessing and joblib."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import cloudpickle
import continued
import joblib

from lr_env import TASKS
from planners.schedules import Cosine

if __name__ == "__main__":
    objects = {
        (kind, backend): continued.started(kind, backend) for kind in continued.KINDS for backend in continued.BACKENDS
    }
    copied = {
        "pickle": {name: pickle.loads(pickle.dumps(one)) for name, one in objects.items()},
        "cloudpickle": {name: cloudpickle.loads(cloudpickle.dumps(one)) for name, one in objects.items()},
        "deepcopy": copy.deepcopy(objects),
        "one pickle": pickle.loads(pickle.dumps(objects)),
    }
    # What is sent is as it stands now, before the originals go on.
    sent = pickle.loads(pickle.dumps(list(objects.values())))
    snapshots = {name: one.snapshot() for name, one in objects.items() if hasattr(one, "snapshot")}
    expected = {name: continued.future(one) for name, one in objects.items()}

    for way, copies in copied.items():
        assert {name: continued.future(one) for name, one in copies.items()} == expected, way
        print(way)
    for name, snapshot in snapshots.items():
        assert continued.from_snapshot(*name, pickle.loads(pickle.dumps(snapshot))) == expected[name], name
    print("snapshots")

    wanted = list(expected.values())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(continued.future, sent) == wanted
        assert pool.map(type, [TASKS["DigitsMLP"], Cosine(0.1)]) == [type(TASKS["DigitsMLP"]), Cosine]
    print("forked pool")
    for backend in ("loky", "multiprocessing", "threading"):
        found = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(continued.future)(one) for one in copy.deepcopy(sent)
        )
        assert found == wanted, backend
        print("joblib", backend)

"""Ray's object store, whose arrays are read-only: objects, snapshots, tasks and planners go in and come out to go on.

Another process takes each from the store, and this one does, too; the original goes on last.
"""

from __future__ import annotations

import continued
import ray

from lr_env import TASKS
from planners.schedules import Cosine

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    future, from_snapshot = ray.remote(continued.future), ray.remote(continued.from_snapshot)
    for backend in continued.BACKENDS:
        for kind in continued.KINDS:
            one = continued.started(kind, backend)
            stored = ray.put(one)
            found = [ray.get(future.remote(stored)), continued.future(ray.get(stored))]
            if hasattr(one, "snapshot"):
                snapshot = ray.put(one.snapshot())
                found += [ray.get(from_snapshot.remote(kind, backend, snapshot))]
                found += [continued.from_snapshot(kind, backend, ray.get(snapshot))]
            expected = continued.future(one)
            assert all(numbers == expected for numbers in found), (kind, backend)
            print(kind, backend)
    for value in (TASKS["DigitsMLP"], Cosine(0.1)):
        assert ray.get(ray.put(value)) == value
    ray.shutdown()

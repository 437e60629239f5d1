"""Objects in the middle of a run, sent to the workers of multiprocessing and joblib, go on there as they would here."""

from __future__ import annotations

import copy
import multiprocessing

import continued
import joblib

if __name__ == "__main__":
    objects = [continued.started(kind, backend) for backend in continued.BACKENDS for kind in continued.KINDS]
    sent = copy.deepcopy(objects)  # as they stand now
    expected = [continued.future(one) for one in objects]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(continued.future, sent) == expected
    print("forked pool")
    for backend in ("loky", "multiprocessing", "threading"):
        # Threads share what they are given, so that they come last.
        found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(continued.future)(one) for one in sent)
        assert found == expected, backend
        print("joblib", backend)

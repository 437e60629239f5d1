"""Shared by all tests: one thread, because CI machines are busy, and no global randomness."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the commands that tests run, too
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device there is."""
    return request.param


@pytest.fixture(autouse=True)
def _global_generators_untouched():
    """No test may find a global random generator where it was not before: nothing of ours draws from one."""
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()

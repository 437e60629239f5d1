"""Shared by all tests: one thread, because CI machines are busy, and no global randomness."""

from __future__ import annotations

import os
import random
from typing import Any

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


def global_states() -> tuple[Any, ...]:
    """Where the global random generators of torch and numpy are (Python's moves when rich is first imported)."""
    key, position = np.random.get_state()[1:3]
    return torch.random.get_rng_state().tolist(), key.tolist(), position


@pytest.fixture
def global_generators_kept():
    """For what seeds the global generators on purpose, as stable-baselines3 does: they are put back."""
    before = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.random.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


@pytest.fixture(autouse=True)
def _global_generators_untouched():
    """No test may find a global random generator where it was not before: nothing of ours draws from one."""
    before = global_states()
    yield
    assert global_states() == before


@pytest.fixture(scope="session")
def quadratic_made():
    """Runs of the quadratic, and a model that was fitted to them."""
    from planners.latent_ode.data.dataset import run_dataset
    from planners.latent_ode.fitting.fit import Fitting
    from planners.latent_ode.fitting.fit_artifact import fit_artifact
    from planners.latent_ode.model.dynamics import Sizes
    from tests import quadratic

    runs = run_dataset(quadratic.sweep(), quadratic.STEPS)
    fitting = Fitting(sizes=Sizes(members=3), dynamics=800, corrections=150)
    return runs, *fit_artifact(runs, fitting, {"task": quadratic.SPEC.task, "child_steps": 60 * quadratic.STEPS})


@pytest.fixture(scope="session")
def quadratic_path(quadratic_made, tmp_path_factory):
    """The model's file."""
    file = tmp_path_factory.mktemp("models") / "quadratic.safetensors"
    quadratic_made[1].save(file)
    return file

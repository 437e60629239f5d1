"""Policy files: what is damaged is refused in one line that blames the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from lr_env.env.observations import FEATURES
from lr_env.errors import UserError
from lr_env.files import OPEN_SEAL, write_sealed
from planners import PPO
from planners.ppo.policy import Policy

WIDTH = len(FEATURES)


@pytest.fixture
def path(tmp_path):
    random = np.random.default_rng(0)
    layers = tuple((random.normal(size=(b, a)), random.normal(size=b)) for a, b in ((WIDTH, 5), (5, 1)))
    policy = Policy(np.zeros(WIDTH), np.ones(WIDTH), layers, "scale", 1.05, {"child_steps": 7})
    policy.save(tmp_path / "policy.safetensors")
    return tmp_path / "policy.safetensors"


def change(path, tensors=None, **header):
    with safe_open(path, framework="np") as file:
        full_header = json.loads(file.metadata()["policy"]) | header
        arrays = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
    arrays = {name: array for name, array in arrays.items() if array is not None}
    write_sealed(path, save(arrays, {"policy": json.dumps(full_header), "seal": OPEN_SEAL}))


@pytest.mark.parametrize(
    "tensors",
    [
        {"variance": np.ones(5, np.float32)},
        {"variance": np.ones(1, np.float32)},
        {"variance": -np.ones(WIDTH, np.float32)},
        {"variance": np.ones(WIDTH, np.int32)},
        {"variance": None},
        {"mean": np.zeros(1, np.float32)},
        {"mean": np.full(WIDTH, np.inf, np.float32)},
        {"weight.1": np.full((1, 5), np.nan, np.float32)},
        {"weight.1": np.zeros((1, 4), np.float32)},
        {"weight.1": np.array(0, np.float32)},
        {"bias.1": np.zeros((1, 3), np.float32)},
        {"bias.0": np.zeros(1, np.float32)},
        {"weight.0": None, "weight.1": None},
    ],
    ids=lambda tensors: ", ".join(f"{name} {None if a is None else (a.shape, a.max())}" for name, a in tensors.items()),
)
def test_damaged_tensors(path, tensors):
    change(path, tensors)
    refused(path)


@pytest.mark.parametrize(
    "header",
    [
        *({"max_change": value} for value in (-1, 0, 1, 1e9, float("nan"), float("inf"), "1.05", None, True)),
        *({"about": value} for value in ([1], None, "none")),
        *({"about": {"child_steps": value}} for value in ("abc", -5, 1.5, None, True)),
        {"action": "lr"},
        {"action": ["scale"]},
    ],
    ids=str,
)
def test_damaged_headers(path, header):
    change(path, **header)
    refused(path)


def refused(path):
    with pytest.raises(UserError, match=r"^policy .*policy.safetensors.* cannot be read .*damaged, train it anew$"):
        Policy.load(path)


def test_what_is_whole_is_read(path):
    change(path, max_change=10, about={})
    assert PPO(0.1, policy=str(path)).pretraining_steps == 0
    assert Policy.load(path).max_change == 10.0


@pytest.mark.parametrize("name", [5, None, ["DigitsMLP"]])
def test_a_policy_is_named_by_text(name):
    with pytest.raises(UserError, match="give the name of a policy that is shipped"):
        assert PPO(0.1, policy=name).trained

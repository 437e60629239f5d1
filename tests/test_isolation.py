"""What callers set in torch and numpy does not count, and stays as they set it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lr_env import TASKS, Children, LREnv, LRVectorEnv, Numerics
from lr_env.children import Execution, fastest, tracing
from lr_env.children.flatness import flatness
from lr_env.isolation import _flushes, _set_for_now, flushing_denormals, isolated
from lr_env.tasks import data
from planners.latent_ode.planner import LatentODE
from planners.ppo.planner import PPO
from planners.weights import _loaded

RATE = 0.05


class Zeros(TorchFunctionMode):
    """Makes zeros of what torch's functions give."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return torch.zeros_like(result) if isinstance(result, torch.Tensor) else result


def default_device(name: str) -> AbstractContextManager[None]:
    return _set_for_now(lambda: None, torch.set_default_device, name)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: _set_for_now(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "bfloat16": lambda: _set_for_now(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default_device": lambda: default_device("meta"),
    "device_context": lambda: torch.device("meta"),
    "function_mode": Zeros,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "saved_tensors": lambda: torch.autograd.graph.saved_tensors_hooks(torch.zeros_like, lambda tensor: tensor),
    "matmul_precision": lambda: _set_for_now(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "mkldnn": lambda: _set_for_now(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False),
    "attention": lambda: sdpa_kernel([SDPBackend.MATH]),
    "deterministic": lambda: _set_for_now(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "flush_denormal": lambda: flushing_denormals(True),
    "numpy": lambda: np.errstate(all="raise"),
}


def caller_state() -> list[Any]:
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch._C._len_torch_function_stack(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch._C._get_mkldnn_enabled(),
        torch._C._get_flash_sdp_enabled(),
        _flushes(),
        np.geterr(),
    ]


def numbers(backend: str) -> list[Any]:
    """What a run, a neighbour that diverges, and everything that children can be asked for come to."""
    data.forget()  # so that data are read, and graphs traced, under the caller's settings too
    tracing._graphs.clear()
    env = LREnv(budget=30, segment=10, backend=backend)
    infos_seen = [env.reset(seed=0)[1]]
    infos_seen += [env.step(RATE)[4] for _ in range(2)]
    saved = env.snapshot()
    infos_seen.append(env.step(RATE)[4])
    env.restore(saved)
    assert env.step(RATE)[4] == infos_seen[-1]
    many = LRVectorEnv(budget=20, segment=10, num_envs=3, backend=backend, autoreset_mode="SameStep")
    many.reset(seed=0)
    for _ in range(3):
        *_, infos = many.step([RATE, 9.0, RATE])
    infos_seen.append({name: infos[name].tolist() for name in ("val_loss", "train_loss", "_diverged", "seed")})
    children = Children(
        TASKS["DigitsMLP"],
        [0, 1],
        fastest(Execution(backend=backend, numerics=Numerics("bf16")), TASKS["DigitsMLP"], 2),
    )
    infos_seen += [children.train([RATE, RATE]).tolist() for _ in range(3)]
    infos_seen += [values.tolist() for values in children.evaluate("val")]
    infos_seen += [values.tolist() for values in flatness(children, examples=64, iterations=3, probes=2).values()]
    return infos_seen


@pytest.fixture(scope="module", params=["loop", "stacked"])
def expected(request):
    return request.param, numbers(request.param)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_numbers_and_the_callers_settings_untouched(name, expected):
    backend, truth = expected
    with SETTINGS[name]():
        before = caller_state()
        values = numbers(backend)
        assert caller_state() == before
    assert values == truth


def test_an_environment_that_was_made_without_gradients_trains_with_and_without():
    with torch.inference_mode():
        env = LREnv(budget=20, segment=10)
        env.reset(seed=0)
        inside = env.step(RATE)[4]
    outside = env.step(RATE)[4]
    calm = LREnv(budget=20, segment=10)
    calm.reset(seed=0)
    assert [calm.step(RATE)[4], calm.step(RATE)[4]] == [inside, outside]


@pytest.mark.parametrize("name", ["inference_mode", "float64", "default_device", "autocast", "numpy"])
def test_planners_with_models_of_torch_plan_as_ever(name):
    _loaded.cache_clear()
    spec = LREnv().run_spec
    first = {"step": [0.0], "lr": [0.01], "train_loss": [2.3], "val_loss": [2.3], "val_accuracy": [0.1]}
    signals = {name: np.array(values) for name, values in first.items()}

    def answers() -> list[float]:
        rates = []
        for planner in (LatentODE(model="DigitsMLP"), PPO(policy="DigitsMLP", peak=0.01)):
            state = planner.start(spec, [0])
            needed = dict.fromkeys(planner.needs, np.array([0.5])) | signals
            rates.append(float(planner.plan(state, needed)[0][0]))
        return rates

    truth = answers()
    _loaded.cache_clear()  # models are read under the caller's settings, too
    with SETTINGS[name]():
        assert answers() == truth
    assert answers() == truth


def test_an_error_inside_leaves_the_callers_settings():
    env = LREnv(budget=20, segment=10)
    with torch.inference_mode(), torch.device("meta"):
        before = caller_state()
        with pytest.raises(ValueError, match="call reset"):
            env.step(RATE)
        with pytest.raises(ZeroDivisionError), isolated():
            1 / 0  # noqa: B018
        assert caller_state() == before

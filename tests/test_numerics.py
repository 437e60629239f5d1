"""Precision, process-wide switches, and the order of kernels in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from lr_env.children import Backend, Children, Execution
from lr_env.children.numerics import Numerics, tf32
from lr_env.children.tracing import trace
from lr_env.errors import UserError
from lr_env.tasks import CNN, GPT, TASKS, Network, ResNet
from lr_env.tasks.sources import SOURCES, DataSource

LOOP, STACK = Backend("loop"), Backend("stacked", 3)


def _text() -> DataSource:
    tokens = np.cumsum(np.random.RandomState(0).randint(0, 3, 110 * 6 + 1)) % 7
    pair = tokens[:-1].reshape(110, 6).astype(np.uint8), tokens[1:].reshape(110, 6).astype(np.int64)
    sizes = {"train": 60, "val": 30, "test": 20}
    return DataSource("test-numerics", sizes, (6,), 7, lambda: {("train", "val", "test"): pair}, tokens=True)


SOURCES["test-numerics"] = _text()
DIGITS = replace(TASKS["DigitsMLP"], budget=40, segment=5)
TEXT = replace(DIGITS, data="test-numerics", network=GPT(8, 1, 2), batch_size=6, val_subset=12, target_val_loss=None)


@dataclass(frozen=True)
class _OfImages:
    network: Network

    def build(self, input_shape, num_classes):
        return torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8, 8)), self.network.build((1, 8, 8), num_classes))


CONVOLUTIONS = replace(DIGITS, network=_OfImages(CNN(2, 8, 0.0)))
BATCH_NORM = replace(DIGITS, network=_OfImages(ResNet((1, 1), 4)))


@pytest.mark.parametrize(
    ("task", "rate"), [(DIGITS, 0.05), (TEXT, 0.05), (BATCH_NORM, 0.01)], ids=["digits", "text", "batch-norm"]
)
def test_bf16_trains_nearly_alike_and_leaves_nothing_set(task, rate):
    runs = {}
    for precision in ("float32", "bf16"):
        for backend in (LOOP, STACK):
            children = Children(task, [0, 1, 2], execution=Execution(backend=backend, numerics=Numerics(precision)))
            runs[precision, backend.name] = np.array([children.train([rate] * 3) for _ in range(8)])
            assert not torch.is_autocast_enabled("cpu")
    np.testing.assert_allclose(runs["bf16", "loop"], runs["float32", "loop"], rtol=0.05)
    # The same roundings on both, but for the order of sums, which can tip one now and then.
    np.testing.assert_allclose(
        runs["bf16", "stacked"], runs["bf16", "loop"], rtol=0.02
    )  # 0.012 on a CPU that emulates bf16
    np.testing.assert_allclose(runs["bf16", "stacked"][0], runs["bf16", "loop"][0], rtol=0.002)
    assert not np.array_equal(runs["bf16", "loop"], runs["float32", "loop"])


def _switches() -> dict[str, object]:
    def read(ask):
        try:
            return ask()
        except RuntimeError:  # the older switches cannot be read where the newer ones disagree
            return None

    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "older": (read(lambda: products.allow_tf32), read(lambda: convolutions.allow_tf32)),
        "precision": read(torch.get_float32_matmul_precision),
        "newer": (products.fp32_precision, convolutions.conv.fp32_precision, convolutions.rnn.fp32_precision),
        "mkldnn": torch.backends.mkldnn.matmul.fp32_precision,
    }


def _set(name: str) -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    if name == "older":
        products.allow_tf32, convolutions.allow_tf32 = True, False
    elif name == "medium":
        torch.set_float32_matmul_precision("medium")
    elif name == "newer":
        products.fp32_precision, convolutions.conv.fp32_precision = "tf32", "ieee"


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("how", ["untouched", "older", "medium", "newer"])
def test_tf32_is_what_is_asked_for_and_afterwards_what_it_was(how, allowed):
    with tf32(False):  # puts back, at the end, what this test sets
        _set(how)
        before = _switches()
        with tf32(allowed):
            inside = _switches()
            assert inside["older"] == (allowed, allowed)
            assert (inside["newer"][0] == "tf32", inside["newer"][1] == "tf32") == (allowed, allowed)
        after = _switches()
        assert (after["newer"], after["mkldnn"]) == (before["newer"], before["mkldnn"])
        if before["precision"] is not None:
            assert after == before


def test_the_order_of_kernels_in_memory_is_not_what_they_are():
    task = replace(CONVOLUTIONS, budget=10)
    runs = []
    for order in (True, False):
        children = Children(
            task,
            [0, 1],
            dtype=torch.float64,
            execution=Execution(backend=STACK, numerics=Numerics(channels_last=order)),
        )
        assert children.state.layout.channels_last is order
        children.train([0.05, 0.01])
        runs.append(children.state.child(1))
    for name, tensor in runs[0].items():
        torch.testing.assert_close(tensor, runs[1][name], rtol=1e-9, atol=1e-10)
    assert runs[0]["1.0.weight"].stride() != runs[1]["1.0.weight"].stride()


def _turned(order, x):
    return x.permute(order) * 2


def test_only_permutations_that_change_nothing_are_left_out():
    x = torch.arange(6.0).view(2, 3)
    for order in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        graph = trace(partial(_turned, order), x)
        assert torch.equal(graph(x), x.permute(order) * 2)


def test_deterministic_on_cuda_needs_a_workspace_that_torch_accepts(monkeypatch):
    for value, wrong in ((":4096:8", False), (":16:8", False), ("1", True), (None, True)):
        if value is None:
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        else:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        if wrong:
            with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
                Numerics(deterministic=True).check(torch.device("cuda"))
        else:
            Numerics(deterministic=True).check(torch.device("cuda"))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_batch_norm_on_cuda_in_every_precision_and_order(precision, channels_last):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    numerics = Numerics(precision, channels_last=channels_last)
    runs = []
    for backend in (LOOP, STACK, Backend("stacked", 1)):
        children = Children(
            BATCH_NORM, [0, 1, 2], execution=Execution(device="cuda", backend=backend, numerics=numerics)
        )
        trained = [children.train([0.01] * 3) for _ in range(4)]
        runs.append((trained, children.measure()["val_loss"]))
    for trained, measured in runs[1:]:
        np.testing.assert_allclose(trained, runs[0][0], rtol=0.03)
        np.testing.assert_allclose(measured, runs[0][1], rtol=0.05)


def test_deterministic_on_cuda_gives_the_same_bits(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    runs = []
    for _ in range(2):
        children = Children(
            TEXT,
            range(9),
            execution=Execution(device="cuda", backend=Backend("stacked", 2), numerics=Numerics(deterministic=True)),
        )
        runs.append([children.train([0.05] * 9) for _ in range(4)])
    np.testing.assert_array_equal(runs[0], runs[1])


def test_many_blocks_on_cuda_after_others_have_gone(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    truth = Children(TEXT, range(40), execution=Execution(device="cuda", backend=LOOP))
    for _ in range(2):  # the graphs of the first are gone when those of the second are replayed
        children = Children(TEXT, range(40), execution=Execution(device="cuda", backend=Backend("stacked", 2)))
        for _ in range(4):
            losses = children.train([0.02] * 40)
    for _ in range(4):
        expected = truth.train([0.02] * 40)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)

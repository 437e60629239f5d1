"""Flatness against Hessians that are known: written down, or computed whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from lr_env.children import Backend, Children, Execution
from lr_env.children import flatness as module
from lr_env.children.flatness import flatness, largest_eigenvalue, trace
from lr_env.children.memory import activations_per_example
from lr_env.env import LREnv, LRVectorEnv
from lr_env.errors import UserError
from lr_env.optimizers import SGD
from lr_env.tasks import CNN, GPT, MLP, ResNet, Task
from lr_env.tasks.sources import SOURCES, DataSource

LOOP = Backend("loop")
STACK = Backend("stacked", 2)  # of three children: blocks of two and of one
SURE = {"examples": 16, "iterations": 500, "tolerance": 1e-6}


def source(inputs: np.ndarray, labels: np.ndarray, classes: int, **settings) -> DataSource:
    sizes = {"train": 40, "val": 20, "test": 20}
    parts = {("train", "val", "test"): (inputs, labels)}
    return DataSource("made up", sizes, inputs.shape[1:], classes, lambda: parts, **settings)


random = np.random.RandomState(0)
pixels = random.randint(0, 256, (80, 1, 4, 4)).astype(np.uint8)
tokens = np.cumsum(random.randint(0, 3, 80 * 5 + 1)) % 6
SOURCES["test-flat-images"] = source(pixels, random.randint(0, 3, 80), 3, scale=255, mean=(0.5,), std=(0.3,))
SOURCES["test-flat-text"] = source(
    tokens[:-1].reshape(80, 5).astype(np.uint8), tokens[1:].reshape(80, 5).astype(np.int64), 6, tokens=True
)
BASE = Task("flat", "test-flat-images", MLP((5,)), SGD(), 8, 40, 10, 12, 0.01, (1e-10, 10.0), (0.003, 0.3))
TASKS_OF = {
    "mlp": BASE,
    "cnn-dropout": replace(BASE, network=CNN(2, 5, dropout=0.3)),
    "resnet": replace(BASE, network=ResNet((1, 1), 2)),
    "gpt-dropout": replace(BASE, data="test-flat-text", network=GPT(4, 1, 2, dropout=0.2)),
}


def trained(task: Task, backend: Backend, seeds=(3, 1, 4)) -> Children:
    children = Children(task, seeds, dtype=torch.float64, execution=Execution(backend=backend))
    for _ in range(3):
        children.train([0.1] * len(seeds))
    return children


def whole_hessian(children: Children, row: int, examples: int) -> torch.Tensor:
    """The Hessian, entry by entry, of the loss as plain torch has it."""
    source, train = children.task.source, children.data.splits["train"]
    with torch.random.fork_rng():
        network = children.task.network.build(source.input_shape, source.num_classes).double().eval()
    state = children.state.child(row)
    shapes = children.state.layout.shapes
    fixed = {name: value for name, value in state.items() if name not in shapes and not name.endswith("noise_key")}
    labels = train.labels[:examples].reshape(-1)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        logits = functional_call(network, {**weights, **fixed}, (train.inputs[:examples],))
        return F.cross_entropy(logits.reshape(len(labels), -1), labels)

    flat = torch.cat([state[name].reshape(-1) for name in shapes])
    with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        return torch.autograd.functional.hessian(loss, flat, vectorize=True)


def random_matrices(seed: int, rows: int = 3, size: int = 12) -> torch.Tensor:
    drawn = torch.randn(rows, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn + drawn.mT


def product_with(matrices: torch.Tensor):
    return lambda vectors: (matrices @ vectors[..., None])[..., 0]


@pytest.mark.parametrize("backend", [LOOP, STACK], ids=str)
def test_softmax_regression_has_the_hessian_of_the_books(backend, device):
    """H = mean over examples of (diag(p) - p p') kron x x', with a 1 put after the inputs for the bias."""
    children = Children(
        replace(BASE, network=MLP(())),
        [0, 1, 2],
        dtype=torch.float64,
        execution=Execution(device=device, backend=backend),
    )
    children.train([0.1] * 3)
    measured = flatness(children, probes=64, **SURE)
    train = children.data.splits["train"]
    inputs = torch.cat([train.inputs[:16].flatten(1), torch.ones_like(train.inputs[:16, 0, 0, :1])], 1).cpu()
    for row in range(3):
        weight, bias = (children.state.child(row)[f"1.{name}"].cpu() for name in ("weight", "bias"))
        p = torch.softmax(inputs @ torch.cat([weight, bias[:, None]], 1).T, 1)
        hessian = torch.zeros(51, 51, dtype=torch.float64)
        for x, q in zip(inputs, p, strict=True):
            hessian += torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(x, x)) / 16
        assert measured["hessian_max"][row] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-5)
        off = abs(measured["hessian_trace"][row] - hessian.trace().item())
        assert off < 4 * measured["hessian_trace_error"][row]


@pytest.mark.parametrize("name", TASKS_OF)
def test_the_whole_hessian_says_the_same(name, monkeypatch):
    loop, stack = (trained(TASKS_OF[name], backend) for backend in (LOOP, STACK))
    measured = flatness(loop, [0, 1], probes=100, **SURE)
    for row in range(2):
        hessian = whole_hessian(loop, row, 16)
        assert measured["hessian_max"][row] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-3)
        off = abs(measured["hessian_trace"][row] - hessian.trace().item())
        assert off < 4 * measured["hessian_trace_error"][row]
        spread = np.sqrt(2 * (hessian.square().sum() - hessian.diagonal().square().sum()).item() / 100)
        assert measured["hessian_trace_error"][row] == pytest.approx(spread, rel=0.4)
    # In blocks, in batches of what fits, and some of the children only: the same numbers.
    quick = {"examples": 16, "iterations": 9, "probes": 4}
    stacked = flatness(stack, **quick)
    room = 7 * activations_per_example(loop.engine.modules[0], loop.task.source)
    monkeypatch.setitem(module._ELEMENTS, "cpu", room)
    assert [len(labels) for _, labels in module._portions(loop, 16)[1]] == [5, 5, 6]
    for backend, rows in ((loop, [0, 2]), (stack, [1, 2])):
        part = flatness(backend, rows, **quick)
        for score, values in part.items():
            np.testing.assert_allclose(values, stacked[score][rows], rtol=1e-6, err_msg=f"{backend.backend} {score}")


def test_the_most_positive_eigenvalue_is_reported_whatever_the_largest_magnitude():
    matrices = random_matrices(0)
    exact = torch.linalg.eigvalsh(matrices)
    matrices = torch.cat(
        [
            matrices,
            torch.diag_embed(torch.linspace(-5.0, 2.0, 12, dtype=torch.float64))[None],  # a negative one dominates
            torch.diag_embed(torch.linspace(-5.0, -0.5, 12, dtype=torch.float64))[None],  # there are no others
            torch.zeros(1, 12, 12, dtype=torch.float64),
        ]
    )
    exact = [*exact[:, -1].tolist(), 2.0, -0.5, 0.0]
    assert min(torch.linalg.eigvalsh(matrices)[:, 0].tolist()) < -4
    start = torch.ones(6, 12, dtype=torch.float64)
    start[:, ::3] = -1
    largest = largest_eigenvalue(product_with(matrices), start, 3000, 1e-9)
    np.testing.assert_allclose(largest, exact, rtol=1e-5, atol=1e-12)
    for row in range(6):
        alone = largest_eigenvalue(product_with(matrices[row : row + 1]), start[row : row + 1], 3000, 1e-9)
        assert alone.item() == pytest.approx(largest[row].item(), rel=1e-12)
    short = largest_eigenvalue(product_with(matrices), start, 4, 1e-9)  # too few: from below
    assert (short <= torch.tensor(exact) + 1e-12).all()


def test_an_iteration_stops_when_it_has_converged_and_not_before_its_neighbours():
    calls = []
    matrices = torch.diag_embed(torch.tensor([[1.0, 0.1], [1.0, 0.9]]))

    def product(vectors):
        calls.append(vectors)
        return product_with(matrices)(vectors)

    largest = largest_eigenvalue(product, torch.ones(2, 2), 100, 1e-3)
    np.testing.assert_allclose(largest, [1, 1], rtol=0.01)
    assert 10 < len(calls) < 40
    calls.clear()
    largest_eigenvalue(product, torch.ones(2, 2), 7, 1e-9)
    assert len(calls) == 7


def test_the_trace_of_a_diagonal_is_exact_and_of_others_unbiased():
    def probes(count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            yield torch.randint(0, 2, (3, 12), generator=generator, dtype=torch.float64) * 2 - 1

    matrices = random_matrices(1)
    diagonal = torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
    value, error = trace(product_with(diagonal), probes(5, 0))
    np.testing.assert_allclose(value, diagonal.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(error, 0, atol=1e-12)
    value, error = trace(product_with(matrices), probes(20_000, 1))
    assert ((value - matrices.diagonal(dim1=1, dim2=2).sum(1)).abs() < 4 * error).all()


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_a_child_does_not_depend_on_its_neighbours_and_is_left_as_it_was(name):
    settings = {"examples": 24, "probes": 8}
    alone = flatness(trained(TASKS_OF[name], LOOP, seeds=(4,)), **settings)
    among = trained(TASKS_OF[name], STACK, seeds=(9, 4, 7, 4))
    before = among.snapshot()["tensors"]
    measured = flatness(among, **settings)
    for score, values in measured.items():
        np.testing.assert_allclose(values[[1, 3]], alone[score][[0, 0]], rtol=1e-6)
        assert len(set(values.round(9))) == 3
    for key, tensor in among.snapshot()["tensors"].items():
        assert torch.equal(before[key], tensor), key
    assert among.engine.template.training


@pytest.mark.parametrize("backend", [LOOP, STACK, Backend("loop", workers=2)], ids=str)
def test_parameters_that_are_not_finite_give_nan_and_harm_nobody(backend):
    children = trained(BASE, backend)
    whole = flatness(children, probes=4)
    children.state.parameters[1, 7] = torch.inf
    broken = flatness(children, probes=4)
    for score, values in broken.items():
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])
        np.testing.assert_allclose(values[[0, 2]], whole[score][[0, 2]], rtol=1e-9)
    assert np.isnan(flatness(children, [1])["hessian_max"]).tolist() == [True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rows": [3]}, "rows from 0 to 2"),
        ({"examples": 0}, "examples is 0"),
        ({"iterations": 1.5}, "whole number"),
        ({"probes": 1}, "at least 2"),
        ({"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        flatness(Children(BASE, [0, 1, 2], execution=Execution(backend=LOOP)), **settings)


def test_runs_are_measured_as_they_end_but_for_those_that_diverged():
    env = LRVectorEnv(BASE, 2, autoreset_mode="Disabled", score=("test", "flatness"), backend=LOOP, budget=20)
    env.reset(seed=[5, 6])
    *_, first = env.step(np.array([0.1, 10.0]))
    assert first["diverged"].tolist() == first["_hessian_max"].tolist() == [False, True]
    assert np.isnan(first["hessian_max"][1])
    assert first["test_loss"][1] > 0
    *_, infos = env.step(np.array([0.1, 10.0]))
    assert infos["_hessian_max"].tolist() == [True, False]
    children = env.episodes.children
    assert infos["hessian_max"][0] == flatness(children, [0])["hessian_max"][0] > 0
    assert infos["hessian_trace"][0] == flatness(children, [0])["hessian_trace"][0]
    with pytest.raises(UserError, match="cannot score 'flat'"):
        LREnv(BASE, score=("flat",))

from __future__ import annotations

import os
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lr_env.children import Backend, Children, Execution
from lr_env.children.initial import build_seeded
from lr_env.errors import UserError
from lr_env.optimizers import SGD, Adam, AdamW
from lr_env.tasks import MLP, TASKS, LeNet5
from lr_env.tasks.data import load

TASK = TASKS["DigitsMLP"]
LOOP, POOL = Backend("loop"), Backend("loop", workers=2)
OPTIMIZERS = [
    SGD(momentum=0.0),
    SGD(momentum=0.9),
    SGD(momentum=0.9, weight_decay=0.01),
    SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    Adam(),
    Adam(betas=(0.8, 0.95), weight_decay=0.01),
    AdamW(weight_decay=0.05),
]


def rates(children: int, segment: int, step: int) -> np.ndarray:
    """A rate that differs from child to child and from step to step."""
    start = np.geomspace(0.003, 0.03, children)[:, None]
    return start * (1 + 0.5 * np.sin(0.1 * (step + np.arange(segment))))


def train(children: Children, steps: int, scale: float = 1.0) -> np.ndarray:
    segment = children.task.segment
    return np.array([children.train(scale * rates(len(children), segment, s)) for s in range(0, steps, segment)])


def plain_torch(task, seed: int, steps: int, lr: np.ndarray) -> nn.Module:
    """What a user would write: the truth for one child."""
    source = task.source
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, torch.float64)
    children = Children(
        task, [seed], dtype=torch.float64, execution=Execution(backend=LOOP)
    )  # for its data and order only
    inputs, labels = children.data.splits["train"].inputs, children.data.splits["train"].labels
    batches = children.order.batches(np.array([0]), steps)[0]
    optimizer = task.optimizer.build(module.parameters())
    for batch, rate in zip(batches, lr, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        F.cross_entropy(module(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_stacked_equals_loop_equals_plain_torch_in_float64(optimizer):
    task = replace(TASK, optimizer=optimizer, network=MLP((8,)), segment=20)
    scale = 0.1 if isinstance(optimizer, Adam) else 1.0
    runs = {
        backend: Children(task, [3, 1, 4, 1, 5], dtype=torch.float64, execution=Execution(backend=backend))
        for backend in (LOOP, POOL, Backend("stacked", 5), Backend("stacked", 2))
    }
    losses = {backend: train(children, 200, scale) for backend, children in runs.items()}
    truth = runs[LOOP].state.parameters
    for backend, children in runs.items():
        torch.testing.assert_close(children.state.parameters, truth, rtol=1e-9, atol=1e-9, msg=str(backend))
        np.testing.assert_allclose(losses[backend], losses[LOOP], rtol=1e-9, atol=1e-9)
    lr = np.concatenate([scale * rates(5, 20, step)[0] for step in range(0, 200, 20)])
    module = plain_torch(task, 3, 200, lr)
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    torch.testing.assert_close(truth[0], flat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", [LOOP, Backend("stacked", 2)], ids=str)
def test_labels_are_wrong_in_a_burst_and_only_then(backend):
    """Against a plain loop that has the labels of a noisier data set for these steps."""
    task = replace(TASK, budget=40, segment=10, label_burst=(0.25, 0.6, 0.5))
    children = Children(task, [3, 4], dtype=torch.float64, execution=Execution(backend=backend))
    lr = np.full((2, 40), 0.02)
    children.train(lr[:, :10])
    snapshot = children.snapshot()
    losses = [children.train(lr[:, :10]) for _ in range(3)]

    split = load(task.data, dtype=torch.float64).splits["train"]
    wrong = load(task.data, dtype=torch.float64, label_noise=0.5).splits["train"].labels
    assert 0.45 < (wrong != split.labels).double().mean() < 0.55
    source = task.source
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 3, torch.float64)
    optimizer = task.optimizer.build(module.parameters())
    optimizer.param_groups[0]["lr"] = 0.02
    for step, batch in enumerate(children.order.batches(np.zeros(2, dtype=np.int64), 40)[0]):
        labels = (wrong if 10 <= step < 24 else split.labels)[batch]
        optimizer.zero_grad()
        F.cross_entropy(module(split.inputs[batch]), labels).backward()
        optimizer.step()
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    torch.testing.assert_close(children.state.parameters[0], flat, rtol=1e-9, atol=1e-9)

    children.restore(snapshot)
    again = [children.train(lr[:, :10]) for _ in range(3)]
    np.testing.assert_array_equal(again, losses)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=str)
def test_stacked_equals_loop_in_float32(optimizer, device):
    # Rounding differences grow by chaos; after 200 steps they stay below 1 % of the distance trained.
    task = replace(TASK, optimizer=optimizer)
    runs = [
        Children(task, [0, 1, 2], execution=Execution(device=device, backend=backend))
        for backend in (LOOP, Backend("stacked", 3))
    ]
    start = runs[0].state.parameters.clone()
    for children in runs:
        train(children, 200, 0.1 if isinstance(optimizer, Adam) else 1.0)
    distance = (runs[0].state.parameters - start).norm()
    assert (runs[0].state.parameters - runs[1].state.parameters).norm() < 0.01 * distance


def test_convolutions_stack():
    small = Children(replace(TASK, network=_Conv()), [0, 1], dtype=torch.float64, execution=Execution(backend=LOOP))
    stack = Children(
        replace(TASK, network=_Conv()), [0, 1], dtype=torch.float64, execution=Execution(backend=Backend("stacked", 2))
    )
    for children in (small, stack):
        train(children, 50)
    torch.testing.assert_close(small.state.parameters, stack.state.parameters, rtol=1e-9, atol=1e-9)


def test_a_run_does_not_depend_on_position_or_neighbours():
    alone = Children(TASK, [7], dtype=torch.float64, execution=Execution(backend=Backend("stacked", 1)))
    among = Children(TASK, [5, 6, 7, 8, 9], dtype=torch.float64, execution=Execution(backend=Backend("stacked", 3)))
    among.state.parameters[3, 0] = float("nan")  # a neighbour that has exploded
    lr = np.full(5, 0.02)
    lr[4] = 9.0  # and one that is about to
    for _ in range(20):
        alone.train([0.02])
        among.train(lr)
    assert torch.isnan(among.state.parameters[3]).all()
    torch.testing.assert_close(alone.state.parameters[0], among.state.parameters[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", [LOOP, POOL, Backend("stacked", 3)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=str)
def test_snapshot_restore_gives_the_same_bytes(backend, optimizer, device):
    children = Children(
        replace(TASK, optimizer=optimizer), [0, 1, 2], execution=Execution(device=device, backend=backend)
    )
    for _ in range(8):  # past the end of an epoch
        children.train([0.001, 0.01, 0.1])
    snapshot = children.snapshot()
    first = [children.train([0.01] * 3), children.measure()], children.state.get([0, 1, 2])
    children.reset([1], [99])
    children.restore(snapshot)
    again = [children.train([0.01] * 3), children.measure()], children.state.get([0, 1, 2])
    assert repr(first[0]) == repr(again[0])
    for name, tensor in first[1].items():
        assert torch.equal(tensor, again[1][name]), name


@pytest.mark.parametrize("backend", [LOOP, Backend("stacked", 4)], ids=str)
def test_fork_copies_the_child_and_keeps_its_own_data_order(backend):
    children = Children(
        replace(TASK, optimizer=AdamW()), [0, 1, 2, 3], dtype=torch.float64, execution=Execution(backend=backend)
    )
    for _ in range(3):
        children.train(np.full(4, 0.01))
    children.fork([0, 0], [1, 2])
    children.fork([0], [3], same_batches=True)
    assert children.steps.tolist() == [30] * 4
    for row in (1, 2, 3):
        assert torch.equal(children.state.parameters[0], children.state.parameters[row])
    batches = children.order.batches(children.steps, 5)
    assert (batches[0] == batches[3]).all()
    # Their own: those of a child of the same seed at the same step.
    expected = Children(TASK, [1, 2], execution=Execution(backend=LOOP)).order.batches(np.array([30, 30]), 5)
    assert (batches[1:3] == expected).all()
    children.train(np.full(4, 0.01))
    torch.testing.assert_close(children.state.parameters[0], children.state.parameters[3], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(children.state.parameters[0], children.state.parameters[1])
    with pytest.raises(UserError, match="none that is a source"):
        children.fork([0], [0])


@pytest.mark.parametrize("backend", [LOOP, Backend("stacked", 2), Backend("stacked", 4)], ids=str)
def test_children_that_are_not_trained_stay_as_they_are(backend):
    children = Children(TASK, [0, 1, 2, 3], execution=Execution(backend=backend))
    children.train(np.full(4, 0.05))
    before = children.snapshot()
    losses = children.train(np.full(4, 0.05), rows=[0, 2])
    after = children.snapshot()
    assert np.isnan(losses[[1, 3]]).all()
    assert np.isfinite(losses[[0, 2]]).all()
    assert after["steps"].tolist() == [20, 10, 20, 10]
    for name, tensor in before["tensors"].items():
        assert torch.equal(tensor[[1, 3]], after["tensors"][name][[1, 3]]), name
        if name != "logits":
            assert not torch.equal(tensor[[0, 2]], after["tensors"][name][[0, 2]])


def test_reset_of_one_child_equals_a_new_child():
    children = Children(TASK, [0, 1], dtype=torch.float64, execution=Execution(backend=Backend("stacked", 2)))
    children.train([0.1, 0.1])
    children.reset([1], [42])
    new = Children(TASK, [42], dtype=torch.float64, execution=Execution(backend=LOOP))
    for _ in range(10):
        children.train([0.1, 0.02])
        new.train([0.02])
    assert children.steps.tolist() == [110, 100]
    torch.testing.assert_close(children.state.parameters[1], new.state.parameters[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", [MLP((5, 4)), LeNet5()], ids=str)
def test_initial_weights_are_those_of_manual_seed_without_touching_it(network):
    shape = (1, 28, 28)
    before = torch.random.get_rng_state()
    mine = build_seeded(lambda: network.build(shape, 10), 123, torch.float32)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(123)
    truth = network.build(shape, 10)
    torch.random.set_rng_state(before)
    for name, parameter in truth.named_parameters():
        assert torch.equal(parameter, mine.get_parameter(name)), name


def test_every_epoch_sees_every_example_at_most_once_and_each_in_its_own_order():
    order = Children(TASK, [0, 1], execution=Execution(backend=LOOP)).order
    epoch = order.batches_per_epoch
    assert epoch == 997 // 16
    first = order.batches(np.array([0, 0]), 2 * epoch)
    for child in (0, 1):
        for part in (first[child, :epoch], first[child, epoch:]):
            assert len(np.unique(part)) == part.size
    assert not (first[0, :epoch] == first[0, epoch:]).all()
    assert not (first[0] == first[1]).all()
    # Asked for in pieces, or from the middle, the batches are the same.
    assert (order.batches(np.array([55, 17]), 20)[0] == first[0, 55:75]).all()
    assert (order.batches(np.array([55, 17]), 20)[1] == first[1, 17:37]).all()


def test_measure_and_evaluate_say_what_torch_says():
    children = Children(TASK, [0, 1], dtype=torch.float64, execution=Execution(backend=Backend("stacked", 2)))
    before = children.measure()
    assert (before["prediction_change"] == 0).all()
    old = [logits(children, row)[: TASK.val_subset] for row in (0, 1)]
    children.train([0.05, 0.1])
    measured = children.measure()
    for row in (0, 1):
        full = logits(children, row)
        val = children.data.splits["val"]
        part = full[: TASK.val_subset]
        expected = {
            "val_loss": F.cross_entropy(part, val.labels[: TASK.val_subset]),
            "val_accuracy": (part.argmax(1) == val.labels[: TASK.val_subset]).double().mean(),
            "prediction_variance": part.var(correction=0),
            "prediction_change": (part - old[row]).var(correction=0),
            "output_weight_mean": module(children, row)[-1].weight.mean(),
            "output_weight_variance": module(children, row)[-1].weight.var(correction=0),
        }
        for name, value in expected.items():
            assert measured[name][row] == pytest.approx(float(value), rel=1e-9), name
        loss, accuracy = children.evaluate("val")
        assert loss[row] == pytest.approx(float(F.cross_entropy(full, val.labels)), rel=1e-9)
        assert accuracy[row] == pytest.approx(float((full.argmax(1) == val.labels).double().mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Children(TASK, []), "at least one"),
        (lambda: Children(TASK, [-1]), "whole numbers"),
        (lambda: Children(TASK, [0.5]), "whole numbers"),  # pyright: ignore
        (
            lambda: Children(TASK, [0], execution=Execution(device="tpu9", backend="loop")),
            "unknown device|not supported",
        ),
        (lambda: Children(TASK, [0], execution=Execution(backend="vmap")), "unknown backend"),
        (lambda: Children(TASK, range(10**8)), "ask for at most"),
        (lambda: Children(TASK, [0]).train([0.0]), "above 0"),
        (lambda: Children(TASK, [0]).train([float("nan")]), "finite"),
        (lambda: Children(TASK, [0]).train([0.1, 0.1]), "shape"),
        (lambda: Children(TASK, [0]).evaluate("train2"), "unknown split"),
        (lambda: Children(TASK, [0, 1]).measure([1, 0]), "increasing order"),
        (lambda: Children(TASK, [0, 1]).train([0.1, 0.1], [0, 2]), "from 0 to 1"),
    ],
)
def test_bad_input_is_one_clear_line(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def module(children: Children, row: int) -> nn.Module:
    network = build_seeded(lambda: children.task.network.build(children.task.source.input_shape, 10), 0, torch.float64)
    views = children.state.layout.views(children.state.parameters[row])
    network.requires_grad_(False)
    network.load_state_dict(views)
    return network


def logits(children: Children, row: int) -> torch.Tensor:
    return module(children, row)(children.data.splits["val"].inputs)


class _Conv:
    def build(self, input_shape, num_classes):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 10)
        )


def test_a_child_that_was_not_measured_before_has_not_changed():
    children = Children(TASK, [0, 1], execution=Execution(backend=LOOP))
    assert (children.measure()["prediction_change"] == 0).all()
    children.train([0.1, 0.1])
    assert (children.measure()["prediction_change"] > 0).all()
    children.reset([1], [7])
    children.train([0.1, 0.1])
    change = children.measure()["prediction_change"]
    assert change[0] > 0
    assert change[1] == 0


def test_nobody_works_on_children_after_an_error():
    children = Children(TASK, range(4), execution=Execution(backend=POOL))
    done = []

    def work(row):
        if row == 0:
            raise ValueError("at once")
        time.sleep(0.2)
        done.append(row)

    with pytest.raises(ValueError, match="at once"):
        children.engine.workers.each(work, range(4))
    count = len(done)
    time.sleep(0.5)
    assert len(done) == count


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("DigitsMLP", Backend("stacked", 16)),
        ("DigitsMLP", LOOP),
        ("FashionMLP", Backend("stacked", 16)),
        ("FashionLeNet5", LOOP),
        ("FashionLeNet5", Backend("stacked", 4)),
    ],
    ids=str,
)
def test_the_memory_estimate_is_near_what_is_allocated(name, backend):
    """Against what the engine keeps, and what is alive at one time while a block trains."""
    if name != "DigitsMLP" and not os.environ.get("LR_ENV_DATA"):
        pytest.skip("needs Fashion-MNIST: set LR_ENV_DATA to a folder that has it")
    children = Children(replace(TASKS[name], segment=5, budget=5), range(16), execution=Execution(backend=backend))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in children.state.tensors.values())
    children.train(np.full(16, 0.01))  # traces
    with _Peak() as peak:
        children.train(np.full(16, 0.01))
    needed = children.memory.bytes(16, backend.at_once(16, children.device)) - children.memory.shared
    assert stored + peak.bytes < needed < 4 * (stored + peak.bytes)


@pytest.mark.parametrize("backend", [LOOP, POOL, Backend("stacked", 3), Backend("stacked", 2, workers=2)])
def test_numbers_below_the_smallest_normal_one_become_zero(backend):
    """A ReLU that is never above zero has a gradient of 0, and its momentum only shrinks."""
    children = Children(TASK, range(3), execution=Execution(backend=backend))
    smallest = torch.finfo(torch.float32).tiny
    weight, bias, *_ = children.state.layout.views(children.state.parameters).values()
    momentum = next(iter(children.state.layout.views(children.state.tensors["momentum_buffer"]).values()))
    bias[:, 0] = -1000.0
    for _ in range(2):  # a block is trained by the caller's thread at first
        momentum[:, 0] = 2 * smallest
        before = weight.clone()
        children.train(np.full(3, 0.01))
        assert torch.equal(weight[:, 0], before[:, 0])
        assert not torch.equal(weight[:, 1], before[:, 1])
        assert (momentum[:, 0] == 0).all()
    assert torch.tensor(smallest) / 2 > 0  # the caller's arithmetic is as it was


class _Peak(TorchDispatchMode):
    """The most bytes of tensors made inside that are alive at one time."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(leaf, self.alive.pop, storage._cdata, None)
        self.bytes = max(self.bytes, sum(self.alive.values()))
        return result

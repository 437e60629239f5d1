"""Every kind of child: stacked, in a loop, and written out in plain torch, the same numbers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lr_env.children import Backend, Children, Execution, stacked
from lr_env.children.autotune import compiler
from lr_env.children.cuda_graphs import Replay
from lr_env.children.initial import build_seeded, moved
from lr_env.children.noise import seed_dropout
from lr_env.children.numerics import Numerics
from lr_env.children.stacked import clip_
from lr_env.children.state import Layout
from lr_env.errors import UserError
from lr_env.optimizers import SGD, Adam, AdamW
from lr_env.tasks import CNN, GPT, MLP, TASKS, CropFlip, LeNet5, ResNet, SwishResNet, Task
from lr_env.tasks.networks import _MaxPool2
from lr_env.tasks.sources import SOURCES, DataSource

LOOP = Backend("loop")
STACK = Backend("stacked", 3)  # of five children: blocks of two and of three
ALONE = Backend("stacked", 1)


def images(size: int, channels: int) -> DataSource:
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (110, channels, size, size)).astype(np.uint8)
    labels = (pixels[:, 0, : size // 2].mean((1, 2)) > 127).astype(np.int64) + 2 * (pixels[:, 0, 0, 0] > 127)
    sizes = {"train": 60, "val": 30, "test": 20}
    return DataSource(
        "noise",
        sizes,
        (channels, size, size),
        4,
        lambda: {("train", "val", "test"): (pixels, labels)},
        255,
        (0.5,),
        (0.3,),
    )


def text() -> DataSource:
    random = np.random.RandomState(1)
    tokens = np.cumsum(random.randint(0, 3, 110 * 6 + 1)) % 7
    pair = tokens[:-1].reshape(110, 6).astype(np.uint8), tokens[1:].reshape(110, 6).astype(np.int64)
    sizes = {"train": 60, "val": 30, "test": 20}
    return DataSource("text", sizes, (6,), 7, lambda: {("train", "val", "test"): pair}, tokens=True)


SOURCES.update(
    {"test-small": images(8, 1), "test-colour": images(8, 3), "test-large": images(28, 1), "test-text": text()}
)

BASE = Task("small", "test-small", MLP((8,)), SGD(), 6, 40, 5, 12, 0.01, (1e-10, 10.0), (0.003, 0.3))
TASKS_OF = {
    "cnn": replace(BASE, network=CNN(2, 8, 0.0)),
    "cnn-dropout": replace(BASE, network=CNN(2, 8, 0.4), optimizer=Adam()),
    "lenet": replace(BASE, data="test-large", network=LeNet5()),
    "resnet": replace(
        BASE, data="test-colour", network=ResNet((1, 2), 2), optimizer=SGD(nesterov=True, weight_decay=0.01)
    ),
    "resnet-stride": replace(BASE, network=ResNet((1, 1), 3, stem_stride=2), optimizer=AdamW()),
    "swish-resnet": replace(BASE, network=SwishResNet((1, 1), 4, dropout=0.3)),
    "label-burst": replace(BASE, network=MLP((8,)), label_burst=(0.25, 0.5, 0.5)),
    "gpt": replace(BASE, data="test-text", network=GPT(8, 1, 2), optimizer=AdamW(), clip_norm=0.5),
    "gpt-dropout": replace(BASE, data="test-text", network=GPT(8, 1, 2, dropout=0.3)),
    "crop-flip": replace(BASE, data="test-colour", network=CNN(2, 8), augment=CropFlip(2)),
    "clip": replace(BASE, network=MLP((8,)), clip_norm=0.05),
}


def trained(task: Task, backend: Backend, seeds=(3, 1, 4, 1, 5), segments: int = 5, device: str = "cpu") -> Children:
    children = Children(task, seeds, dtype=torch.float64, execution=Execution(device=device, backend=backend))
    scale = 0.1 if isinstance(task.optimizer, Adam) else 1.0
    for segment in range(segments):
        children.train(scale * np.geomspace(0.005, 0.05, len(seeds)) * (1 + 0.5 * np.sin(segment)))
    return children


@pytest.mark.parametrize("name", TASKS_OF)
@pytest.mark.parametrize("backend", [STACK, ALONE], ids=str)
def test_stacked_equals_loop(name, backend):
    loop, stack = (trained(TASKS_OF[name], each) for each in (LOOP, backend))
    for key, tensor in loop.state.tensors.items():
        if not key.endswith("noise_key"):  # which the stack has no use for
            torch.testing.assert_close(stack.state.tensors[key], tensor, rtol=1e-8, atol=1e-9, msg=f"{name} {key}")
    np.testing.assert_allclose(stack.step_losses, loop.step_losses, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(stack.evaluate("test"), loop.evaluate("test"), rtol=1e-8, atol=1e-9)
    ours, theirs = stack.measure(), loop.measure()
    for signal in ours:
        np.testing.assert_allclose(ours[signal], theirs[signal], rtol=1e-7, atol=1e-9, err_msg=signal)
    np.testing.assert_allclose(stack.first_batch_loss([0, 3]), loop.first_batch_loss([0, 3]), rtol=1e-8)


@pytest.mark.parametrize("name", ["cnn", "resnet", "gpt", "clip"])
def test_loop_equals_plain_torch(name):
    task = TASKS_OF[name]
    children = Children(task, [3], dtype=torch.float64, execution=Execution(backend=LOOP))
    source, train = task.source, children.data.splits["train"]
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 3, torch.float64)
    optimizer = task.optimizer.build(module.parameters())
    losses = []
    for batch in children.order.batches(np.array([0]), task.budget)[0]:
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        logits = module(train.inputs[batch])
        loss = F.cross_entropy(logits.reshape(-1, source.num_classes), train.labels[batch].reshape(-1))
        loss.backward()
        if task.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), task.clip_norm)
        optimizer.step()
        losses.append(loss.item())
    ours = [children.train([0.01]) and children.step_losses[0] for _ in range(task.num_segments)]
    np.testing.assert_allclose(np.concatenate(ours), losses, rtol=1e-8)
    mine = children.state.child(0)
    for key, value in module.state_dict(keep_vars=True).items():
        if key in mine:  # a tied weight is there once
            torch.testing.assert_close(mine[key], value.detach(), rtol=1e-8, atol=1e-10, msg=key)
    module.eval()
    test = children.data.splits["test"]
    with torch.no_grad():
        logits = module(test.inputs).reshape(-1, source.num_classes)
    loss, accuracy = children.evaluate("test")
    assert loss[0] == pytest.approx(F.cross_entropy(logits, test.labels.reshape(-1)).item(), rel=1e-9)
    assert accuracy[0] == pytest.approx((logits.argmax(1) == test.labels.reshape(-1)).double().mean().item())


class Eager(Replay):
    """Replays by doing the step again, where there is no graph to capture: all but the calls of CUDA."""

    started = staticmethod(nullcontext)

    def _warm_up(self, step):
        return [step(self._row()) for _ in range(3)][-1]

    def join(self):
        pass

    def _capture(self, step):
        self.step = step

    def _play(self):
        self._once(self.step)


@pytest.mark.parametrize("name", ["resnet-stride", "cnn-dropout", "gpt"])
def test_replaying_steps_from_tables_on_the_device_changes_nothing(name, monkeypatch):
    monkeypatch.setattr(stacked, "Replay", Eager)
    runs = [
        Children(TASKS_OF[name], range(5), dtype=torch.float64, execution=Execution(backend=STACK)) for _ in range(2)
    ]
    runs[0].engine._whole = False  # on CUDA a step takes weights as they lie, which gives other last bits
    runs[1].engine._replayed = True
    for children in runs:
        children.train([0.01] * 5)
        children.train([0.02, 0.01, 0.01, 0.03, 0.01], [0, 1, 3])
    for key, tensor in runs[0].state.tensors.items():
        assert torch.equal(tensor, runs[1].state.tensors[key]), key
    np.testing.assert_array_equal(runs[0].step_losses, runs[1].step_losses)


@pytest.mark.parametrize("name", ["lenet", "resnet", "gpt"])
def test_a_neighbour_that_explodes_changes_nothing(name):
    alone, among = (
        Children(TASKS_OF[name], range(3), execution=Execution(backend=Backend("stacked", 3))) for _ in range(2)
    )
    among.state.parameters[1] = float("nan")
    for children in (alone, among):
        children.train([0.01] * 3)
    rows = [0, 2]
    for key, tensor in alone.state.get(rows).items():
        assert torch.equal(tensor, among.state.get(rows)[key]), key
    assert np.isnan(among.step_losses[1]).all()
    np.testing.assert_array_equal(among.step_losses[rows], alone.step_losses[rows])


def same_children(some: Children, others: Children, rtol: float, atol: float) -> None:
    """By name: where a parameter lies in its row differs between devices."""
    for row in range(len(some)):
        expected = others.state.child(row)
        for key, tensor in some.state.child(row).items():
            if not key.endswith("noise_key"):
                torch.testing.assert_close(tensor.cpu(), expected[key], rtol=rtol, atol=atol, msg=key)


@pytest.mark.parametrize("name", TASKS_OF)
def test_cuda_equals_cpu(name):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    truth = trained(TASKS_OF[name], LOOP)
    for backend in (LOOP, STACK, ALONE):
        same_children(trained(TASKS_OF[name], backend, device="cuda"), truth, 1e-7, 1e-8)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_gaps_between_parameters_change_nothing(name, monkeypatch):
    apart = Layout.of
    truth = trained(TASKS_OF[name], LOOP, segments=2)
    monkeypatch.setattr(Layout, "of", lambda module, channels_last, align: apart(module, channels_last, 4))
    for backend in (LOOP, STACK):
        children = trained(TASKS_OF[name], backend, segments=2)
        layout = children.state.layout
        assert layout.size > layout.num_parameters == truth.state.layout.size
        assert layout.size % 4 == 0
        assert all(view[0].storage_offset() % 4 == 0 for view in layout.views(children.state.parameters).values())
        same_children(children, truth, 1e-8, 1e-9)


def test_shared_buffers_stay_shared_on_another_device():
    network, other = (
        seed_dropout(build_seeded(lambda: GPT(8, 1, 2, dropout=0.3).build((6,), 7), 0, torch.float32)) for _ in range(2)
    )
    assert len([*network.to("meta").named_buffers()]) > 1  # torch's own way
    assert [name for name, _ in moved(other, torch.device("meta")).named_buffers()] == ["dropout.noise_key"]


@pytest.mark.filterwarnings("ignore")  # torch's own, in compiling
def test_compiled_equals_loop():
    if compiler() is None:
        pytest.skip("needs a C++ compiler")
    task = replace(TASKS_OF["cnn-dropout"], network=Normed(), segment=2)
    loop, compiled = (trained(task, backend, range(2), 3) for backend in (LOOP, Backend("compiled", 2)))
    for key, tensor in loop.state.tensors.items():
        if not key.endswith("noise_key"):
            torch.testing.assert_close(compiled.state.tensors[key], tensor, rtol=1e-8, atol=1e-9, msg=key)


def test_running_statistics_are_each_childs_own_and_measuring_leaves_them_alone():
    children = trained(TASKS_OF["resnet"], STACK)
    before = children.snapshot()
    names = [name for name in before["tensors"] if "running" in name]
    assert len(names) >= 6
    assert not torch.equal(before["tensors"][names[0]][0], before["tensors"][names[0]][1])
    children.measure()
    children.evaluate("val")
    children.first_batch_loss([0, 1])
    after = children.snapshot()
    for name in names:
        assert torch.equal(before["tensors"][name], after["tensors"][name])


@pytest.mark.parametrize("backend", [LOOP, STACK], ids=str)
@pytest.mark.parametrize("name", ["resnet", "cnn-dropout", "crop-flip", "gpt-dropout"])
def test_snapshot_and_restore_give_the_same_bytes(name, backend):
    task = TASKS_OF[name]
    children = Children(task, [0, 1, 2], execution=Execution(backend=backend))
    children.train([0.01] * 3)
    snapshot = children.snapshot()
    first = [children.train([0.01] * 3) for _ in range(3)]
    end = children.snapshot()
    children.restore(snapshot)
    again = [children.train([0.01] * 3) for _ in range(3)]
    np.testing.assert_array_equal(first, again)
    for key, tensor in children.snapshot()["tensors"].items():
        assert torch.equal(tensor, end["tensors"][key]), key


@pytest.mark.parametrize("name", ["resnet", "cnn-dropout", "crop-flip"])
@pytest.mark.parametrize("backend", [LOOP, STACK], ids=str)
def test_a_child_does_not_depend_on_its_neighbours(name, backend):
    alone = trained(TASKS_OF[name], LOOP, seeds=(4,))
    among = Children(TASKS_OF[name], (9, 4, 7, 7), dtype=torch.float64, execution=Execution(backend=backend))
    scale = 0.1 if isinstance(among.task.optimizer, Adam) else 1.0
    for segment in range(5):
        among.train(scale * 0.005 * (1 + 0.5 * np.sin(segment)) * np.array([30, 1, 1, 1]), [0, 1, 2])
    torch.testing.assert_close(among.state.parameters[1], alone.state.parameters[0], rtol=1e-8, atol=1e-9)
    assert among.steps.tolist() == [25, 25, 25, 0]


def test_a_fork_draws_its_own_noise():
    """With the same batches and rate, forks of one child part only by what they drop."""
    children = Children(TASKS_OF["cnn-dropout"], [0, 1, 2], execution=Execution(backend=LOOP))
    children.train([0.01] * 3)
    children.fork([0, 0], [1, 2])
    assert torch.equal(children.state.parameters[0], children.state.parameters[1])
    losses = children.train([0.01] * 3)
    assert len(set(losses)) == 3


def test_tied_weights_stay_tied_and_are_the_output_layers():
    for backend in (LOOP, STACK):
        children = trained(TASKS_OF["gpt"], backend)
        assert "head.weight" not in children.state.layout.shapes
        assert children.state.layout.output_weight == "tokens.weight"
    with torch.device("meta"):
        module = children.task.network.build((6,), 7)
    assert module.head.weight is module.tokens.weight


def test_text_is_scored_by_the_token():
    children = trained(TASKS_OF["gpt"], LOOP, seeds=(0,), segments=0)
    loss, accuracy = children.evaluate("val")
    assert loss[0] == pytest.approx(np.log(7), abs=0.05)  # an untrained network knows nothing
    assert 0 < accuracy[0] < 0.5


def test_clipping_is_torchs():
    module = build_seeded(lambda: MLP((5,)).build((4,), 3), 0, torch.float64)
    for scale, limit in ((10.0, 1.0), (0.01, 1.0)):
        grads = [
            torch.randn(2, *p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
            for p in module.parameters()
        ]
        ours = [grad.clone() for grad in grads]
        clip_(ours, limit)
        for row in range(2):
            for parameter, grad in zip(module.parameters(), grads, strict=True):
                parameter.grad = grad[row].clone()
            nn.utils.clip_grad_norm_(module.parameters(), limit)
            for parameter, mine in zip(module.parameters(), ours, strict=True):
                torch.testing.assert_close(mine[row], parameter.grad)


def test_variations_change_the_training_split_alone():
    whole = Children(BASE, [0], execution=Execution(backend=LOOP))
    half = Children(replace(BASE, train_fraction=0.5, label_noise=0.2), [0], execution=Execution(backend=LOOP))
    assert half.order.num_examples == 30
    a, b = whole.data.splits["train"], half.data.splits["train"]
    assert torch.equal(b.inputs, a.inputs[:30])
    assert (b.labels != a.labels[:30]).sum() == 6
    for split in ("val", "test"):
        assert torch.equal(whole.data.splits[split].labels, half.data.splits[split].labels)


@dataclass(frozen=True)
class Normed:
    """Small enough to be compiled in seconds, with all that is not a plain function of the inputs."""

    def build(self, input_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))


@dataclass(frozen=True)
class Functional:
    def build(self, input_shape, num_classes):
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(64, num_classes)

            def forward(self, x):
                return self.linear(F.dropout(x.flatten(1), training=self.training))

        return Module()


@dataclass(frozen=True)
class Answers:
    layer: str

    def build(self, input_shape, num_classes):
        return nn.Sequential(
            nn.Flatten(), nn.Dropout2d() if self.layer == "dropout2d" else nn.Identity(), nn.Linear(64, 3)
        )


class Twice:
    """One dropout layer at two places."""

    def build(self, input_shape, num_classes):
        drop = nn.Dropout(0.5)
        return nn.Sequential(nn.Flatten(), drop, nn.Linear(64, 64), drop, nn.Linear(64, num_classes))


class Frozen:
    """A parameter that is not to be trained."""

    def build(self, input_shape, num_classes):
        head = nn.Linear(64, num_classes)
        head.bias.requires_grad_(False)
        return nn.Sequential(nn.Flatten(), head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Children(replace(BASE, network=Functional()), [0]), "use nn.Dropout layers"),
        (lambda: Children(replace(BASE, network=Answers("dropout2d")), [0]), "Dropout2d, which is not supported"),
        (lambda: Children(replace(BASE, network=Answers("")), [0]), r"logits of shape \(3,\)"),
        (lambda: Children(replace(BASE, network=Twice()), [0]), "uses the dropout layer '1' more than once"),
        (lambda: Children(replace(BASE, network=Frozen()), [0]), "parameter '1.bias' needs no gradient"),
        (lambda: CNN(width=0), "CNN: width is 0"),
        (lambda: CNN(dropout=1.0), "dropout is 1.0"),
        (lambda: ResNet(()), "at least one stage"),
        (lambda: ResNet((1, -1)), "blocks is -1"),
        (lambda: SwishResNet(()), "at least one stage"),
        (lambda: SwishResNet(dropout=1.0), "dropout is 1.0"),
        (
            lambda: replace(BASE, label_burst=(0.5, 0.4, 0.5)),
            "two rising shares of the budget",
        ),
        (lambda: replace(BASE, label_burst=(0.5, 0.6)), "two rising shares of the budget"),
        (lambda: GPT(width=10, heads=4), "not a multiple of the 4 heads"),
        (lambda: MLP((0,)), "hidden is 0"),
        (lambda: CropFlip(padding=-1), "padding is -1"),
        (lambda: replace(BASE, clip_norm=0.0), "clip_norm is 0.0"),
        (lambda: replace(BASE, label_noise=1.0), "label_noise is 1.0"),
        (lambda: replace(BASE, train_fraction=0.0), "train_fraction is 0.0"),
        (lambda: replace(BASE, train_fraction=0.05), "batch_size is 6, but the train split has 3"),
        (lambda: Children(BASE, [0], execution=Execution(backend="loop", numerics=Numerics("tf32"))), "tf32"),
        (lambda: Numerics("fp8"), "unknown precision 'fp8'"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        change()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "shape", "parameters"),
    [
        (CNN(), (1, 28, 28), 1_867_466),  # counted by hand from the layers of arXiv 2509.23052
        (ResNet(), (3, 32, 32), 11_173_962),  # ResNet-18 with a 3x3 stem, as widely published
        (ResNet((1, 1, 1), 16), (3, 32, 32), 78_042),
        (SwishResNet(), (3, 32, 32), 11_200_874),  # counted by hand from what arXiv 2509.23052 says of it
        (LeNet5(), (1, 28, 28), 61_706),
        (
            GPT(384, 6, 6),
            (256,),
            10_770_816,
        ),  # nanoGPT's for this text, without its biases' absence: 12 w^2 + 13 w a block
    ],
    ids=str,
)
def test_parameters_are_as_many_as_published(network, shape, parameters):
    with torch.device("meta"):
        module = network.build(shape, 65 if isinstance(network, GPT) else 10)
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 2, 7, 9)])
def test_pooling_without_a_gradient_is_pooling(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pool = _MaxPool2()
    with torch.no_grad():
        assert torch.equal(pool(x), F.max_pool2d(x, 2))
    assert torch.equal(pool(x), F.max_pool2d(x, 2))


def test_every_task_of_the_catalogue_can_be_recorded():
    for task in TASKS.values():
        assert task.settings()["network"]["class"] == type(task.network).__name__

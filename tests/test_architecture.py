"""Architectures: what is read off networks of all kinds, and that reading changes nothing."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lr_env import LREnv
from lr_env.architecture import NODE_FEATURES, SUMMARY_FEATURES, Architecture, Node, architecture_of
from lr_env.cli.describe import Describe
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.report.network_figure import places
from lr_env.tasks import GPT, MLP, TASKS, LeNet5, ResNet
from lr_env.tasks.architecture import of_task
from planners.schedules import Cosine
from planners.torch_scheduler import PlannerLR
from tests.conftest import global_states

pytestmark = pytest.mark.usefixtures("global_generators_kept")  # the networks of the tests draw their weights from them

SIZES = {
    "DigitsMLP": (5, 4),
    "FashionMLP": (5, 4),
    "FashionLeNet5": (7, 6),
    "FashionCNN": (8, 7),
    "FashionResNet8": (24, 26),
    "FashionResNet18": (51, 58),
    "CIFAR10ResNet18": (51, 58),
    "ShakespeareGPT": (25, 28),  # 21 and 24, and for each of 2 layers the query-key-value and the output layer apart
    "ShakespeareGPTLarge": (61, 72),  # 49 and 60, and the same for 6 layers
}


@pytest.mark.parametrize("name", SIZES)
def test_networks_of_the_catalogue(name):
    task = TASKS[name]
    architecture = of_task(task)
    assert (len(architecture.nodes), len(architecture.edges)) == SIZES[name]
    with torch.device("meta"):
        module = task.network.build(task.source.input_shape, task.source.num_classes)
        inputs = torch.zeros(1, *task.source.input_shape)
    assert sum(node.parameters for node in architecture.nodes) == sum(p.numel() for p in module.parameters())
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel([SDPBackend.MATH]):
        module.eval()(inputs.long() if task.source.tokens else inputs)
    assert 2 * sum(node.multiply_adds for node in architecture.nodes) == counter.get_total_flops()
    assert all(node.fan_out and node.positions for node in architecture.nodes)
    features, summary = architecture.features(), architecture.summary()
    assert features.shape == (SIZES[name][0], len(NODE_FEATURES))
    assert tuple(summary) == SUMMARY_FEATURES
    assert np.isfinite([*features.ravel(), *summary.values()]).all()
    assert architecture.adjacency().sum() == SIZES[name][1]
    assert Architecture.from_json(json.dumps(architecture.to_json())) == architecture
    assert len({*zip(*places(architecture), strict=True)}) == SIZES[name][0]  # no node hides another in the picture
    assert of_task(task) is architecture


def test_what_a_summary_and_features_say():
    of_gpt, of_resnet = of_task(TASKS["ShakespeareGPTLarge"]), of_task(TASKS["FashionResNet8"])
    gpt, resnet = of_gpt.summary(), of_resnet.summary()
    assert [gpt[name] for name in ("attention_nodes", "joins", "smooth_share", "dropout")] == [6, 13, 1, 0.2]
    assert (gpt["norm_before_output"], resnet["norm_before_output"]) == (1, 0)
    assert [resnet[name] for name in ("conv_nodes", "norm_nodes", "linear_nodes", "joins")] == [9, 9, 1, 3]
    # A block of two convolutions and norms is skipped whole, or by a convolution and a norm.
    assert resnet["mean_skip"] == pytest.approx((5 + 3 + 3) / 3)
    assert (resnet["longest_path"], resnet["shortest_path"], resnet["relu_share"]) == (19, 11, 1)
    assert resnet["log_parameters"] == pytest.approx(np.log1p(19810))
    conv = dict(zip(NODE_FEATURES, of_resnet.features()[3], strict=True))
    assert (conv["conv"], conv["linear"]) == (1, 0)
    assert conv["log_fan_in"] == pytest.approx(np.log1p(8 * 9))
    assert conv["relative_depth"] == pytest.approx(3 / 19)
    assert of_gpt.nodes[-2].tied
    assert of_gpt.nodes[-2].parameters == 0


class Residual(nn.Module):
    """Functional residuals, a layer that is used twice, and a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        h = F.relu(self.twice(x)) + x
        h += torch.tanh(self.twice(h))
        return self.out(h if other is None else torch.cat([h, other], 1)[:, :4])


class OnValues(nn.Module):
    """A condition on values; a branch raises where they are refused."""

    def __init__(self, refused: bool) -> None:
        super().__init__()
        self.layer, self.refused = nn.Linear(4, 4), refused

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            if self.refused:
                raise ValueError("positive")
            return self.layer(x)
        return self.layer(x) + x


class OnShapes(nn.Module):
    """The number of rows that it works on depends on values, so that nothing can run it without them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.nonzero(x[:, 0] > 0)[:, 0]
        out = x.clone()
        out[rows] = self.layer(x[rows])
        return out


class Attention(nn.Module):
    """Attention as `nn.MultiheadAttention`, with torch's function, or spelled out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.into, self.out = how, nn.Linear(8, 24), nn.Linear(8, 8)
        self.whole = nn.MultiheadAttention(8, 2, batch_first=True) if how == "whole" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.whole is not None:
            return self.whole(x, x, x)[0]
        batch, positions, width = x.shape
        q, k, v = self.into(x).view(batch, positions, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind()
        if self.how == "function":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, positions, width))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.core, self.out = nn.Embedding(11, 6), nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(self.tokens(x))[0])


class Opaque(nn.Module):
    """Leaves torch, so that only the list of its layers is there to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.layer(x).detach().numpy().copy())


def parts(architecture: Architecture) -> str:
    """The kinds of the nodes in short."""
    return " ".join(node.kind for node in architecture.nodes)


def test_networks_of_all_kinds():
    x, tokens, sequence = torch.zeros(3, 4), torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5, 8)
    twice = architecture_of(Residual(), x)
    assert parts(twice) == "input linear join linear join linear output"
    assert {*twice.edges} == {(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4), (4, 5), (5, 6)}
    assert [(node.parameters, node.tied, node.activation) for node in twice.nodes[1:4:2]] == [
        (20, False, "relu"),
        (0, True, "tanh"),
    ]
    two = architecture_of(Residual(), (x, x))
    assert Counter(node.kind for node in two.nodes) == {"input": 2, "linear": 3, "join": 3, "output": 1}
    assert architecture_of(Residual(), {"other": x, "x": x}).key == two.key

    def around(part: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"part": nn.Sequential(part)})["part"], nn.Linear(4, 2))

    assert parts(architecture_of(around(OnValues(refused=False)), x)) == "input linear linear linear output"
    assert parts(architecture_of(around(OnValues(refused=True)), x)) == "input linear linear join linear output"
    assert parts(architecture_of(around(OnShapes()), x)) == "input linear other linear output"
    assert parts(architecture_of(Opaque(), x)) == "input linear output"
    assert parts(architecture_of(nn.ModuleList([nn.Linear(4, 4)]), x)) == "input linear output"

    ways = [architecture_of(Attention(how), sequence) for how in ("whole", "function", "spelled out")]
    assert {parts(way) for way in ways} == {"input linear attention linear output"}
    assert len({way.key for way in ways}) == 1
    assert ways[0].nodes[2].multiply_adds == 2 * 5 * 5 * 8  # scores and means of values

    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    encoder = architecture_of(nn.TransformerEncoder(layer, 2), sequence)
    assert parts(encoder) == "input " + "linear attention linear join norm linear linear join norm " * 2 + "output"
    assert sum(node.parameters for node in encoder.nodes) == 2 * sum(p.numel() for p in layer.parameters())
    recurrent = architecture_of(Recurrent(), tokens)
    assert parts(recurrent) == "input embedding other linear output"
    assert recurrent.nodes[2].multiply_adds == 5 * (32 * (6 + 8) + 32 * (8 + 8))  # four gates, two layers

    weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    assert [(node.kind, node.parameters) for node in architecture_of(weight_norm, x).nodes[1:-1]] == [("linear", 12)]
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    tied[2].weight = tied[0].weight
    assert [node.parameters for node in architecture_of(tied, x).nodes] == [0, 16, 0, 0]


def test_a_billion_parameters_take_no_memory():
    with torch.device("meta"):
        big = nn.Sequential(*[nn.Linear(8192, 8192) for _ in range(16)])
    architecture = architecture_of(big, torch.zeros(1, 8192))
    assert sum(node.parameters for node in architecture.nodes) == 16 * (8192**2 + 8192)
    assert architecture_of(big, torch.zeros(2, 8192, device="meta")).key == architecture.key


def test_the_key_knows_the_network_and_not_its_names():
    x = torch.zeros(2, 4)

    def key(*layers: nn.Module) -> str:
        return architecture_of(nn.Sequential(*layers), x).key

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(8, 2), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.first(x).relu(), self.last.weight, self.last.bias)

    same = key(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert architecture_of(Named(), torch.zeros(7, 4)).key == same
    others = [
        key(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
        key(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)),
        key(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
        key(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2)),
        key(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)),
    ]
    assert len({same, *others}) == 6
    layers = [Node("linear", fan_out=4, parameters=20, name=str(number)) for number in range(3)]
    chain = Architecture((Node("input"), *layers, Node("output")), ((0, 1), (1, 2), (2, 3), (3, 4)))
    skip = Architecture(chain.nodes, (*chain.edges, (1, 3)))
    elsewhere = Architecture(chain.nodes, (*chain.edges, (0, 2)))
    assert len({chain.key, skip.key, elsewhere.key}) == 3
    turned = Architecture(chain.nodes[::-1], tuple((4 - start, 4 - end) for start, end in reversed(skip.edges)))
    assert turned.key == skip.key


def test_nothing_is_changed():
    calls: list[Any] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.count, self.seen, self.renamed = 0, [], self.work

        def work(self, x: Tensor) -> Tensor:
            self.count += 1
            self.seen.append(x)
            return F.dropout(self.layer(self.norm(x)))

        def forward(self, x: Tensor) -> Tensor:
            return self.renamed(x) + torch.rand(4)

    network = Counting().double()
    network.layer.eval()
    hook = network.norm.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(network.state_dict())
    attributes = {name: {*vars(part)} for name, part in network.named_modules()}
    generators = global_states()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
            architecture = architecture_of(network, torch.zeros(2, 4, device="cpu"))
            assert torch.zeros(1).device.type == "meta"
            assert torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert global_states() == generators
    assert parts(architecture) == "input norm linear output"
    assert architecture.nodes[2].dropout == 0.5
    assert (network.count, network.seen, calls) == (0, [], [])
    assert [network.training, network.layer.training, network.norm.training] == [True, False, True]
    assert {name: {*vars(part)} for name, part in network.named_modules()} == attributes
    assert hook.id in network.norm._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_run_spec_knows_the_architecture_and_traces_it_when_it_is_read():
    spec = LREnv("DigitsMLP", budget=200).unwrapped.run_spec
    assert "architecture" not in vars(spec)
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec == LREnv("DigitsMLP", budget=200).unwrapped.run_spec
    assert hash(again) == hash(spec)
    assert spec.architecture == of_task(TASKS["DigitsMLP"]) == again.architecture
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert RunSpec("mine", 10, 1, (0.1, 1.0), "SGD", 1).architecture is None
    optimizer = torch.optim.SGD(nn.Linear(4, 2).parameters(), lr=0.1)
    architecture = architecture_of(nn.Linear(4, 2), torch.zeros(1, 4))
    assert PlannerLR(optimizer, Cosine(0.1), 10, architecture=architecture)._run.architecture is architecture
    code = "import sys, lr_env.architecture, lr_env.planner, planners.schedules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("network", [MLP((3,)), LeNet5(), ResNet((1,), 2), GPT(8, 1, 2)])
def test_rebuilt_networks_have_the_same_key(network):
    shape = (16,) if isinstance(network, GPT) else (1, 28, 28)
    inputs = torch.zeros(1, *shape, dtype=torch.int64 if isinstance(network, GPT) else torch.float32)
    keys = {architecture_of(network.build(shape, classes), inputs).key for classes in (10, 10, 11)}
    assert len(keys) == 2


def test_the_command_prints_and_draws(tmp_path, capsys):
    Describe("FashionResNet8", out=tmp_path / "new").run()
    printed = capsys.readouterr().out
    assert "24 nodes, 26 edges, 19,810 parameters" in printed
    assert all(name in printed for name in SUMMARY_FEATURES)
    assert [line.split()[-2:] for line in printed.splitlines() if "join add" in line] == [
        ["6", "2"],
        ["11", "13"],
        ["18", "20"],
    ]
    content = (tmp_path / "new" / "architecture.json").read_text()
    assert Architecture.from_json(content) == of_task(TASKS["FashionResNet8"])
    assert (tmp_path / "new" / "architecture.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="is a file"):
        Describe("FashionResNet8", out=tmp_path / "new" / "architecture.json").run()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ([], "JSON object"),
        ({"nodes": []}, "JSON object"),
        ({"nodes": [], "edges": []}, "no nodes"),
        ({"nodes": [{"fan_in": 1}], "edges": []}, "kind"),
        ({"nodes": [{"kind": "liner"}], "edges": []}, "did you mean 'linear'"),
        ({"nodes": [{"kind": "linear", "depth": 1}], "edges": []}, "unknown field"),
        ({"nodes": [{"kind": "linear", "fan_in": -1}], "edges": []}, "fan_in is -1"),
        ({"nodes": [{"kind": "linear", "parameters": 1e3}], "edges": []}, "parameters is 1000.0"),
        ({"nodes": [{"kind": "linear", "dropout": float("nan")}], "edges": []}, "dropout is nan"),
        ({"nodes": [{"kind": "linear", "tied": 1}], "edges": []}, "tied is 1"),
        ({"nodes": [{"kind": "linear"}], "edges": [[0, 1]]}, "leaves the 1 nodes"),
        ({"nodes": [{"kind": "linear"}], "edges": [[0]]}, "pair of node numbers"),
        ({"nodes": [{"kind": "linear"}], "edges": [[0, 0]]}, "cycle"),
        ({"nodes": [{"kind": "linear"}] * 2, "edges": [[0, 1], [1, 0]]}, "cycle"),
        ({"nodes": [{"kind": "linear"}] * 2, "edges": [[0, 1], [0, 1]]}, "twice"),
    ],
)
def test_malformed_json_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Architecture.from_json(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "inputs", "reason"),
    [
        (F.relu, torch.zeros(1), "no torch.nn.Module"),
        (nn.Linear(1, 1), (), "no tensor among the example inputs"),
    ],
)
def test_what_is_no_network_is_refused(module, inputs, reason):
    with pytest.raises(ValueError, match=reason):
        architecture_of(module, inputs)

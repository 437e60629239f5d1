"""The bench: its table, its side of the talk with a peer, and a quick run where there is no network."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_env.bench import dacbench, jax_twin, measures, torch_compile
from lr_env.bench.peer_process import Peer, PeerError, PeerProcess, parse
from lr_env.bench.plain import PlainLoop
from lr_env.bench.saved import SavedParts
from lr_env.bench.table import Figure, Part, report
from lr_env.children import Children
from lr_env.children.backend import network_of
from lr_env.env import LREnv
from lr_env.errors import UserError
from lr_env.optimizers import Adam
from lr_env.tasks import MLP, TASKS
from lr_env.tasks.data import Data, Split, load
from lr_env.tasks.sources import _idx

ABOUT = {"device": "a CPU", "cores": 2, "threads": 1, "system": "any", "versions": {"torch": "2"}}
PART = Part(
    0.5,
    "today",
    "abc",
    [
        Figure("speed", [7.0, 8.0, 9.0], "x", "80 and 10", (">=", 7.0)),
        Figure("reset", [30.0], "ms", "", ("<", 20.0)),
        Figure("share", [1.0, 2.0], "%"),
    ],
    ["DACBench is not measured: no network."],
    ["How."],
)
GROWN = Part(
    0.1,
    growth=[
        {"task": "MLP", "children": 8, "backend": "loop", "steps_per_second": 1234.4, "gib": 0.4, "estimated_gib": 0.5},
    ],
)
DIGITS = replace(
    dacbench.CASES[0],
    title="digits",
    task=replace(dacbench.CASES[0].task, data="digits", network=MLP((8,)), batch_size=32, segment=2, val_subset=20),
)
PEERS = Path(__file__).parents[1] / ".venv-peers"


def images(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, *shape), dtype=np.uint8), random.integers(0, 10, count)


def talking(code: str) -> PeerProcess:
    return PeerProcess("the parrot", [sys.executable, "-c", code])


def installed(peer: Peer) -> Path:
    try:
        return peer.interpreter(PEERS, install=False)
    except PeerError as error:
        pytest.skip(f"no {peer.name} to talk to ({error}): `make bench` installs it")


@pytest.mark.parametrize(
    ("values", "bar", "verdict"),
    [
        ([6.0, 7.0, 9.0], (">=", 7.0), "met"),
        ([6.0, 6.9, 9.0], (">=", 7.0), "NOT MET"),
        ([20.0], ("<", 20.0), "NOT MET"),
        ([1.0], None, "no bar"),
    ],
)
def test_the_median_is_held_against_the_bar(values, bar, verdict):
    assert Figure("speed", values, "x", bar=bar).verdict == verdict


def test_report():
    text = report({"plain": PART, "growth": GROWN}, ABOUT, quick=True)
    lines = text.splitlines()
    assert "1 of 2 bars met, 1 NOT MET." in lines
    assert "| speed   | 8.00x (7.00 to 9.00, 3 rounds) | 80 and 10 | >= 7x   | met     |" in lines
    assert "| reset   | 30.0 ms                        |           | < 20 ms | NOT MET |" in lines
    assert "DACBench is not measured: no network." in lines
    assert any(line.startswith("A quick look") for line in lines)
    assert "| MLP  | 8        | loop    | 1,234         | 0.400                         | 0.500           |" in lines
    assert "When each part was measured: plain: today, code abc, load average before 0.5; growth" in text


def test_parts_are_kept_until_they_are_measured_anew_or_the_machine_changes(tmp_path):
    order = ("plain", "growth")
    SavedParts(tmp_path, ABOUT, order, quick=False).add("growth", GROWN)
    SavedParts(tmp_path, ABOUT, order, quick=False).add("plain", replace(PART, figures=[]))
    SavedParts(tmp_path, ABOUT, order, quick=False).add("plain", PART)
    again = SavedParts(tmp_path, ABOUT, order, quick=False)
    assert list(again.parts.items()) == [("plain", PART), ("growth", GROWN)]
    assert (tmp_path / "a-cpu-2-cores.md").read_text().startswith(report(again.parts, ABOUT, quick=False))
    assert (tmp_path / "a-cpu-2-cores-growth.png").stat().st_size > 10_000
    assert SavedParts(tmp_path, ABOUT, order, quick=True).parts == {}
    assert SavedParts(tmp_path, {**ABOUT, "versions": {"torch": "3"}}, order, quick=False).parts == {}
    (tmp_path / "a-cpu-2-cores.json").write_text("{}")
    with pytest.raises(UserError, match="not what a bench keeps"):
        SavedParts(tmp_path, ABOUT, order, quick=False)


def test_turns_are_kept_by_job_without_the_first():
    calls = []

    def job(name: str, width: int):
        calls.append(name)
        return (len(calls),) * width

    first, second = measures.in_turns(lambda: job("A", 1), lambda: job("B", 2), rounds=2)
    assert calls == ["A", "B"] * 3
    assert first.tolist() == [[3], [5]]
    assert second.tolist() == [[4, 4], [6, 6]]


def test_answers_of_a_peer():
    assert parse("JAX", '{"steps": 48, "seconds": 6.5}\n') == {"steps": 48, "seconds": 6.5}
    with pytest.raises(PeerError, match=r"JAX failed: KeyError: 'x'"):
        parse("JAX", '{"error": "KeyError:\\n\'x\'"}')
    for line in ("Downloading ...", "[1, 2]", '{"steps": '):
        with pytest.raises(PeerError, match=r"the process of JAX .* no answer"):
            parse("JAX", line)


def test_a_peer_is_asked_and_its_end_is_told():
    with talking("import json, sys; [print(json.dumps(json.loads(l)), flush=True) for l in sys.stdin]") as peer:
        assert peer.ask("turn", decisions=2) == {"do": "turn", "decisions": 2}
        assert peer.ask("turn", decisions=3)["decisions"] == 3
    with (
        talking("raise ImportError('No module named seed')") as peer,
        pytest.raises(PeerError, match="the process of the parrot ended: ImportError: No module named seed"),
    ):
        peer.ask("start")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_a_script_is_served_on_its_core_with_its_settings(tmp_path):
    script = tmp_path / "noisy_side.py"
    script.write_text(
        "import os\n"
        "class Side:\n"
        "    def __init__(self, first): self.first = first\n"
        "    def describe(self): return {'cores': [*os.sched_getaffinity(0)], 'at': os.environ['OMP_NUM_THREADS']}\n"
        "    def add(self, second): print('noise'); return {'sum': self.first + second, 'set': os.environ['SETTING']}\n"
    )
    core = min(os.sched_getaffinity(0))
    peer = Peer("noisy", str(script))
    python = peer.interpreter(tmp_path, install=False)
    assert python == Path(sys.executable)
    with peer.start(python, threads=3, cores=[core], settings={"SETTING": "5"}) as process:
        with pytest.raises(PeerError, match="noisy failed: RuntimeError: not started"):
            process.ask("add", second=2)
        assert process.ask("start", first=1) == {"cores": [core], "at": "3"}
        assert process.ask("add", second=2) == {"sum": 3, "set": "5"}
        with pytest.raises(PeerError, match="noisy failed: TypeError"):
            process.ask("add", third=2)


@pytest.mark.parametrize("peer", [dacbench.DACBENCH, jax_twin.JAX], ids=lambda peer: peer.name)
def test_nothing_is_installed_unasked_and_nobody_elses_folder_is_touched(tmp_path, peer):
    with pytest.raises(PeerError, match="installs nothing"):
        peer.interpreter(tmp_path / "new", install=False)
    assert not (tmp_path / "new").exists()
    folder = tmp_path / peer.name.lower()
    folder.mkdir()
    (folder / "thesis.txt").write_text("ten years of work")
    with pytest.raises(PeerError, match="not a virtual environment"):
        peer.interpreter(tmp_path, install=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_mnist_is_written_as_it_was(tmp_path):
    train, test = images(30, 28, 28), images(5, 28, 28)
    dacbench.write_data(tmp_path, "MNIST", {("val", "train"): train, ("test",): test}, 20)
    raw = tmp_path / "MNIST" / "raw"
    for prefix, (inputs, labels) in (("train", (train[0][:20], train[1][:20])), ("t10k", test)):
        np.testing.assert_array_equal(_idx((raw / f"{prefix}-images-idx3-ubyte").read_bytes()), inputs)
        np.testing.assert_array_equal(_idx((raw / f"{prefix}-labels-idx1-ubyte").read_bytes()), labels)


def test_cifar_is_written_as_it_was(tmp_path):
    train, test = images(10_003, 3, 4, 4), images(5, 3, 4, 4)
    dacbench.write_data(tmp_path, "CIFAR10", {("val", "train"): train, ("test",): test}, None)
    folder = tmp_path / "cifar-10-batches-py"
    names = ["batches.meta", "data_batch_1", "data_batch_2", "test_batch"]
    assert sorted(path.name for path in folder.iterdir()) == names
    parts = [pickle.loads((folder / name).read_bytes()) for name in names[1:3]]
    assert [len(part["labels"]) for part in parts] == [10_000, 3]
    np.testing.assert_array_equal(np.concatenate([part["data"] for part in parts]), train[0].reshape(-1, 48))


def test_cases():
    sizes = [sum(p.numel() for p in network_of(case.task, torch.float32).parameters()) for case in dacbench.CASES]
    assert sizes == [784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10, 62_006]
    assert [case.bar for case in dacbench.CASES] == [(">=", 7.0), (">=", 1.7)]


class FakePeer:
    """Answers as DACBench's process does: 10 child steps/s with a decision an epoch, 4 with one a step."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def ask(self, do: str, epoch_mode: bool, decisions: int) -> dict[str, float]:
        self.asked.append(epoch_mode)
        steps = 5 if epoch_mode else decisions
        return {"steps": steps, "seconds": steps / (10 if epoch_mode else 4), "reset_seconds": 0.5}


def test_both_sides_take_turns_and_the_faster_mode_is_held_against_the_bar():
    peer = FakePeer()
    size = sum(p.numel() for p in LREnv(DIGITS.task).episodes.children.engine.modules[0].parameters())
    about = {"parameters": size, "optimizer": "AdamW", "epoch_steps": 5, "validated": 40}
    (faster, often, resets), note = dacbench.compare(DIGITS, peer, about, measures.QUICK)
    assert peer.asked == [True, False] * 2
    assert "decides once an epoch" in faster.measure
    assert faster.bar == (">=", 7.0)
    assert faster.absolute.endswith("and 10.0")
    assert often.bar is None
    assert often.absolute.endswith("and 4.0")
    assert resets.absolute.startswith("500.0 ms and")
    assert "4 steps of LREnv (a decision every 2 steps, 20 validation" in note
    with pytest.raises(PeerError, match="something else"):
        dacbench.compare(DIGITS, peer, {**about, "parameters": 1}, measures.QUICK)


def test_many_children_against_one_and_resets():
    figure = dacbench.together(DIGITS, measures.QUICK)
    assert len(figure.values) == measures.QUICK.rounds
    assert "8 children in lockstep" in figure.measure
    reset = measures.reset(TASKS["DigitsMLP"], measures.QUICK)
    assert (len(reset.values), reset.unit, reset.bar) == (measures.QUICK.resets, "ms", ("<", 20.0))


def test_the_real_dacbench_trains_what_it_is_told(tmp_path):
    python = installed(dacbench.DACBENCH)
    case = replace(dacbench.CASES[0], task=replace(dacbench.CASES[0].task, batch_size=32))
    dacbench.write_data(tmp_path, "MNIST", {("val", "train"): images(500, 28, 28), ("test",): images(64, 28, 28)}, None)
    with dacbench.DACBENCH.start(python) as peer:
        about = peer.ask("start", **case.request(tmp_path))
        turns = [peer.ask("turn", epoch_mode=mode, decisions=2) for mode in (True, False)]
    assert about == {"parameters": 235_146, "optimizer": "AdamW", "epoch_steps": 12, "validated": 32}
    assert [turn["steps"] for turn in turns] == [24, 2]


def test_jax_computes_what_torch_does(tmp_path, monkeypatch):
    """A network with all of its layers, against the loop; `compare` raises where losses differ."""
    python = installed(jax_twin.JAX)
    inputs, labels = (torch.from_numpy(array) for array in images(80, 1, 28, 28))
    split = Split(inputs / 255 - 0.5, labels)
    data = Data({"train": split, "val": split}, "", TASKS["FashionLeNet5"].source)
    monkeypatch.setattr("lr_env.children.children.load", lambda *_: data)
    monkeypatch.setattr(jax_twin, "LOCKSTEP", 2)
    task = replace(TASKS["FashionLeNet5"], batch_size=32, segment=3, budget=6, val_subset=20)
    twin = jax_twin.Twin(task, Children(task, [0, 1]), 0.9)
    twin.write(tmp_path)
    with jax_twin.JAX.start(python) as peer:
        layers = jax_twin.LAYERS[task.name]
        about = peer.ask("start", folder=str(tmp_path), layers=layers, momentum=twin.momentum)
        assert len(about["ways"]) == 4
        figure = jax_twin.compare(twin, peer, about, measures.QUICK)
    assert figure.bar == (">=", 1.0)
    assert "2 children in lockstep, lr_env / JAX" in figure.measure


def test_jax_is_given_plain_sgd_only():
    with pytest.raises(PeerError, match="not trained by plain SGD"):
        jax_twin.Twin.of(replace(TASKS["DigitsMLP"], optimizer=Adam()))


class FakeJAX:
    """Answers as JAX's process does: 10 child steps/s, and a faster second way."""

    def __init__(self, twin: jax_twin.Twin, off: float) -> None:
        self.losses = {name: (values + off).tolist() for name, values in twin.first_segment().items()}
        self.turns: list[str] = []

    def ask(self, do: str, way: str, rates: list[float], segments: int = 1) -> dict[str, object]:
        assert len(rates) == measures.LOCKSTEP
        if do == "first_segment":
            return {**self.losses, "seconds": [9.0, 1.0 if way == "slow" else 0.5]}
        self.turns.append(way)
        return {"steps": 10, "seconds": 1.0}


def test_the_fastest_way_of_jax_is_compared_after_its_losses_agree():
    task = TASKS["DigitsMLP"]
    twin = jax_twin.Twin(task, Children(task, range(measures.LOCKSTEP)), 0.9)
    about = {"ways": ["slow", "fast"], "version": "0", "cores": 1}
    peer = FakeJAX(twin, 5e-5)
    figure = jax_twin.compare(twin, peer, about, measures.QUICK)
    assert peer.turns == ["fast"] * 2
    assert figure.measure.endswith("JAX, 1 core")
    assert figure.absolute.endswith("(loop) and 10.0 (fast)")
    with pytest.raises(PeerError, match="something else"):
        jax_twin.compare(twin, FakeJAX(twin, 2e-4), about, measures.QUICK)


def test_cores_are_bound_and_let_go():
    before = jax_twin.cores(), torch.get_num_threads()
    with jax_twin.bound_to(before[0][:1]):
        assert jax_twin.cores() == before[0][:1]
        assert torch.get_num_threads() == max(1, len(before[0][:1]))
    assert (jax_twin.cores(), torch.get_num_threads()) == before


def test_the_plain_loop_trains_as_torch_says():
    """Against SGD with momentum written out, on the same batches."""
    task = replace(TASKS["DigitsMLP"], segment=2, budget=2)
    data, rate = load("digits"), 0.05
    loop = PlainLoop(task, data, torch.device("cpu"), 3)
    module, train = network_of(task, torch.float32, 3), data.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    buffers = [torch.zeros_like(part) for part in module.parameters()]
    losses = []
    for batch in order[:32].view(2, 16):
        loss = torch.nn.functional.cross_entropy(module(train.inputs[batch]), train.labels[batch])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        for part, buffer, gradient in zip(module.parameters(), buffers, gradients, strict=True):
            buffer.mul_(0.9).add_(gradient)
            part.data.sub_(rate * buffer)
        losses.append(loss.item())
    logits, labels = module(data.splits["val"].inputs[:100]), data.splits["val"].labels[:100]
    val_loss, right = torch.nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double()
    assert loop.segment(rate) == pytest.approx((np.mean(losses), val_loss, right.mean().item()), abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_the_compiled_loop_trains_as_the_plain_one_and_a_new_rate_compiles_nothing(monkeypatch):
    """Traced as for the C++ compiler, but run without one, which would take half a minute; the bench checks that."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    task = replace(TASKS["DigitsMLP"], network=MLP((8,)), segment=3, budget=9)
    plain, compiled = (PlainLoop(task, load("digits"), torch.device("cpu"), 0, compiled) for compiled in (False, True))
    for number, rate in enumerate((0.1, 0.05, 0.02)):
        np.testing.assert_allclose(compiled.segment(rate), plain.segment(rate), atol=1e-5)
        if number == 0:
            monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)


def test_the_warm_up_is_told_of_a_script_that_trains_the_same():
    same = {
        "warm_up": 12.5,
        "compiled": [[1.0, 1.1, 0.3], [0.9, 1.0, 0.4]],
        "plain": [[1.0, 1.1, 0.9], [0.9, 1.0, 0.4]],
    }
    figure = torch_compile.warm_up(TASKS["DigitsMLP"], same)
    assert (figure.value, figure.unit) == (12.5, "s")
    with pytest.raises(PeerError, match=r"losses are off by 0\.1 nats"):
        torch_compile.warm_up(TASKS["DigitsMLP"], {**same, "plain": [[1.0, 1.1, 0.3], [0.9, 0.9, 0.4]]})


class FakeScript:
    """Answers as the script with torch.compile does: 100 steps/s."""

    def ask(self, do: str) -> dict[str, float]:
        return {"steps": 50, "seconds": 0.5}


def test_one_child_and_many_against_a_script():
    figures = torch_compile.compare(TASKS["DigitsMLP"], FakeScript(), torch.device("cpu"), measures.QUICK, 2)
    assert figures[0].absolute.endswith("and 100.0")
    assert figures[1].absolute.endswith("and 100.0 (1 network)")
    assert "32 children" in figures[1].measure


def test_a_quick_run_without_data_network_and_peers(tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    (tmp_path / "data").mkdir()
    places = {"LR_ENV_DATA": str(tmp_path / "data"), "LR_ENV_CACHE": str(tmp_path / "cache")}
    no_compiler = {"CXX": "", "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lr_env.bench", "--quick", "--out", "kept", "--peers", "peers"],
        cwd=tmp_path,
        env={**os.environ, **nowhere, **places, **no_compiler, "NO_PROXY": "", "no_proxy": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "DigitsMLP: time of LREnv with 1 child / plain torch loop" in done.stdout
    for name in ("DACBench", "JAX"):
        folder = str(Path("peers", name.lower()))
        assert (
            f"{name} is not measured: it is not installed in {folder!r}, and --quick installs nothing." in done.stdout
        )
    assert "torch.compile is not measured: there is no C++ compiler" in done.stdout
    for data in ("fashion-mnist", "mnist", "cifar10"):
        assert f"the data set {data} is not there" in done.stdout
    assert not (tmp_path / "peers").exists()
    (table,), (saved,) = ((tmp_path / "kept").glob(f"*-quick.{kind}") for kind in ("md", "json"))
    assert table.read_text().startswith(done.stdout)
    content = json.loads(saved.read_text())
    assert content["quick"]
    parts = content["parts"]
    own = ["plain", "families", "peers", "jax", "compile", "process", "engines", "neighbours", "growth"]
    assert list(parts) == [*own, "forecaster", "planning", "scheduler"]
    assert sum(len(part["skipped"]) for part in parts.values()) == 21
    assert {row["task"] for row in parts["growth"]["growth"]} == {"DigitsMLP"}
    assert not any(row["gib"] < 0 for row in parts["growth"]["growth"])
    measures_ = {
        part: [figure["measure"] for figure in part_content["figures"]] for part, part_content in parts.items()
    }
    assert [len(measures_[part]) for part in parts] == [5, 2, 0, 0, 0, 4, 2, 3, 0, 3, 5, 3]

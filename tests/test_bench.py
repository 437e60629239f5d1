"""The bench: its table, its side of the talk with a peer, and a quick run where there is no network."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lr_env.bench import measures, peers
from lr_env.bench.peer_process import Peer, PeerError, interpreter, parse
from lr_env.bench.saved import SavedParts
from lr_env.bench.table import Figure, Part, report
from lr_env.children.backend import network_of
from lr_env.env import LREnv
from lr_env.errors import UserError
from lr_env.tasks import MLP, TASKS
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
    peers.CASES[0],
    title="digits",
    task=replace(peers.CASES[0].task, data="digits", network=MLP((8,)), batch_size=32, segment=2, val_subset=20),
)
VENV = Path(__file__).parents[1] / ".venv-peers"


def images(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, *shape), dtype=np.uint8), random.integers(0, 10, count)


def talking(code: str) -> Peer:
    return Peer([sys.executable, "-c", code])


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
    assert parse('{"steps": 48, "seconds": 6.5}\n') == {"steps": 48, "seconds": 6.5}
    with pytest.raises(PeerError, match=r"DACBench failed: KeyError: 'x'"):
        parse('{"error": "KeyError: \'x\'"}')
    for line in ("Downloading ...", "[1, 2]", '{"steps": '):
        with pytest.raises(PeerError, match="no answer"):
            parse(line)


def test_a_peer_is_asked_and_its_end_is_told():
    with talking("import json, sys; [print(json.dumps(json.loads(l)), flush=True) for l in sys.stdin]") as peer:
        assert peer.ask("turn", decisions=2) == {"do": "turn", "decisions": 2}
        assert peer.ask("turn", decisions=3)["decisions"] == 3
    with talking("raise ImportError('No module named dacbench')") as peer, pytest.raises(PeerError, match="dacbench"):
        peer.ask("start")


def test_nothing_is_installed_unasked_and_nobody_elses_folder_is_touched(tmp_path):
    with pytest.raises(PeerError, match="installs nothing"):
        interpreter(tmp_path / "new", install=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(PeerError, match="not a virtual environment"):
        interpreter(tmp_path, install=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_mnist_is_written_as_it_was(tmp_path):
    train, test = images(30, 28, 28), images(5, 28, 28)
    peers.write_data(tmp_path, "MNIST", {("val", "train"): train, ("test",): test}, 20)
    raw = tmp_path / "MNIST" / "raw"
    for prefix, (inputs, labels) in (("train", (train[0][:20], train[1][:20])), ("t10k", test)):
        np.testing.assert_array_equal(_idx((raw / f"{prefix}-images-idx3-ubyte").read_bytes()), inputs)
        np.testing.assert_array_equal(_idx((raw / f"{prefix}-labels-idx1-ubyte").read_bytes()), labels)


def test_cifar_is_written_as_it_was(tmp_path):
    train, test = images(10_003, 3, 4, 4), images(5, 3, 4, 4)
    peers.write_data(tmp_path, "CIFAR10", {("val", "train"): train, ("test",): test}, None)
    folder = tmp_path / "cifar-10-batches-py"
    names = ["batches.meta", "data_batch_1", "data_batch_2", "test_batch"]
    assert sorted(path.name for path in folder.iterdir()) == names
    parts = [pickle.loads((folder / name).read_bytes()) for name in names[1:3]]
    assert [len(part["labels"]) for part in parts] == [10_000, 3]
    np.testing.assert_array_equal(np.concatenate([part["data"] for part in parts]), train[0].reshape(-1, 48))


def test_cases():
    sizes = [sum(p.numel() for p in network_of(case.task, torch.float32).parameters()) for case in peers.CASES]
    assert sizes == [784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10, 62_006]
    assert [case.bar for case in peers.CASES] == [(">=", 7.0), (">=", 1.7)]


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
    (faster, often, resets), note = peers.compare(DIGITS, peer, about, measures.QUICK)
    assert peer.asked == [True, False] * 2
    assert "decides once an epoch" in faster.measure
    assert faster.bar == (">=", 7.0)
    assert faster.absolute.endswith("and 10.0")
    assert often.bar is None
    assert often.absolute.endswith("and 4.0")
    assert resets.absolute.startswith("500.0 ms and")
    assert "4 steps of LREnv (a decision every 2 steps, 20 validation" in note
    with pytest.raises(PeerError, match="something else"):
        peers.compare(DIGITS, peer, {**about, "parameters": 1}, measures.QUICK)


def test_many_children_against_one_and_resets():
    figure = peers.together(DIGITS, measures.QUICK)
    assert len(figure.values) == measures.QUICK.rounds
    assert "8 children in lockstep" in figure.measure
    reset = measures.reset(TASKS["DigitsMLP"], measures.QUICK)
    assert (len(reset.values), reset.unit, reset.bar) == (measures.QUICK.resets, "ms", ("<", 20.0))


def test_the_real_dacbench_trains_what_it_is_told(tmp_path):
    try:
        python = interpreter(VENV, install=False)
    except PeerError as error:
        pytest.skip(f"no DACBench to talk to ({error}): `make bench` installs it")
    case = replace(peers.CASES[0], task=replace(peers.CASES[0].task, batch_size=32))
    peers.write_data(tmp_path, "MNIST", {("val", "train"): images(500, 28, 28), ("test",): images(64, 28, 28)}, None)
    side = Path(peers.__file__).with_name("dacbench_side.py")
    with Peer([str(python), "-P", "-W", "ignore", str(side)]) as peer:
        about = peer.ask("start", **case.request(tmp_path))
        turns = [peer.ask("turn", epoch_mode=mode, decisions=2) for mode in (True, False)]
    assert about == {"parameters": 235_146, "optimizer": "AdamW", "epoch_steps": 12, "validated": 32}
    assert [turn["steps"] for turn in turns] == [24, 2]


def test_a_quick_run_without_data_network_and_peers(tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    (tmp_path / "data").mkdir()
    places = {"LR_ENV_DATA": str(tmp_path / "data"), "LR_ENV_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "lr_env.bench", "--quick", "--out", "kept", "--peers", "peers"],
        cwd=tmp_path,
        env={**os.environ, **nowhere, **places, "NO_PROXY": "", "no_proxy": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "DigitsMLP: time of LREnv with 1 child / plain torch loop" in done.stdout
    assert "DACBench is not measured: it is not installed in 'peers', and --quick installs nothing." in done.stdout
    for data in ("fashion-mnist", "mnist", "cifar10"):
        assert f"the data set {data} is not there" in done.stdout
    assert not (tmp_path / "peers").exists()
    (table,), (saved,) = ((tmp_path / "kept").glob(f"*-quick.{kind}") for kind in ("md", "json"))
    assert table.read_text().startswith(done.stdout)
    content = json.loads(saved.read_text())
    assert content["quick"]
    parts = content["parts"]
    assert list(parts) == ["plain", "families", "peers", "process", "growth", "forecaster", "planning", "scheduler"]
    assert sum(len(part["skipped"]) for part in parts.values()) == 13
    assert {row["task"] for row in parts["growth"]["growth"]} == {"DigitsMLP"}
    assert not any(row["gib"] < 0 for row in parts["growth"]["growth"])
    measures_ = {
        part: [figure["measure"] for figure in part_content["figures"]] for part, part_content in parts.items()
    }
    assert [len(measures_[part]) for part in parts] == [5, 2, 0, 4, 0, 3, 5, 3]

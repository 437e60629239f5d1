"""Checkpoints: what is written comes back as it was, and what is damaged is told in one line."""

from __future__ import annotations

import errno
import math
import resource
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_env import files
from lr_env.errors import UserError
from lr_env.records import checkpoint
from lr_env.records.checkpoint import load_tree, save_tree


def assert_same(found: Any, wanted: Any) -> None:
    """Equal down to types, dtypes, shapes, signs of zero and NaN."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert torch.equal(found, wanted)
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, wanted, strict=True)
    elif isinstance(wanted, float):
        if math.isnan(wanted):  # which has a sign, too, that means nothing
            assert math.isnan(found)
        else:
            assert found == wanted
            assert math.copysign(1, found) == math.copysign(1, wanted)
    else:
        assert found == wanted


def through_file(path: Path, tree: Any) -> Any:
    save_tree(path, tree)
    return load_tree(path)


LEAVES = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["value", "dict", "list", "tensor", "array", "shape", "", "é"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(TREES)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    assert_same(through_file(tmp_path_factory.getbasetemp() / "any.tree", tree), tree)


def test_arrays_tensors_and_generators_come_back(tmp_path: Path) -> None:
    floats = np.array([1.5, np.nan, np.inf, -np.inf, -0.0])
    tree = {
        "arrays": [floats, floats.astype(np.float32), np.array([True, False]), np.arange(6).reshape(2, 3)],
        "0-d": (np.array(3.5), np.array(True), torch.tensor(2.5, dtype=torch.float64), torch.tensor(7)),
        "empty": [np.zeros((0, 3)), torch.zeros(2, 0)],
        "not contiguous": [np.arange(12.0).reshape(3, 4).T, np.arange(9)[::-2], torch.arange(6).reshape(2, 3).T],
        "integers": [np.array([-1], np.int8), np.array([2**64 - 1], np.uint64), np.array([7], np.int32)],
        "tensors": [torch.eye(2), torch.tensor([True]), torch.ones(2, dtype=torch.bfloat16)],
        "generator": np.random.default_rng(5).bit_generator.state,
    }
    found = through_file(tmp_path / "state", tree)
    assert_same(found, tree)
    generator = np.random.default_rng()
    generator.bit_generator.state = found["generator"]
    assert generator.random() == np.random.default_rng(5).random()


def test_numpy_scalars_come_back_as_numbers(tmp_path: Path) -> None:
    tree = [np.float64(0.1), np.int64(2**40), np.bool_(True)]
    assert_same(through_file(tmp_path / "state", tree), [0.1, 2**40, True])


def test_arrays_that_share_memory_come_back_each_on_its_own(tmp_path: Path) -> None:
    array, tensor = np.arange(4.0), torch.arange(4.0)
    tree = {"a": array, "again": array, "view": array[2:], "t": tensor, "again t": tensor, "view t": tensor[:2]}
    found = through_file(tmp_path / "state", tree)
    assert_same(found, tree)
    found["a"][:] = 0
    assert_same(found["again"], array)


def test_read_only_arrays_come_back(tmp_path: Path) -> None:
    array = np.arange(4.0)
    array.flags.writeable = False
    assert_same(through_file(tmp_path / "state", [array, np.broadcast_to(2.0, (3,))])[0], np.arange(4.0))


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "thing",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        len,
        Path("here"),
        torch.Generator(),
        {1: "a key that is no string"},
        np.array([1, "x", None], dtype=object),
        np.array(["text"]),
        np.ones(2, np.complex128),
        Point(1, 2),
    ],
    ids=lambda thing: f"{type(thing).__name__} {getattr(thing, 'dtype', '')}",
)
def test_what_would_not_come_back_is_refused(tmp_path: Path, thing: Any) -> None:
    """Else a comparison would stop at its first checkpoint, or go on from something else after a restart."""
    with pytest.raises(UserError, match="saved state"):
        save_tree(tmp_path / "state", {"deep": [1, (thing,)]})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    save_tree(path, {"old": np.arange(3)})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, name in ((files.os, "replace"), (files.os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="No space left"):
                save_tree(path, {"new": 1})
        assert [file.name for file in tmp_path.iterdir()] == ["state"]
        assert_same(load_tree(path), {"old": np.arange(3)})


def test_a_write_that_the_system_cuts_short_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_tree(path, {"old": np.arange(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write"):
            save_tree(path, {"new": np.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert_same(load_tree(path), {"old": np.arange(3)})


def test_every_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_tree(path, {"a": np.arange(30.0), "b": [1, (2, None)], "c": torch.ones(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            load_tree(path)


@pytest.mark.parametrize("content", [b"", bytes(4096), bytes(range(256)) * 16, b"text\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        load_tree(tmp_path / "state")
    assert str(tmp_path / "state") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """Whatever byte is hit, it is told in one line: never as an error of another kind."""
    path = tmp_path / "state"
    save_tree(path, {"a": np.arange(6.0).reshape(2, 3), "b": [1, (2, None)]})
    whole = path.read_bytes()
    refused, others = 0, {}
    for place in range(8 + int.from_bytes(whole[:8], "little")):
        for bit in (1, 8, 64):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                load_tree(path)
            except UserError:
                refused += 1
            except Exception as error:
                others[type(error).__name__] = str(error)
    assert refused > 300
    assert others == {}


def test_a_missing_checkpoint_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path / "none")


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", 99)
    save_tree(tmp_path / "state", {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="format '99'"):
        load_tree(tmp_path / "state")

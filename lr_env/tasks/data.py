"""Data sets and their fixed splits, as tensors that live on the device where the children train."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lr_env.errors import UserError, unknown
from lr_env.tasks.files import DataFile, read

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (examples, ...) and labels (examples,)."""

SPLIT_SEED = 20260101
"""Seeds the permutation that cuts a data set into splits: part of every task's definition, never to be changed."""


@dataclass(frozen=True)
class DataSource:
    """A data set: where it comes from and how it is cut.

    Attributes:
        description: one line, with the origin.
        sizes: examples in "train", "val" and "test".
        input_shape: of one example as the network gets it.
        num_classes: number of labels.
        scale: the grey level that becomes 1.
        mean, std: of the scaled training inputs; the network gets (x / scale - mean) / std.
        fetch: returns the examples that train and val are cut from, and the official test examples (or None, where
            the test split is cut from the same examples).
    """

    description: str
    sizes: Mapping[str, int]
    input_shape: tuple[int, ...]
    num_classes: int
    scale: float
    mean: float
    std: float
    fetch: Callable[[], tuple[Arrays, Arrays | None]]


@dataclass(frozen=True)
class Split:
    """Examples and their labels, on one device.

    Attributes:
        inputs: (examples, *input_shape), floating point, normalised.
        labels: (examples,) int64.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The splits of a data set. `sha256` is the hash of the raw examples in the order of the splits."""

    splits: Mapping[str, Split]
    sha256: str


def find_source(name: str) -> DataSource:
    """The data set of that name.

    Raises:
        UserError: there is none.
    """
    try:
        return SOURCES[name]
    except KeyError:
        raise unknown("data set", name, SOURCES) from None


@lru_cache(maxsize=8)
def load(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Data:
    """The splits "train", "val" and "test" of a data set; loaded once a process for each device and dtype.

    Raises:
        UserError: there is no such data set, or its files cannot be had (see `files.read`).
    """
    source = find_source(name)
    raw = _split(source, *source.fetch())
    digest = hashlib.sha256()
    splits = {}
    for split, (images, labels) in raw.items():
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        inputs = torch.tensor(images, device=device).to(dtype).reshape(-1, *source.input_shape)
        inputs.div_(source.scale).sub_(source.mean).div_(source.std)
        splits[split] = Split(inputs, torch.tensor(labels, device=device))
    return Data(MappingProxyType(splits), digest.hexdigest())


def _split(source: DataSource, pool: Arrays, test: Arrays | None) -> dict[str, Arrays]:
    images, labels = pool
    # RandomState's streams are frozen by numpy's policy, a Generator's are not: the splits must never move.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    splits: dict[str, Arrays] = {}
    start = 0
    for split in ("test", "val", "train") if test is None else ("val", "train"):
        rows = order[start : start + source.sizes[split]]
        splits[split] = images[rows], labels[rows]
        start += len(rows)
    if test is not None:
        splits["test"] = test
    found = {split: len(y) for split, (_, y) in splits.items()}
    if start != len(labels) or found != dict(source.sizes):
        raise UserError(
            f"the data set has {found} examples, not {dict(source.sizes)}: its files are of another version"
        )
    return {split: splits[split] for split in ("train", "val", "test")}


def _digits() -> tuple[Arrays, None]:
    from sklearn.datasets import (
        load_digits,
    )  # here, because importing scikit-learn takes longer than the data

    inputs, labels = load_digits(return_X_y=True)
    return (np.asarray(inputs, dtype=np.uint8), np.asarray(labels, dtype=np.int64)), None


def _idx(content: bytes) -> NDArray[np.uint8]:
    """An array in the IDX format: two zero bytes, type 8 (uint8), the number of dimensions, the sizes, the data."""
    dims = content[3]
    shape = np.frombuffer(content, ">u4", count=dims, offset=4)
    return np.frombuffer(content, np.uint8, count=math.prod(shape.tolist()), offset=4 + 4 * dims).reshape(shape)


def _fashion() -> tuple[Arrays, Arrays]:
    arrays = {key: _idx(read(file)) for key, file in FASHION_FILES.items()}
    return (
        (arrays["train-images"], arrays["train-labels"].astype(np.int64)),
        (arrays["t10k-images"], arrays["t10k-labels"].astype(np.int64)),
    )


def _fashion_file(key: str, rank: int, sha256: str, content_sha256: str) -> DataFile:
    name = f"{key}-idx{rank}-ubyte.gz"
    return DataFile(
        name,
        ("FashionMNIST/raw", "fashion-mnist"),
        f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
        sha256,
        content_sha256,
    )


FASHION_FILES: Mapping[str, DataFile] = {
    "train-images": _fashion_file(
        "train-images",
        3,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels": _fashion_file(
        "train-labels",
        1,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images": _fashion_file(
        "t10k-images",
        3,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels": _fashion_file(
        "t10k-labels",
        1,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

SOURCES: Mapping[str, DataSource] = {
    "digits": DataSource(
        "1,797 handwritten digits, 8x8, from scikit-learn (Alpaydin & Kaynak, UCI, 1998)",
        {"train": 997, "val": 400, "test": 400},
        (64,),
        10,
        16.0,
        0.3053,
        0.3760,
        _digits,
    ),
    "fashion-mnist": DataSource(
        "70,000 images of clothing, 28x28 (Xiao, Rasul & Vollgraf, arXiv 1708.07747)",
        {"train": 50_000, "val": 10_000, "test": 10_000},
        (1, 28, 28),
        10,
        255.0,
        0.2860,
        0.3530,
        _fashion,
    ),
}

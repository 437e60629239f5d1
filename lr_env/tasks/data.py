"""The fixed splits of the data sets and their variations, as tensors on the device where the children train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.tasks.sources import SOURCES, Arrays, DataSource, Parts, find_source

__all__ = ["SOURCES", "Data", "DataSource", "Split", "data_spec", "find_source", "forget", "load", "train_size"]

SPLIT_SEED = 20260101
"""Seed of the permutations that cut data sets into splits: part of every task's definition, so it must never change."""

_NOISE_SEED = SPLIT_SEED + 1
"""Seed of the choice of wrong labels; it must never change either."""


@dataclass(frozen=True)
class Split:
    """Examples and their labels, on one device.

    Attributes:
        inputs: (examples, *input_shape), floating point, normalised; for text (examples, context) int64.
        labels: (examples,) int64; for text (examples, context) int64, the token after each of the inputs.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The splits of a data set.

    Attributes:
        splits: "train", "val" and "test".
        sha256: hash of the raw examples of the whole data set in the order of the splits, before examples are left out
            or labels are made wrong.
        source: source of the data set.
    """

    splits: Mapping[str, Split]
    sha256: str
    source: DataSource

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the splits as a dict, because a read-only mapping cannot be pickled."""
        return _data, (dict(self.splits), self.sha256, self.source)


def _data(splits: Mapping[str, Split], sha256: str, source: DataSource) -> Data:
    """Make data with a read-only mapping of splits, because the cache shares it."""
    return Data(MappingProxyType(splits), sha256, source)


@isolating
def load(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    train_fraction: float = 1.0,
    label_noise: float = 0.0,
) -> Data:
    """Load the splits "train", "val" and "test" of a data set, once in a process for each device and dtype.

    A variation changes only the training split, and shares all tensors that it does not change. The same variation has
    the same examples and labels everywhere, on every device.

    Args:
        name: name of the data set.
        device: device of the tensors.
        dtype: dtype of the inputs; text is always int64.
        train_fraction: share of the training split to use, in (0, 1]: its first examples, which are a random sample,
            because the split is shuffled. A larger fraction includes the examples of a smaller one.
        label_noise: share of the training labels (of the target tokens, for text) that are wrong, in [0, 1); each is
            drawn uniformly from the other classes. A larger share includes the wrong labels of a smaller one.

    Raises:
        UserError: there is no such data set, its files cannot be read (see `downloads.read`), or a share is out of
            range.
    """
    source = find_source(name)
    size = train_size(source, train_fraction)
    if not (isinstance(label_noise, Real) and 0 <= label_noise < 1):
        raise UserError(f"label_noise is {label_noise!r}: it must be a share of the labels, at least 0 and below 1")
    input_dtype = torch.int64 if source.tokens else dtype
    if (whole := _whole(name, device, input_dtype)).source is not source:  # the name stands for another data set now
        forget()
        whole = _whole(name, device, input_dtype)
    train = whole.splits["train"]
    wrong = round(float(label_noise) * size * source.positions)
    if wrong == 0 and size == len(train):
        return whole
    labels = _noisy_labels(name, device, input_dtype, size, wrong) if wrong else train.labels[:size]
    return _data({**whole.splits, "train": Split(train.inputs[:size], labels)}, whole.sha256, source)


def data_spec(name: str, device: str = "cpu") -> dict[str, Any]:
    """Describe a data set as far as results depend on it, JSON-able: hash and sizes of the splits, and the scaling.

    Args:
        name: name of the data set.
        device: device that it is loaded to, if it is not loaded yet.

    Raises:
        UserError: see `load`.
    """
    data = load(name, device)
    source = data.source
    return {
        "name": name,
        "sha256": data.sha256,
        "sizes": {split: source.sizes[split] for split in ("train", "val", "test")},
        "input_shape": list(source.input_shape),
        "num_classes": source.num_classes,
        "scale": source.scale,
        "mean": list(source.mean),
        "std": list(source.std),
        "tokens": source.tokens,
    }


def train_size(data: str | DataSource, fraction: float = 1.0) -> int:
    """Return the number of examples in a share of the training split, at least 1, without loading it.

    Args:
        data: the data set, or its name.
        fraction: share of the training split, in (0, 1].

    Raises:
        UserError: there is no such data set, or the share is out of range.
    """
    source = find_source(data) if isinstance(data, str) else data
    if not (isinstance(fraction, Real) and 0 < fraction <= 1):
        raise UserError(f"train_fraction is {fraction!r}: it must be a share of the examples, above 0 and at most 1")
    return max(1, round(float(fraction) * source.sizes["train"]))


def forget() -> None:
    """Empty the cache of `load`: the next call reads the files again."""
    _whole.cache_clear()
    _noisy_labels.cache_clear()


@lru_cache(maxsize=8)
def _whole(name: str, device: str, dtype: torch.dtype) -> Data:
    source = find_source(name)
    digest = hashlib.sha256()
    splits = {}
    for split, (examples, labels) in _cut(source, source.fetch()).items():
        digest.update(examples.tobytes())
        digest.update(labels.tobytes())
        inputs = torch.tensor(examples, device=device).to(dtype).reshape(-1, *source.input_shape)
        if not source.tokens:
            _normalise(inputs, source)
        splits[split] = Split(inputs, torch.tensor(labels, device=device))
    return _data(splits, digest.hexdigest(), source)


def _normalise(inputs: Tensor, source: DataSource) -> None:
    """Scale and shift inputs in place, by channel if each has its own numbers."""
    channels = [inputs] if len(source.mean) == 1 else inputs.unbind(1)
    for channel, mean, std in zip(channels, source.mean, source.std, strict=True):
        channel.div_(source.scale).sub_(mean).div_(std)


def _cut(source: DataSource, parts: Parts) -> dict[str, Arrays]:
    """Shuffle each part and cut it into its splits. A part for tests alone keeps its published order."""
    splits: dict[str, Arrays] = {}
    exact = True
    for names, (examples, labels) in parts.items():
        order = np.arange(len(labels))
        if names != ("test",):
            # The splits must never change: numpy guarantees the streams of RandomState, but not those of Generator.
            order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
        start = 0
        for split in names:
            rows = order[start : start + source.sizes[split]]
            splits[split] = examples[rows], labels[rows]
            start += len(rows)
        exact &= start == len(labels)
    sizes = {split: len(y) for split, (_, y) in splits.items()}
    if not exact or sizes != dict(source.sizes):
        raise UserError(
            f"the data set has {sizes} examples, not {dict(source.sizes)}: its files are of another version"
        )
    return {split: splits[split] for split in ("train", "val", "test")}


@lru_cache(maxsize=8)
def _noisy_labels(name: str, device: str, dtype: torch.dtype, size: int, wrong: int) -> Tensor:
    """Return the labels of the first `size` training examples, of which `wrong` are replaced by wrong ones."""
    source = find_source(name)
    right = _whole(name, device, dtype).splits["train"].labels
    # Drawn for the whole split, so that an example's wrong label does not depend on the size.
    random = np.random.RandomState(_NOISE_SEED)
    order = random.permutation(right.numel())
    shift = random.randint(1, source.num_classes, right.numel(), dtype=np.int64)
    labels = right[:size].cpu().numpy().copy()
    flat = labels.reshape(-1)  # a view
    rows = order[order < flat.size][:wrong]
    flat[rows] = (flat[rows] + shift[rows]) % source.num_classes
    return torch.tensor(labels, device=device)

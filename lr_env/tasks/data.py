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
"""Seeds the permutations that cut a data set into splits: part of every task's definition, never to be changed."""

_NOISE_SEED = SPLIT_SEED + 1
"""Seeds which labels are made wrong, and how; never to be changed either."""


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
        sha256: hash of the raw examples of the whole data set in the order of the splits: what was read, before a
            part of it was left out or labels were made wrong.
        source: where it was read from.
    """

    splits: Mapping[str, Split]
    sha256: str
    source: DataSource

    def __reduce__(self) -> tuple[Any, ...]:
        """To be pickled, which a mapping that cannot be changed cannot."""
        return _data, (dict(self.splits), self.sha256, self.source)


def _data(splits: Mapping[str, Split], sha256: str, source: DataSource) -> Data:
    """Data whose splits cannot be exchanged: they are kept for others."""
    return Data(MappingProxyType(splits), sha256, source)


@isolating
def load(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    train_fraction: float = 1.0,
    label_noise: float = 0.0,
) -> Data:
    """The splits "train", "val" and "test" of a data set; loaded once a process for each device and dtype.

    A variation changes the training split alone and shares all tensors that it leaves as they are. The same
    variation has the same examples and labels everywhere, on every device.

    Args:
        name: of the data set.
        device: where the tensors are to live.
        dtype: of the inputs; text is int64 whatever it says.
        train_fraction: share of the training split that is kept, in (0, 1]: its first examples, which are a random
            sample, since the split is shuffled. What a smaller fraction keeps, a larger one keeps too.
        label_noise: share of the training labels (of the target tokens, for text) that are wrong, in [0, 1); each is
            drawn uniformly from the other classes. What a smaller share gets wrong, a larger one gets wrong alike.

    Raises:
        UserError: there is no such data set, its files cannot be had (see `files.read`), or a share out of range.
    """
    source = find_source(name)
    size = train_size(source, train_fraction)
    if not (isinstance(label_noise, Real) and 0 <= label_noise < 1):
        raise UserError(f"label_noise is {label_noise!r}: it must be a share of the labels, at least 0 and below 1")
    kept_dtype = torch.int64 if source.tokens else dtype
    if (whole := _whole(name, device, kept_dtype)).source is not source:  # another data set has taken the name
        forget()
        whole = _whole(name, device, kept_dtype)
    train = whole.splits["train"]
    wrong = round(float(label_noise) * size * source.positions)
    if wrong == 0 and size == len(train):
        return whole
    labels = _noisy_labels(name, device, kept_dtype, size, wrong) if wrong else train.labels[:size]
    return _data({**whole.splits, "train": Split(train.inputs[:size], labels)}, whole.sha256, source)


def data_spec(name: str, device: str = "cpu") -> dict[str, Any]:
    """What results depend on in a data set, JSON-able: the examples and labels of each split, and their scaling.

    Args:
        name: of the data set.
        device: where it is loaded, if it is not yet.

    Raises:
        UserError: see `load`.
    """
    found = load(name, device)
    source = found.source
    return {
        "name": name,
        "sha256": found.sha256,
        "sizes": {split: source.sizes[split] for split in ("train", "val", "test")},
        "input_shape": list(source.input_shape),
        "num_classes": source.num_classes,
        "scale": source.scale,
        "mean": list(source.mean),
        "std": list(source.std),
        "tokens": source.tokens,
    }


def train_size(data: str | DataSource, fraction: float = 1.0) -> int:
    """Examples in that share of the training split, at least 1; nothing is loaded.

    Args:
        data: the data set, or its name.
        fraction: share that is kept, in (0, 1].

    Raises:
        UserError: there is no such data set, or the share is out of range.
    """
    source = find_source(data) if isinstance(data, str) else data
    if not (isinstance(fraction, Real) and 0 < fraction <= 1):
        raise UserError(f"train_fraction is {fraction!r}: it must be a share of the examples, above 0 and at most 1")
    return max(1, round(float(fraction) * source.sizes["train"]))


def forget() -> None:
    """Let go of all that `load` keeps: the next call reads the files anew."""
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
    """Scale and shift in place, by channel where each has its own numbers."""
    channels = [inputs] if len(source.mean) == 1 else inputs.unbind(1)
    for channel, mean, std in zip(channels, source.mean, source.std, strict=True):
        channel.div_(source.scale).sub_(mean).div_(std)


def _cut(source: DataSource, parts: Parts) -> dict[str, Arrays]:
    """Shuffle each part and cut it into its splits; what is for tests alone stays in its published order."""
    splits: dict[str, Arrays] = {}
    exact = True
    for names, (examples, labels) in parts.items():
        order = np.arange(len(labels))
        if names != ("test",):
            # RandomState's streams are frozen by numpy's policy, a Generator's are not: the splits must never move.
            order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
        start = 0
        for split in names:
            rows = order[start : start + source.sizes[split]]
            splits[split] = examples[rows], labels[rows]
            start += len(rows)
        exact &= start == len(labels)
    found = {split: len(y) for split, (_, y) in splits.items()}
    if not exact or found != dict(source.sizes):
        raise UserError(
            f"the data set has {found} examples, not {dict(source.sizes)}: its files are of another version"
        )
    return {split: splits[split] for split in ("train", "val", "test")}


@lru_cache(maxsize=8)
def _noisy_labels(name: str, device: str, dtype: torch.dtype, size: int, wrong: int) -> Tensor:
    """The labels of the first `size` training examples, `wrong` of them made wrong."""
    source = find_source(name)
    right = _whole(name, device, dtype).splits["train"].labels
    # Drawn for the whole split, so that an example's wrong label is the same whatever is left out.
    random = np.random.RandomState(_NOISE_SEED)
    order = random.permutation(right.numel())
    shift = random.randint(1, source.num_classes, right.numel(), dtype=np.int64)
    labels = right[:size].cpu().numpy().copy()
    flat = labels.reshape(-1)  # a view
    rows = order[order < flat.size][:wrong]
    flat[rows] = (flat[rows] + shift[rows]) % source.num_classes
    return torch.tensor(labels, device=device)

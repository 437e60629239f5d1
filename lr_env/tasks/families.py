"""Task families: distributions over tasks, with splits, to learn on some tasks and be judged on others.

    >>> from lr_env.tasks.families import find_family
    >>> family = find_family("MLPFamily")
    >>> task = family.sample(17)  # the same task on every machine
    >>> task.name, task.data, task.num_segments
    ('MLPFamily-17', 'digits', 50)
    >>> family.splits["test"]
    range(2000000, 3000000)

The seed of a task says which split the task belongs to. Tasks of "train", "val" and "test" follow one distribution;
those of "shifted" have data sets that the others never have, and networks of another kind, or larger ones. Sampling
reads no data: files are read, or downloaded, when a task is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lr_env import seeds
from lr_env.entry_points import find_with, names_with
from lr_env.errors import UserError, find
from lr_env.tasks.catalogue import Task
from lr_env.tasks.distributions import GPTs, LayeredCNNs, LayeredMLPs, Optimizers, ResNets, Tasks
from lr_env.tasks.draws import Draws

GROUP = "lr_env.families"
"""Entry points of task families: the name of a family -> the `TaskFamily`."""

SHIFTED = "shifted"
"""The split whose tasks follow another distribution."""


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over tasks.

    Attributes:
        name: name of the family.
        description: one line.
        splits: name of a split -> the seeds of its tasks. The ranges are disjoint; there is at least "train".
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (above)

    @property
    def description(self) -> str: ...  # noqa: D102

    @property
    def splits(self) -> Mapping[str, range]: ...  # noqa: D102

    def sample(self, seed: int) -> Task:
        """Return the task of a seed: the same one whenever and wherever it is asked for.

        Raises:
            UserError: the seed is in no split.
        """
        ...


@dataclass(frozen=True)
class Family:
    """A task family that draws each task from one of some distributions, with equal probability.

    Attributes:
        name: name of the family. The tasks follow from it: a family of another name has other tasks.
        description: one line.
        train: distributions of the splits "train", "val" and "test".
        shifted: distributions of the split "shifted".
    """

    name: str
    description: str
    train: tuple[Tasks, ...]
    shifted: tuple[Tasks, ...]

    @property
    def splits(self) -> Mapping[str, range]:
        """Name of each split -> the seeds of its tasks."""
        return seeds.TASK_SPLITS

    def sample(self, seed: int) -> Task:
        """Return the task of a seed, whose name is "<family>-<seed>".

        Raises:
            UserError: the seed is in no split.
        """
        split = split_of(self, seed)
        draws = Draws(self.name, int(seed))
        distribution = draws.choice(self.shifted if split == SHIFTED else self.train)
        return distribution.draw(f"{self.name}-{int(seed)}", draws)


def split_of(family: TaskFamily, seed: int) -> str:
    """Return the name of the split that a task's seed belongs to.

    >>> split_of(FAMILIES["MLPFamily"], 1_000_000)
    'val'

    Raises:
        UserError: it belongs to none.
    """
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        for split, of_split in family.splits.items():
            if int(seed) in of_split:
                return split
    ranges = ", ".join(f"{split} {own.start} to {own.stop - 1}" for split, own in family.splits.items())
    raise UserError(f"{seed!r} is no seed of a task of {family.name}: give one of {ranges}")


def split_seeds(family: TaskFamily, split: str) -> range:
    """Return the seeds of the tasks of a split.

    Raises:
        UserError: there is no such split.
    """
    return find(f"split of {family.name}", split, family.splits)


def find_family(name: str) -> TaskFamily:
    """Return the task family of that name: one of `FAMILIES`, or of a package.

    Another package declares it in the entry-point group `lr_env.families`.

    Raises:
        UserError: there is none, with a similar name if there is one; or what a package declares is no such family.
    """
    kind: type[Any] = TaskFamily  # a protocol
    return find_with(GROUP, "task family", name, FAMILIES, kind, "lr_env.tasks.families.TaskFamily")


def family_names() -> list[str]:
    """Return the names of all task families: those of lr_env, then those of other packages."""
    return names_with(GROUP, FAMILIES)


_ADAPTIVE = Optimizers(("adam", "adamw"))
"""Transformers hardly learn with SGD in so few steps."""

_MLPS = Tasks(("digits",), LayeredMLPs())
_CNNS = Tasks(("digits-8x8",), LayeredCNNs(), segment=(3, 10), batch_sizes=(16, 32, 64))
_RESNETS = Tasks(("digits-8x8",), ResNets(), segment=(3, 6), batch_sizes=(16, 32))
# 16 texts have 1,008 predictions, as many as 1,008 images; more would take longer than the training.
_GPTS = Tasks(
    ("digits-tokens",),
    GPTs(),
    _ADAPTIVE,
    segment=(3, 6),
    batch_sizes=(4, 8),
    val_subset=16,
    clip_norm=1.0,
    rate_scale=3.0,
)

_PLAIN_MLPS = LayeredMLPs((1, 5), activations=("relu",), norms=0, skips=0, dropout_share=0.5, dropout=(0.05, 0.6))
_PLAIN = Tasks(
    ("digits",),
    _PLAIN_MLPS,
    Optimizers(("momentum",), friction=(0.05, 1.0), decay_share=1.0),
    segment=(10, 10),
    fraction_share=0,
    noise_share=0,
    tuning_range=(0.003, 0.167),
)
"""The set of LCBench (Zimmer et al., arXiv 2006.13799) made small, with a width of its own for each layer."""

_FASHION: dict[str, Any] = {"data": ("fashion-mnist",), "fraction": (0.02, 1.0)}
_PLAYS: dict[str, Any] = {"data": ("tiny-shakespeare-64",), "fraction": (0.02, 1.0)}

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "MLPFamily",
            "MLPs of 1 to 7 layers on digits; shifted: 8 to 10 layers of up to 192 units on Fashion-MNIST",
            (_MLPS,),
            (replace(_MLPS, **_FASHION, networks=LayeredMLPs((8, 10), (64, 192))),),
        ),
        Family(
            "PlainMLPFamily",
            "ReLU MLPs of 1 to 5 layers with SGD for 500 steps on digits; shifted: 6 or 7 layers on Fashion-MNIST",
            (_PLAIN,),
            (replace(_PLAIN, **_FASHION, networks=replace(_PLAIN_MLPS, depth=(6, 7))),),
        ),
        Family(
            "CNNFamily",
            "convolutional networks with 1 to 3 convolutions on digits; shifted: with 4 or 5 on Fashion-MNIST",
            (_CNNS,),
            (
                replace(
                    _CNNS,
                    **_FASHION,
                    networks=LayeredCNNs((4, 5), (4, 8), kernels=(3,), pools=3),
                    segment=(3, 6),
                    batch_sizes=(16, 32),
                ),
            ),
        ),
        Family(
            "ResNetFamily",
            "ResNets of 1 or 2 stages on digits; shifted: of 3 stages on Fashion-MNIST",
            (_RESNETS,),
            (replace(_RESNETS, **_FASHION, networks=ResNets((3, 3), 3, stem_strides=(2,))),),
        ),
        Family(
            "GPTFamily",
            "transformers of 1 or 2 blocks on the grey levels of digits; shifted: of 3 blocks on Shakespeare's plays",
            (_GPTS,),
            (replace(_GPTS, **_PLAYS, networks=GPTs((3, 3))),),
        ),
        Family(
            "MixedFamily",
            "MLPs and convolutional networks on digits; shifted: ResNets on Fashion-MNIST, transformers on Shakespeare",
            (_MLPS, _CNNS),
            (replace(_RESNETS, **_FASHION, networks=ResNets(stem_strides=(2,))), replace(_GPTS, **_PLAYS)),
        ),
    )
}

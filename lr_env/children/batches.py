"""Batches of training examples, gathered on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lr_env.children.noise import bits
from lr_env.tasks.augment import Augment
from lr_env.tasks.data import Split

_PLACE = -1
"""The place of the augmentation among the users of a step's random numbers; layers have numbers from 0."""


@dataclass(frozen=True)
class Batches:
    """The training split, from which both engines take their batches.

    Attributes:
        split: the training examples.
        augment: the augmentation of their inputs, if there is one.
        burst_labels: labels that take the place of the others for a while, (examples, ...); None where there are none.
            A row number that is higher by the number of examples is of the same example with this label.
    """

    split: Split
    augment: Augment | None = None
    burst_labels: Tensor | None = None

    @cached_property
    def _labels(self) -> Tensor:
        labels = self.split.labels
        return labels if self.burst_labels is None else torch.cat([labels, self.burst_labels])

    def take(self, index: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gather one batch for each child.

        Args:
            index: row numbers of the training split, (children * batch,).
            keys: keys of the children's random numbers at this step, (children, 2) int32, or (2,) for one child; None
                where nothing is random.

        Returns:
            Inputs (children * batch, *input_shape) and labels (children * batch, ...).
        """
        # index_select is several times faster here than indexing with [].
        labels = self._labels.index_select(0, index)
        if self.burst_labels is not None:
            index = index % len(self.split)
        inputs = self.split.inputs.index_select(0, index)
        if self.augment is not None and keys is not None:
            children = len(keys) if keys.dim() == 2 else 1
            draws = bits(keys, len(index) // children * self.augment.draws, _PLACE)
            inputs = self.augment.apply(inputs, draws.view(len(index), self.augment.draws))
        return inputs, labels

"""Batches of training examples, gathered on the device."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    split: Split
    augment: Augment | None = None

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
        inputs, labels = self.split.inputs.index_select(0, index), self.split.labels.index_select(0, index)
        if self.augment is not None and keys is not None:
            children = len(keys) if keys.dim() == 2 else 1
            draws = bits(keys, len(index) // children * self.augment.draws, _PLACE)
            inputs = self.augment.apply(inputs, draws.view(len(index), self.augment.draws))
        return inputs, labels

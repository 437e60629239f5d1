"""The order of training examples, a function of the child's seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Separates the random stream of data orders from other uses of the same seed.
_STREAM = 0x0DA7A


class DataOrder:
    """The batches of N children.

    Every epoch is a new permutation of the training split; its last, incomplete batch is dropped. Since a batch
    follows from (seed, step), nothing needs to be saved but the step, and children at different steps mix freely.

    Args:
        num_examples: size of the training split.
        batch_size: examples a batch.
        seeds: one for each child.
    """

    def __init__(self, num_examples: int, batch_size: int, seeds: Sequence[int]) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.batches_per_epoch = num_examples // batch_size
        self.seeds = np.array(seeds, dtype=np.int64)
        self._epoch = np.full(len(self.seeds), -1)
        self._permutations = np.zeros((len(self.seeds), self.batches_per_epoch, batch_size), dtype=np.int32)

    def assign(self, rows: Sequence[int] | NDArray[np.int64], seeds: Sequence[int] | NDArray[np.int64]) -> None:
        """Give children new seeds."""
        self.seeds[rows] = seeds
        self._epoch[rows] = -1

    def batches(self, steps: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The next batches of every child.

        Args:
            steps: steps done by each child, (children,).
            count: number of batches.

        Returns:
            Row numbers of the training split, (children, count, batch_size).
        """
        out = np.empty((len(self.seeds), count, self.batch_size), dtype=np.int64)
        for row, step in enumerate(steps.tolist()):
            done = 0
            while done < count:
                epoch, first = divmod(step + done, self.batches_per_epoch)
                take = min(count - done, self.batches_per_epoch - first)
                out[row, done : done + take] = self._permutation(row, epoch)[first : first + take]
                done += take
        return out

    def _permutation(self, row: int, epoch: int) -> NDArray[np.int32]:
        if self._epoch[row] != epoch:
            generator = np.random.Generator(np.random.PCG64([_STREAM, int(self.seeds[row]), epoch]))
            order = generator.permutation(self.num_examples).astype(np.int32)
            used = self.batches_per_epoch * self.batch_size
            self._permutations[row] = order[:used].reshape(self.batches_per_epoch, self.batch_size)
            self._epoch[row] = epoch
        return self._permutations[row]

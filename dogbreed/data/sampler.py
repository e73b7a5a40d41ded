"""Which images make up which batch: a pure function of seed and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchSampler:
    """The batches of one process. They depend on these fields and the epoch alone, so an epoch resumes at any batch."""

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    world_size: int = 1
    labels: NDArray[np.int64] | None = None
    """int64 (num_images,): balances the classes; None: each image is sampled once per epoch."""

    @property
    def num_samples(self) -> int:
        """Images per epoch over all processes; with balanced classes rounded up to a multiple of their number."""
        if self.labels is None:
            return self.num_images
        num_classes = len(np.unique(self.labels))
        return math.ceil(self.num_images / max(1, num_classes)) * num_classes

    def __len__(self) -> int:
        """Returns the number of batches, which is the same for every process."""
        return math.ceil(self.num_samples / (self.batch_size * self.world_size))

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Returns this process's batches of an epoch in order, each int64 (B,) positions in the split.

        Every image is in exactly one batch of one process. With `labels`, images of small classes are repeated and each
        epoch samples a different part of large ones. The images that do not fill the last round of batches are spread
        over the last two rounds: from a batch size of 3 on, no batch has a single image, on which batch norm fails, and
        all processes have the same number of batches.
        """
        return self._own(self._order(epoch))

    def repeats(self, epoch: int) -> list[NDArray[np.int64]]:
        """Returns how often each image of `batches` was sampled earlier in the epoch, by any process, int64 (B,)."""
        return self._own(_num_earlier(self._order(epoch)))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, epoch))
        order = np.arange(self.num_images) if self.labels is None else _balanced(self.labels, self.num_samples, rng)
        if self.shuffle:
            rng.shuffle(order)
        return order

    def _own(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the parts of an epoch's `order` that are this process's batches."""
        bounds = np.cumsum([0, *self._sizes()])
        own = range(self.rank, len(bounds) - 1, self.world_size)
        return [order[bounds[batch] : bounds[batch + 1]] for batch in own]

    def _sizes(self) -> list[int]:
        """Returns the sizes of all processes' batches, round by round."""
        full_rounds = max(0, len(self) - 2)
        full = [self.batch_size] * (full_rounds * self.world_size)
        num_partial = (len(self) - full_rounds) * self.world_size
        if not num_partial:
            return full
        size, extra = divmod(self.num_samples - sum(full), num_partial)
        return full + [size + 1] * extra + [size] * (num_partial - extra)


def _balanced(labels: NDArray[np.int64], num_samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns `num_samples` positions, the same number for each class."""
    _, counts = np.unique(labels, return_counts=True)
    sampled = []
    for members in np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]):
        repeats, rest = divmod(num_samples // len(counts), len(members))
        sampled += [np.tile(members, repeats), rng.choice(members, rest, replace=False)]
    return np.concatenate(sampled)


def _num_earlier(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns, for each entry of `order`, how many entries before it are equal."""
    _, counts = np.unique(order, return_counts=True)
    earlier = np.empty_like(order)
    earlier[np.argsort(order, kind="stable")] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier

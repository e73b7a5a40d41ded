"""Batches of features in place of pictures: the same pictures in the same batches, for the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dogbreed.data.index import Split
from dogbreed.data.store import Store
from dogbreed.data.stream import Order, Parcel, PictureStream
from dogbreed.data.transforms import EvalTransform, PictureFormat
from dogbreed.features.files import Features


class FeatureStream(PictureStream):
    """Batches of the features of one split.

    Args:
        store: Where the pictures lie.
        split: Of which these are the features.
        order: Which make which batch.
        views: Features of the split's pictures, those of one view an epoch, in turn.
    """

    def __init__(self, store: Store, split: Split, order: Order, views: Sequence[Features]) -> None:
        super().__init__(store, split, order, EvalTransform(PictureFormat()), (0, 0))
        self.views = views

    def __iter__(self) -> Iterator[Parcel]:
        """Yields the batches; those of pictures that could not be read are smaller, as if they were read now."""
        epoch, start = self._start.tolist()
        view = self.views[epoch % len(self.views)]
        for batch in self.order.batches(epoch)[start:]:
            problems = [(row, view.problems[row]) for row in batch.tolist() if row in view.problems]
            good = [row for row in batch.tolist() if row not in view.problems] if problems else batch
            yield Parcel(
                torch.from_numpy(view.values[good]),  # float32 (B, D), a copy
                self.split.labels[good],
                np.asarray(good, dtype=np.int64),
                problems,
            )

"""Batches of features in place of pictures: the same pictures in the same batches, for the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dogbreed.data.index import Split
from dogbreed.data.store import Store
from dogbreed.data.stream import Order, Parcel, PictureStream, Problem
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
            problems = [Problem(row, view.problems[row]) for row in batch.tolist() if row in view.problems]
            good = batch[[row not in view.problems for row in batch.tolist()]] if problems else batch
            features = view.values.take(good, axis=0)  # float32 (B, D); takes half as long as to index does
            yield Parcel(torch.from_numpy(features), self.split.labels[good], good, problems)

"""Batches of features in place of images: the same images in the same batches, for the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dogbreed.data.dataset import BatchSampler, ImageStream, Problem, WorkerBatch
from dogbreed.data.index import Split
from dogbreed.data.transforms import EvalTransform, InputSpec
from dogbreed.features.store import Features
from dogbreed.storage.base import Store


class FeatureStream(ImageStream):
    """Batches of the features of one split.

    Args:
        store: Where the images lie.
        split: Of which these are the features.
        order: Which make which batch.
        views: Features of the split's images, those of one view an epoch, in turn.
    """

    def __init__(self, store: Store, split: Split, order: BatchSampler, views: Sequence[Features]) -> None:
        super().__init__(store, split, order, EvalTransform(InputSpec()), (0, 0))
        self.views = views

    def __iter__(self) -> Iterator[WorkerBatch]:
        """Yields the batches; those of images that could not be read are smaller, as if they were read now."""
        epoch, start = self._start.tolist()
        view = self.views[epoch % len(self.views)]
        for batch in self.order.batches(epoch)[start:]:
            problems = [Problem(row, view.problems[row]) for row in batch.tolist() if row in view.problems]
            good = batch[[row not in view.problems for row in batch.tolist()]] if problems else batch
            features = view.values.take(good, axis=0)  # float32 (B, D); takes half as long as to index does
            yield WorkerBatch(torch.from_numpy(features), self.split.labels[good], good, problems)

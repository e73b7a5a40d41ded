"""FeatureDataModule: batches of cached features in place of images, in the same order and of the same size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.dataset import ImageStream, SkippedImage, WorkerBatch
from dogbreed.data.index import Split
from dogbreed.data.loader import ImageLoader
from dogbreed.data.sampler import BatchSampler
from dogbreed.data.transforms import EvalTransform
from dogbreed.features.store import Features
from dogbreed.input_spec import InputSpec
from dogbreed.models.heads import FeatureBatch
from dogbreed.storage.base import Store


class FeatureStream(ImageStream):
    """Batches of the features of one split; repetition r in epoch e uses view e + r modulo the number of views."""

    def __init__(self, store: Store, split: Split, sampler: BatchSampler, views: Sequence[Features]) -> None:
        super().__init__(store, split, sampler, EvalTransform(InputSpec()))
        self.views = views

    def __iter__(self) -> Iterator[WorkerBatch]:
        """Yields the batches of the epoch; images that were unreadable are skipped and reported again."""
        epoch, start = self._start.tolist()
        batches = zip(self.sampler.batches(epoch)[start:], self.sampler.repeats(epoch)[start:], strict=True)
        for batch, repeats in batches:
            numbers = (epoch + repeats) % len(self.views)
            problems = [self.views[view].problems.get(row) for row, view in zip(batch, numbers, strict=True)]
            skipped = [
                SkippedImage(row, why) for row, why in zip(batch.tolist(), problems, strict=True) if why is not None
            ]
            is_good = np.array([why is None for why in problems], dtype=bool)
            good, numbers = batch[is_good], numbers[is_good]
            features = np.empty((len(good), self.views[0].values.shape[1]), dtype=np.float32)
            for view in np.unique(numbers):
                features[numbers == view] = self.views[view].values[good[numbers == view]]
            yield WorkerBatch(torch.from_numpy(features), self.split.labels[good], good, skipped)


class FeatureLoader(ImageLoader):
    """Batches of features, with the resumable position and the accounting of skipped images of `ImageLoader`."""

    def __iter__(self) -> Iterator[FeatureBatch]:  # type: ignore[override]
        """Yields the batches of one epoch; of a resumed epoch, the remaining ones."""
        for batch in super().__iter__():
            yield FeatureBatch(*batch)


class FeatureDataModule(pl.LightningDataModule):
    """Cached features of the images of a data module, as batches for the head of a classifier.

    All other attributes (`classes`, `keys`, `images`, `bad_images`, ...) are those of the images. Features belong to
    one backbone: train and test only the classifier that they were computed with.

    Args:
        data: The images.
        features: Features of each split, one entry per view, from `FeatureCache.load`.
    """

    def __init__(self, data: ImageDataModule, features: Mapping[str, Sequence[Features]]) -> None:
        super().__init__()
        self.data = data
        self.features = features
        self._train_loader: FeatureLoader | None = None
        self._resume: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the images."""
        if name == "data":  # not set yet: while unpickling
            raise AttributeError(name)
        return getattr(self.data, name)

    def setup(self, stage: str) -> None:
        """Attaches the images to the same trainer."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def _loader(self, split: str, *, shuffle: bool = False) -> FeatureLoader:
        data, trainer = self.data, self.trainer
        stream = FeatureStream(data.store, data.splits[split], data.batch_sampler(split, shuffle), self.features[split])
        return FeatureLoader(
            stream,
            num_workers=0,
            on_skipped=data.skip_image,
            max_bad=data.max_bad,
            fingerprint=data.fingerprint,
            epoch=partial(getattr, trainer, "current_epoch") if trainer else None,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> FeatureLoader:
        """Returns shuffled batches of train; of an epoch that is resumed, the remaining ones."""
        self._train_loader = self._loader("train", shuffle=True)
        if self._resume:
            self._train_loader.load_state_dict(self._resume)
        return self._train_loader

    def val_dataloader(self) -> FeatureLoader | list[FeatureLoader]:
        """Returns the batches of val; an empty list if val has no images."""
        return self._loader("val") if "val" in self.features else []

    def test_dataloader(self) -> FeatureLoader | list[FeatureLoader]:
        """Returns the batches of test; an empty list if test has no images."""
        return self._loader("test") if "test" in self.features else []

    def predict_dataloader(self) -> FeatureLoader | list[FeatureLoader]:
        """Returns the batches of test."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the epoch, and the skipped images."""
        train = self._train_loader.state_dict() if self._train_loader else None
        return {"train": train, "bad_images": dict(self.data.bad_images)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes at the position of a checkpoint."""
        self._resume = state_dict["train"]
        self.data.bad_images.update(state_dict["bad_images"])

    def teardown(self, stage: str) -> None:
        """Detaches the images from the trainer."""
        self._resume = None
        self.data.teardown(stage)
        self.data.trainer = None

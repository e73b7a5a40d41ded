"""ImageDataModule: images in class folders, streamed from a folder, S3 or a generator, as batches for a classifier.

data = ImageDataModule("s3://bucket/dogImages", batch_size=64)
model = ImageClassifier("mobilenetv2_100", data.classes)
data.input_spec = model.input_spec
trainer.fit(model, datamodule=data)
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dogbreed.data.augment import RandAugmentTransform, augment_batch
from dogbreed.data.dataset import ImageStream
from dogbreed.data.index import Split
from dogbreed.data.loader import Batch, ImageLoader
from dogbreed.data.sampler import BatchSampler
from dogbreed.data.settings import DataSettings
from dogbreed.data.shared_memory import TensorPool
from dogbreed.data.source import ImageSource
from dogbreed.data.transforms import EvalTransform, ThumbnailTransform, TrainTransform, Transform
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.storage.demo import DemoStore
from dogbreed.system.settings import check

_MIN_PASS_BATCH = 64
"""Smallest batch size of a pass over all images outside a training."""


class ImageDataModule(ImageSource, pl.LightningDataModule):
    """Images in class folders, as batches for a classifier.

    `url` contains `train/CLASS/*.jpg`, and likewise `valid` (or `val`, `validation`) and `test`; a missing split is
    made from train. With `CLASS/*.jpg` directly below `url`, both are. Images are streamed: nothing is downloaded
    first, and only the listing is kept in memory.

    Args:
        url: Folder path, `file://`, `s3://bucket/prefix` or `demo://?classes=8&train=60` (see `dogbreed.storage.demo`).
        input_spec: The model's image format, `model.input_spec`; may also be assigned before the first batch, because
            the model needs this module's `classes`. `InputSpec()` is ImageNet's.
        batch_size: Images per batch, in each process.
        image_size: Overrides height and width of `input_spec`, px; None: demo images keep the size they are drawn in,
            all others get the spec's.
        seed: Of order and augmentation.
        augment: Random crops and mirroring of training images.
        crop_area: Smallest fraction of an image's area that a random crop shows, up to 1.
        randaugment: Strength of two further random changes of each training image, 1 to 30; 0: none.
        randaugment_on: `worker`: each image separately, while loading; `device`: groups of eight on the model's device.
        balanced: Samples every class equally often in training (see `BatchSampler`).
        source: Arguments of `ImageSource`: server, cache, workers, unreadable images and generated splits. Those depend
            on `split_seed` instead of `seed`, so that runs with different seeds use the same test images.

    Raises:
        UserError: a setting is out of range; at first use also if the data cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        input_spec: InputSpec | None = None,
        batch_size: int = 32,
        image_size: int | None = DataSettings.image_size,
        seed: int = 0,
        augment: bool = DataSettings.augment,
        crop_area: float = DataSettings.crop_area,
        randaugment: int = DataSettings.randaugment,
        randaugment_on: str = DataSettings.randaugment_on,
        balanced: bool = DataSettings.balanced,
        **source: Any,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        given: dict[str, object] = {
            "batch_size": batch_size,
            "image_size": image_size,
            "seed": seed,
            "augment": augment,
        }
        given |= {"crop_area": crop_area, "randaugment": randaugment, "randaugment_on": randaugment_on}
        check(DataSettings, given | {"balanced": balanced}, "data.")
        if randaugment and not augment:
            raise UserError(f"data.randaugment={randaugment} needs data.augment=true")
        ImageSource.__init__(self, url, **source)
        self.batch_size = batch_size
        self.image_size = self.store.size if image_size is None and isinstance(self.store, DemoStore) else image_size
        self.seed = seed
        self.augment = augment
        self.crop_area = crop_area
        self.randaugment = randaugment
        self.randaugment_on = randaugment_on
        self.balanced = balanced
        self._input_spec = input_spec
        self._loaders: weakref.WeakSet[ImageLoader] = weakref.WeakSet()
        self._tensors = TensorPool()
        self._train_loader: ImageLoader | None = None
        self._resume: dict[str, Any] | None = None

    @property
    def input_spec(self) -> InputSpec:
        """The format of the images, with `image_size` applied.

        Raises:
            UserError: it was neither passed nor assigned.
        """
        if self._input_spec is None:
            raise UserError(
                "the data module does not know the model's image format: set data.input_spec = model.input_spec "
                "(or InputSpec(), ImageNet's, for a model without one)"
            )
        return self._input_spec.resized(self.image_size)

    @input_spec.setter
    def input_spec(self, spec: InputSpec) -> None:
        self._input_spec = spec

    def setup(self, stage: str) -> None:
        """Lists the images, so that errors in the data appear before training starts."""
        self.index  # noqa: B018

    def loader(
        self,
        split: str,
        *,
        shuffle: bool = False,
        augment: bool = False,
        view: int | None = None,
        input_spec: InputSpec | None = None,
    ) -> ImageLoader:
        """Returns the batches of images of a split.

        Args:
            split: `train`, `val` or `test`.
            shuffle: Uses another order in each epoch.
            augment: Random crops and mirroring.
            view: The epoch whose random crops are used, for all images and in any process; None: the trainer's epoch,
                and this process's share of the images.
            input_spec: Image format, with its size; None: this module's.

        Raises:
            UserError: unknown split, or a split with fewer images than there are processes.
        """
        sampler = self.batch_sampler(split, shuffle, shared=view is None)
        stream = self._stream(self.splits[split], sampler, input_spec or self.input_spec, augment)
        return self._load(stream, self.num_workers, view)

    def images(self, split: str, indices: Sequence[int], side: int) -> Batch:
        """Returns images of a split as the model sees them in evaluation, but small; unreadable ones are skipped.

        Args:
            split: `train`, `val` or `test`.
            indices: Positions in `keys(split)`.
            side: Height and width of the result, px.

        Returns:
            A batch with images uint8 (N, 3, side, side).
        """
        part = self.splits[split].take(np.asarray(indices, dtype=np.int64))
        sampler = BatchSampler(len(part), max(1, len(part)), shuffle=False, seed=0)
        transform = ThumbnailTransform(self.input_spec.resized(side))
        batch = next(iter(ImageStream(self.store, part, sampler, transform, cache=self.cache)))
        return Batch(batch.images, torch.from_numpy(batch.labels), torch.tensor(indices)[batch.indices])

    def _stream(self, part: Split, sampler: BatchSampler, spec: InputSpec, augment: bool = False) -> ImageStream:
        transform: Transform = TrainTransform(spec, self.crop_area) if augment else EvalTransform(spec)
        if augment and self.randaugment and self.randaugment_on == "worker":
            transform = RandAugmentTransform(spec, self.crop_area, magnitude=self.randaugment)
        return ImageStream(self.store, part, sampler, transform, cache=self.cache)

    def batch_sampler(self, split: str, shuffle: bool, shared: bool = True) -> BatchSampler:
        """Returns the sampler of a split: for this process's share of the images (`shared`), or for all of them."""
        num_images, trainer = len(self.keys(split)), self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer and shared else (0, 1)
        if 0 < num_images < world_size:
            raise UserError(f"{split} has {num_images} images for {world_size} processes; use fewer devices")
        batch_size = self.batch_size if shared else max(self.batch_size, _MIN_PASS_BATCH)
        labels = self.splits[split].labels if self.balanced and shuffle else None
        return BatchSampler(num_images, batch_size, shuffle, self.seed, rank, world_size, labels)

    def _load(self, stream: ImageStream, num_workers: int, view: int | None = None) -> ImageLoader:
        trainer = self.trainer
        # With overfit_batches, every epoch repeats the same images in the same crops.
        epoch = partial(_current_epoch, trainer) if trainer else None
        loader = ImageLoader(
            stream,
            num_workers,
            self.skip_image,
            max_bad=self.max_bad,
            fingerprint=self.fingerprint,
            epoch=epoch if view is None else partial(int, view),
            pin_memory=torch.cuda.is_available(),
        )
        self._loaders.add(loader)
        return loader

    def train_dataloader(self) -> ImageLoader:
        """Returns shuffled, augmented batches of train; the remaining ones of an epoch that is resumed."""
        self._train_loader = self.loader("train", shuffle=True, augment=self.augment)
        if self._resume:
            self._train_loader.load_state_dict(self._resume)
        return self._train_loader

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of val in key order; an empty list if val has no images."""
        return self.loader("val") if self.keys("val") else []

    def test_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of test in key order; an empty list if test has no images."""
        return self.loader("test") if self.keys("test") else []

    def predict_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of test."""
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Returns the batch on `device`; skips Lightning's search for tensors if that is the CPU."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Returns the batch with uint8 images as float32, normalised on their device."""
        if batch.images.dtype != torch.uint8:
            return batch
        pixels = batch.images
        if self.randaugment and self.randaugment_on == "device" and self.trainer and self.trainer.training:
            seed = f"{self.seed}/{self.trainer.current_epoch}"
            pixels = augment_batch(pixels, batch.indices, self.input_spec, self.randaugment, seed)
        images = self.normalise(pixels)
        if self.trainer is not None:
            # Lightning converts batches to the model's precision before this hook, when they were still uint8.
            images = self.trainer.precision_plugin.convert_input(images)
        return batch._replace(images=images)

    def normalise(self, images: torch.Tensor, input_spec: InputSpec | None = None) -> torch.Tensor:
        """Returns uint8 `images` (B, 3, H, W) as float32, normalised on their device."""
        return self._tensors.normalise(images, input_spec or self.input_spec)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings and the listing: loaders belong to this process."""
        return {name: value for name, value in vars(self).items() if name not in ("_loaders", "_train_loader")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _loaders=weakref.WeakSet(), _train_loader=None)

    def state_dict(self) -> dict[str, Any]:
        """Returns the training's position in its epoch and the skipped images, for a checkpoint."""
        train = self._train_loader.state_dict() if self._train_loader else None
        return {"train": train, "bad_images": dict(self.bad_images)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint.

        Lightning's fit loop also restores a loader's state, but too late if a model uses
        `trainer.estimated_stepping_batches`, which creates the loader before the loop's state is read.
        """
        self._resume = state_dict["train"]
        self.bad_images.update(state_dict["bad_images"])

    def teardown(self, stage: str) -> None:
        """Ends the worker processes."""
        self._resume = None
        for loader in self._loaders:
            loader.close()


def _current_epoch(trainer: pl.Trainer) -> int:
    return 0 if getattr(trainer, "overfit_batches", 0) else trainer.current_epoch

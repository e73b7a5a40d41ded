"""ImageDataModule: images in class folders, streamed from a folder, S3 or a generator, ready for a backbone.

data = ImageDataModule("s3://bucket/dogImages", batch_size=64)
data.classes, data.class_counts["train"]
trainer.fit(model, datamodule=data)
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch

from dogbreed.data.augment import STRONGEST, RandAugmentTransform, augment_batch
from dogbreed.data.dataset import BatchSampler, ImageStream
from dogbreed.data.index import Split
from dogbreed.data.loader import Batch, ImageLoader
from dogbreed.data.shared_memory import Buffers
from dogbreed.data.source import Source, check_at_least
from dogbreed.data.transforms import EvalTransform, InputSpec, ThumbnailTransform, TrainTransform, Transform
from dogbreed.errors import UserError
from dogbreed.storage.demo import DemoStore

log = logging.getLogger(__name__)

_PASS_BATCH = 64
"""Images a batch, at least, where the batches of a pass over all images are nobody's training."""


class ImageDataModule(Source, pl.LightningDataModule):
    """Images in class folders, as batches for a classifier.

    Under `url` lie `train/CLASS/*.jpg`, and `valid` (or `val`, `validation`) and `test` likewise; a split that is
    missing is made from train, and with `CLASS/*.jpg` directly below, both are. Images are streamed: nothing is
    downloaded first, and only the listing is kept.

    Args:
        url: Folder path, `file://`, `s3://bucket/prefix` or `demo://?classes=8&train=60` (see `dogbreed.storage.demo`).
        batch_size: Images a batch, in each process.
        image_size: Height and width of the images for the model, px; None: what the backbone was trained with, or
            the size in which demo images are drawn.
        seed: Of order and augmentation.
        augment: Random crops and mirroring in training.
        crop_area: Smallest part of an image's area that such a crop shows, up to 1.
        randaugment: Strength of two more random changes of each training image, 1 to 30; 0: none.
        randaugment_on: `worker`, each image for itself, or `device`, eight of a batch alike where the model is.
        balanced: Each class is shown equally often in training, whatever it has (see `Order`).
        data_config: As `timm.data.resolve_data_config` gives it; None: the model's `data_config`.
        source: What `Source` takes: server, cache, workers, what may be left out, and the splits that are made. Their
            seed is not `seed`, so that runs with other seeds see the same test images.

    Raises:
        UserError: a setting out of its range; at first use also what is wrong with the data.
    """

    def __init__(
        self,
        url: str,
        *,
        batch_size: int = 32,
        image_size: int | None = None,
        seed: int = 0,
        augment: bool = True,
        crop_area: float = 0.08,
        randaugment: int = 0,
        randaugment_on: Literal["worker", "device"] = "worker",
        balanced: bool = False,
        data_config: Mapping[str, Any] | None = None,
        **source: Any,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("image_size", image_size, 1)
        if not 0 < crop_area <= 1:
            raise UserError(f"data.crop_area={crop_area}: a part of the image, above 0 and up to 1")
        if not 0 <= randaugment <= STRONGEST or (randaugment and not augment):
            raise UserError(f"data.randaugment={randaugment}: from 0 to {STRONGEST}, and with data.augment=true alone")
        Source.__init__(self, url, **source)
        self.batch_size = batch_size
        self.image_size = self.store.size if image_size is None and isinstance(self.store, DemoStore) else image_size
        self.seed = seed
        self.augment = augment
        self.crop_area = crop_area
        self.randaugment = randaugment
        self.randaugment_on = randaugment_on
        self.balanced = balanced
        self._data_config = data_config
        self._input_spec: InputSpec | None = None
        self._loaders: weakref.WeakSet[ImageLoader] = weakref.WeakSet()
        self._buffers = Buffers()
        self._train_loader: ImageLoader | None = None
        self._resume: dict[str, Any] | None = None

    @property
    def input_spec(self) -> InputSpec:
        """Size, mean, std and interpolation: from `data_config`, else from the model in training, else ImageNet's."""
        if self._input_spec is not None:
            return self._input_spec
        config = self._data_config
        if config is None and self.trainer is not None:
            config = getattr(self.trainer.lightning_module, "data_config", None)
        if config is None:
            config = {"input_size": (3, 224, 224)}
        return InputSpec.from_data_config(config, self.image_size)

    @input_spec.setter
    def input_spec(self, spec: InputSpec) -> None:
        self._input_spec = spec

    def setup(self, stage: str) -> None:
        """Lists the images, so that whatever is wrong with the data is said before training starts."""
        self.index  # noqa: B018

    def loader(
        self, split: str, *, shuffle: bool = False, augment: bool = False, view: int | None = None
    ) -> ImageLoader:
        """Returns the batches of images of any split.

        Args:
            split: Which.
            shuffle: Another order in each epoch.
            augment: Random crops and mirroring.
            view: Epoch whose random crops are wanted: all images, whichever process asks; None: the trainer's epoch,
                and this process's share.

        Raises:
            UserError: there is no such split, or it has fewer images than there are processes.
        """
        order = self.batch_sampler(split, shuffle, shared=view is None)
        stream = self._stream(self.splits[split], order, self.input_spec, augment)
        return self._load(stream, self.num_workers, view)

    def images(self, split: str, indices: Sequence[int], side: int) -> Batch:
        """Returns single images of a split, uint8 (N, 3, side, side); unreadable ones left out.

        What is shown of them is what the model sees in evaluation.
        """
        part = self.splits[split].take(np.asarray(indices, dtype=np.int64))
        order = BatchSampler(len(part), max(1, len(part)), shuffle=False, seed=0)
        transform = ThumbnailTransform(replace(self.input_spec, height=side, width=side))
        found = next(iter(ImageStream(self.store, part, order, transform, (side, side), cache=self.cache)))
        return Batch(found.images, torch.from_numpy(found.labels), torch.tensor(indices)[found.indices])

    def _stream(self, part: Split, order: BatchSampler, target: InputSpec, augment: bool = False) -> ImageStream:
        transform: Transform = TrainTransform(target, self.crop_area) if augment else EvalTransform(target)
        if augment and self.randaugment and self.randaugment_on == "worker":
            transform = RandAugmentTransform(target, self.crop_area, magnitude=self.randaugment)
        return ImageStream(self.store, part, order, transform, (target.height, target.width), cache=self.cache)

    def batch_sampler(self, split: str, shuffle: bool, shared: bool = True) -> BatchSampler:
        """Returns the order of a split's batches; all of them, or those of this process (`shared`)."""
        num_images, trainer = len(self.keys(split)), self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer and shared else (0, 1)
        if 0 < num_images < world_size:
            raise UserError(f"{split} has {num_images} images for {world_size} processes; use fewer devices")
        batch_size = self.batch_size if shared else max(self.batch_size, _PASS_BATCH)
        labels = self.splits[split].labels if self.balanced and shuffle else None
        return BatchSampler(num_images, batch_size, shuffle, self.seed, rank, world_size, labels)

    def _load(self, stream: ImageStream, num_workers: int, view: int | None = None) -> ImageLoader:
        trainer = self.trainer
        # Overfitting a few batches takes the same images, in the same crops, each time.
        epoch = (lambda: 0 if getattr(trainer, "overfit_batches", 0) else trainer.current_epoch) if trainer else None
        loader = ImageLoader(
            stream,
            num_workers,
            self.leave_out,
            max_bad=self.max_bad,
            fingerprint=self.fingerprint,
            epoch=epoch if view is None else lambda: view,
            pin_memory=torch.cuda.is_available(),
        )
        self._loaders.add(loader)
        return loader

    def train_dataloader(self) -> ImageLoader:
        """Returns shuffled, augmented batches of train; of an epoch that is resumed, those that are left."""
        self._train_loader = self.loader("train", shuffle=True, augment=self.augment)
        if self._resume:
            self._train_loader.load_state_dict(self._resume)
        return self._train_loader

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of valid in their own order; nothing where valid has no images."""
        return self.loader("valid") if self.keys("valid") else []

    def test_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of test in their own order; nothing where test has no images."""
        return self.loader("test") if self.keys("test") else []

    def predict_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """Returns the batches of test."""
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Returns the batch on `device`. On the CPU it is already, and Lightning would look at each part of it."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Returns the batch with images uint8 as float32, normalised on their device to the backbone's mean and std."""
        if batch.images.dtype != torch.uint8:
            return batch
        pixels = batch.images
        if self.randaugment and self.randaugment_on == "device" and self.trainer and self.trainer.training:
            seed = f"{self.seed}/{self.trainer.current_epoch}"
            pixels = augment_batch(pixels, batch.indices, self.input_spec, self.randaugment, seed)
        images = self.normalised(pixels)
        if self.trainer is not None:
            # Lightning casts a batch to the model's own precision before this hook, when it still was uint8.
            images = self.trainer.precision_plugin.convert_input(images)
        return batch._replace(images=images)

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Returns uint8 `images` (B, 3, H, W) as float32, normalised on their device."""
        return self._buffers.normalised(images, self.input_spec)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: where training stands in its epoch, and the images that were left out."""
        train = self._train_loader.state_dict() if self._train_loader else None
        return {"train": train, "bad_images": dict(self.bad_images)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint.

        Lightning's fit loop restores a loader's state too, but not where a model asks for
        `trainer.estimated_stepping_batches`: the loader is then made before the loop's state is read.
        """
        self._resume = state_dict["train"]
        self.bad_images.update(state_dict["bad_images"])

    def teardown(self, stage: str) -> None:
        """Ends the worker processes."""
        self._resume = None
        for loader in self._loaders:
            loader.close()

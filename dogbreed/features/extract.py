"""The pass of a frozen backbone over the images."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.loader import ImageLoader
from dogbreed.features.runtime import SAMPLE, Form, fastest, trunk
from dogbreed.features.store import FeatureFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Features of one split, as the training shows them in one epoch."""

    name: str
    split: str
    view: int | None
    """Epoch whose random crops these are of; None: images as they are evaluated."""
    sides: tuple[bool, ...] = (False,)
    """Whether mirrored, of each side of the image whose mean this is: for `tta`, of both."""


class Computer:
    """Runs the backbone over parts of the data.

    Args:
        trainer: Whose device and precision are used.
        data: The images.
        net: The network.
        num_images: How many there are to do.
        threads: One for each processor.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        data: ImageDataModule,
        net: nn.Module,
        num_images: int,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.data = data
        self.device = trainer.strategy.root_device
        self.context = trainer.precision_plugin.forward_context
        self.trunk = trunk(net).to(self.device)
        self.num_images = num_images
        self.threads = threads
        self._form: Form | None = None

    def compute(self, part: Part, files: FeatureFiles, about: dict[str, Any]) -> None:
        """Writes the features of `part`; where images could not be had `files` know them, but keep nothing.

        Raises:
            UserError: too many images, or not one, could be read; or the disk is full.
        """
        num_images = len(self.data.splits[part.split])
        problems: dict[str, str] = {}
        log.info("computing the features of %d images: %s", num_images, part.name)
        loader = self.data.loader(part.split, augment=part.view is not None, view=part.view or 0)
        shape = (num_images, self._width(loader))
        with files.writing(part.name, shape, {**about, "problems": problems}) as values:
            missing = set(range(num_images))
            for batch in loader:
                rows = batch.indices.numpy()
                images = self.data.normalised(batch.images.to(self.device))
                if self._form is None:
                    self._form = fastest(self.trunk, images[:SAMPLE], self.context, self.num_images, self.threads)
                sides = [images.flip(-1) if mirrored else images for mirrored in part.sides]
                features = torch.stack([self._form(side).float() for side in sides]).mean(dim=0)
                values[rows] = features.cpu().numpy()
                missing.difference_update(rows.tolist())
            keys = self.data.keys(part.split)
            problems |= {str(row): self.data.bad_images[keys[row]] for row in sorted(missing)}
            if loader.num_unreachable:
                log.warning("features of %s are not kept: some images could not be had", part.name)
                files.use_once(part.name, values, problems)
        loader.close()

    def _width(self, loader: ImageLoader) -> int:
        size = loader.stream.size
        with torch.inference_mode():
            return int(self.trunk(torch.zeros(1, 3, *size, device=self.device)).shape[1])
